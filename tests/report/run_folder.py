"""A run folder as a training leaves it, made up."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from PIL import Image

from maskwell import runs


def write_run(
    folder: Path,
    *,
    overrides: tuple[str, ...] = (),
    config: dict[str, Any] | None = None,
    trained: dict[str, float] | None = None,
    incidents: tuple[dict[str, Any], ...] = (),
    steps: int = 300,
) -> Path:
    """``config`` goes on top of a small one; ``trained`` are the figures of its test split."""
    plain = {
        "model": {"_target_": "maskwell.models.detr.module.Detr"},
        "optim": {"lr": 1e-4},
        "seed": 0,
        "paths": {"run_dir": str(folder), "runs": "runs"},
    }
    folder.mkdir(parents=True)
    cfg = OmegaConf.merge(plain, config or {})
    runs.save(folder, cfg, runs.Origin(overrides, {"model": "detr", "data": "coco"}))
    rows = ["step,train/batch_loss,train/grad_norm,train/epoch,val/map,val/ap/red,val/ap/blue"]
    for step in range(steps):
        loss = "nan" if step == 40 else f"{3 * math.exp(-step / 90) + 0.5:.5f}"
        evaluated = f"{step / 600:.4f},0.2,0.7" if step % 100 == 99 else ",,"
        rows.append(f"{step},{loss},{1 + step % 7},{step // 100},{evaluated}")
    (folder / "metrics.csv").write_text("\n".join(rows) + "\n")
    health = {"format": 1, "verdict": "look at" if incidents else "healthy", "incidents": list(incidents)}
    (folder / "health.json").write_text(json.dumps(health))
    if trained is not None:
        results = {"split": "test", "images": 9, "base": {"map": 0.1}, "trained": trained, "iteration": steps}
        (folder / "results.json").write_text(json.dumps(results))
    (folder / "panels").mkdir()
    for name in ("base", "iter_000100", "iter_000300"):
        Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(folder / "panels" / f"{name}.png")
    return folder


def incident(step: int, cause: str, *, rule: str = "rising", subject: str = "") -> dict[str, Any]:
    """One warning, as health.json has it."""
    finding = {
        "rule": rule,
        "severity": "warn",
        "step": step,
        "cause": cause,
        "evidence": {"loss": 2.5, "odd": "nan"},
        "remedies": ["optim.lr=1e-5"],
        "subject": subject,
        "depth": 1,
    }
    return {
        "first_step": step,
        "last_step": step + 50,
        "severity": "warn",
        "cause": cause,
        "findings": [finding],
    }
