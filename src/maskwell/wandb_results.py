"""What W&B keeps of a run beside its curves: configuration, verdict, best checkpoint and report."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from maskwell import runs

FILES = ("checkpoints/best.ckpt", "report.html", "results.json", "health.json", "config.yaml")
"""Of the run folder; those that are there become the artifact."""


def log(folder: Path) -> bool:
    """Add the results in ``folder`` to the W&B run that is open; False where none is.

    An offline run gets them too: ``wandb sync`` uploads them. A run whose verdict is not "healthy" raises
    an alert, which W&B sends as its user has chosen.
    """
    wandb: Any = sys.modules.get("wandb")  # imported only where logger=wandb was chosen
    run = None if wandb is None else wandb.run
    if run is None:
        return False
    config = OmegaConf.to_container(runs.load(folder)[0], resolve=True)
    run.config.update(config, allow_val_change=True)
    health = folder / "health.json"
    found = json.loads(health.read_text(encoding="utf-8")) if health.is_file() else {}
    if verdict := found.get("verdict"):
        run.summary["health"] = verdict
        if verdict != "healthy":
            causes = [incident["cause"] for incident in found["incidents"]]
            run.alert(title=f"{folder.name}: {verdict}", text="; ".join(causes))
    artifact = wandb.Artifact(f"run-{run.id}", type="model", metadata={"health": verdict})
    for name in FILES:
        if (folder / name).is_file():
            artifact.add_file(str(folder / name), name=name)
    run.log_artifact(artifact)
    return True
