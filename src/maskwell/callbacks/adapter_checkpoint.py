"""Keeps the adapter of the best checkpoint as a plain peft folder beside the checkpoints."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint


class AdapterCheckpoint(Checkpoint):
    """Writes ``<run>/adapter/`` whenever the best checkpoint changes; nothing for tasks without adapters.

    The folder is what ``peft.PeftModel.from_pretrained`` loads. It is written under another name and
    renamed, so that a reader never sees half of it. Being a Checkpoint, it stays behind the
    ModelCheckpoint that is listed before it, whose best score it reads.

    Args:
        folder: where the adapter goes.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self._best: float | None = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write_if_better(trainer, pl_module)

    def _write_if_better(self, trainer: Trainer, pl_module: LightningModule) -> None:
        save = getattr(pl_module, "save_adapter", None)
        if save is None or not trainer.is_global_zero or trainer.sanity_checking:
            return
        best = _best_score(trainer)
        if best is None or best == self._best:
            return
        fresh = self.folder.with_name(self.folder.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        if save(fresh):
            shutil.rmtree(self.folder, ignore_errors=True)
            fresh.replace(self.folder)
        self._best = best

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._best = state_dict["best"]


def _best_score(trainer: Trainer) -> float | None:
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.best_model_score is not None:
            return float(callback.best_model_score)
    return None
