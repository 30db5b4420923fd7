"""best.ckpt, last.ckpt and, of long runs, iter_<n>.ckpt."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from maskwell.callbacks.clock import iteration
from maskwell.errors import UserError


class RunCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint with the task's own metric, and a ``last.ckpt`` at every validation.

    ``save_last`` of the base writes only where a new best is written, so that a resumed run would go
    back to the best epoch.

    Args:
        folder: where both files go.
        monitor: metric that tells the best; None takes the task's own ``monitor`` and ``mode``.
        mode: "min" or "max".
        every_iterations: a checkpoint that stays, ``iter_<n>.ckpt``, so often, of tasks whose run is
            counted in iterations; None: never.
    """

    def __init__(
        self,
        folder: str,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "max",
        every_iterations: int | None = None,
    ) -> None:
        if every_iterations is not None and every_iterations < 1:
            raise UserError(
                f"callbacks.checkpoint.every_iterations is {every_iterations}: give at least 1, or null."
            )
        if mode not in ("min", "max"):
            raise UserError(f"callbacks.checkpoint.mode is '{mode}': use min or max.")
        super().__init__(
            dirpath=folder,
            filename="best",
            monitor=monitor,
            mode=mode,
            save_last=False,
            auto_insert_metric_name=False,
            enable_version_counter=False,
            save_on_train_epoch_end=False,
        )
        self.every_iterations = every_iterations
        self._last_step = -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.monitor is None:
            self.monitor = str(pl_module.monitor)
            self.mode = str(pl_module.mode)
            self.kth_value = torch.tensor(torch.inf if self.mode == "min" else -torch.inf)
        super().setup(trainer, pl_module, stage)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self._save_periodic(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._should_skip_saving_checkpoint(trainer):
            return
        super().on_validation_end(trainer, pl_module)
        self._save_periodic(trainer, pl_module)  # again: what resumes from it is past this validation
        self._save_last(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A run that ends between two validations keeps what it learnt since."""
        if self._last_step != trainer.global_step:
            self._save_last(trainer)

    def _save_periodic(self, trainer: Trainer, module: LightningModule) -> None:
        if self.every_iterations is None or not getattr(module, "iterations", None):
            return
        now = iteration(trainer, module)
        if now % self.every_iterations == 0:
            # not by _save_checkpoint: a validation at this step would then take its work for done
            trainer.save_checkpoint(Path(self.dirpath or ".") / f"iter_{now:06d}.ckpt")

    def _save_last(self, trainer: Trainer) -> None:
        # named before it is written: the name is part of the state
        self.last_model_path = str(Path(self.dirpath or ".") / "last.ckpt")
        self._last_step = trainer.global_step
        self._save_checkpoint(trainer, self.last_model_path)
        if _failed(trainer):
            self._last_step = -1  # tried again at the end

    def _save_topk_checkpoint(self, trainer: Trainer, monitor_candidates: dict[str, torch.Tensor]) -> None:
        """A best model that could not be written is not the best: a later one must not be held against it."""
        before = copy.deepcopy(self.state_dict())
        super()._save_topk_checkpoint(trainer, monitor_candidates)
        if _failed(trainer):
            super().load_state_dict(before)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The best score goes on to count where the run folder was moved or copied."""
        names = ("best_model_path", "kth_best_model_path", "last_model_path")
        here = {name: self._here(state_dict[name]) for name in names if state_dict.get(name)}
        best = {self._here(path): score for path, score in state_dict.get("best_k_models", {}).items()}
        super().load_state_dict({**state_dict, "dirpath": self.dirpath, "best_k_models": best, **here})

    def _here(self, path: str) -> str:
        return str(Path(self.dirpath or ".") / Path(path).name)


def _failed(trainer: Trainer) -> bool:
    """Whether the first rank could not write the last checkpoint; all ranks are told."""
    failure = getattr(trainer.strategy.checkpoint_io, "failure", None)
    return bool(trainer.strategy.broadcast(failure is not None))
