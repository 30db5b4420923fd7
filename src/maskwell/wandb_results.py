"""What W&B keeps of a run beside its curves: verdict, cases, best checkpoint and report."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

FILES = ("checkpoints/best.ckpt", "report.html", "results.json", "health.json", "config.yaml")
"""Of the run folder; those that are there become the artifact."""


def log(folder: Path) -> bool:
    """Add the results in ``folder`` to the W&B run that is open; False where none is.

    An offline run gets them too, and the command that uploads it is printed. A run whose verdict is not
    "healthy" raises an alert, which W&B sends as its user has chosen.
    """
    wandb: Any = sys.modules.get("wandb")  # imported only where logger=wandb was chosen
    run = None if wandb is None else wandb.run
    if run is None:
        return False
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
    if cases := _cases(wandb, folder / "cases"):
        run.log(cases)
    if run.offline:
        from maskwell.callbacks.wandb_logger import upload

        print(f"{'W&B:':<12}offline; {upload(folder)} uploads it")
    return True


def _cases(wandb: Any, folder: Path) -> dict[str, Any]:
    """The picture of worst, typical and best images, and the table of all scores; what is there of them."""
    found: dict[str, Any] = {}
    if (picture := folder / "cases.png").is_file():
        found["cases"] = wandb.Image(str(picture))
    if (scores := folder / "images.csv").is_file():
        with scores.open(newline="", encoding="utf-8") as file:
            columns, *rows = csv.reader(file)
        table = [[name, *map(_cell, others)] for name, *others in rows]
        found["images"] = wandb.Table(columns=columns, data=table)
    return found


def _cell(text: str) -> float | str | None:
    try:
        return float(text) if text else None
    except ValueError:
        return text
