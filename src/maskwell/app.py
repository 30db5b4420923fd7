"""The verbs as plain functions over the composed configuration."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import lightning
from omegaconf import DictConfig

from maskwell import build, runs


def train(cfg: DictConfig, overrides: list[str]) -> None:
    """Train, keep the best and the last checkpoint, evaluate."""
    lightning.seed_everything(cfg.seed, workers=True, verbose=False)
    task = build.task(cfg)
    cfg.paths.run_dir = str(runs.create(Path(cfg.paths.runs), task.family, datetime.now()))
    data = build.datamodule(cfg, task)
    trainer = build.trainer(cfg, callbacks=build.callbacks(cfg), logger=build.loggers(cfg))
    trainer.fit(task, datamodule=data)
