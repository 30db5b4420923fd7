"""Stops a training that no longer improves, or whose numbers are no longer finite."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any, Literal

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from torch import Tensor

from maskwell.callbacks.clock import iteration
from maskwell.errors import UserError, nearest

PATIENCE = {"validations": 10, "iterations": 10_000}
"""Where none is given."""


class EarlyStopping(LightningEarlyStopping):
    """Lightning's EarlyStopping, with patience in iterations, the task's own metric and a watch on the loss.

    Args:
        monitor: logged name to watch; None takes the task's own ``monitor`` and ``mode``.
        mode: "min" or "max".
        patience: how long without improvement, in ``unit``; None: see :data:`PATIENCE`.
        unit: "validations", or "iterations" of the task; None: iterations where the task's run is
            counted in them.
        min_delta: a smaller change counts as none.
        target: a value of the metric that is good enough to stop at; None: there is none.
        nonfinite_steps: so many training losses in a row that are not finite stop the run (the step
            of a single one is skipped by :class:`~maskwell.callbacks.grad_clip.GradClip`).
        every_n_steps: the losses wait on the device and are looked at this often.
    """

    def __init__(
        self,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "max",
        patience: int | None = None,
        unit: Literal["validations", "iterations"] | None = None,
        min_delta: float = 0.0,
        target: float | None = None,
        nonfinite_steps: int = 2,
        every_n_steps: int = 16,
    ) -> None:
        if patience is not None and patience < 1:
            raise UserError(f"callbacks.early_stopping.patience is {patience}: give at least 1.")
        if unit is not None and unit not in PATIENCE:
            raise UserError(f"callbacks.early_stopping.unit is '{unit}': use validations or iterations.")
        if mode not in ("min", "max"):
            raise UserError(f"callbacks.early_stopping.mode is '{mode}': use min or max.")
        super().__init__(monitor or "", check_on_train_epoch_end=False)
        self._wanted_patience, self._wanted_unit = patience, unit
        self.iterations: int | None = None
        self._wait_for(False)
        self.target = target
        self.nonfinite_steps = nonfinite_steps
        self.every_n_steps = every_n_steps
        self._delta = min_delta
        self._now = 0
        self._best_at = 0
        self._watch(self.monitor, mode)
        self._losses: list[Tensor] = []  # not looked at yet
        self._in_a_row = self._longest = 0

    @property
    def stop_reason(self) -> str | None:
        """Why this callback stopped the run, in words; None while it has not."""
        return self.stopping_reason_message

    def _watch(self, monitor: str, mode: Literal["min", "max"]) -> None:
        self.monitor, self.mode = monitor, mode
        sign = 1.0 if mode == "max" else -1.0
        self.min_delta = sign * self._delta
        self.best_score = torch.tensor(-sign * torch.inf)

    def _wait_for(self, counts_iterations: bool) -> None:
        unit = self._wanted_unit or ("iterations" if counts_iterations else "validations")
        patience = PATIENCE[unit] if self._wanted_patience is None else self._wanted_patience
        self.iterations = patience if unit == "iterations" else None
        # where iterations decide, the count of validations must never be the reason
        self.patience = patience if unit == "validations" else sys.maxsize

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._wait_for(bool(getattr(pl_module, "iterations", None)))
        if stage == "fit" and not self.monitor:
            if not hasattr(pl_module, "monitor"):
                raise UserError(
                    "callbacks.early_stopping.monitor is not set, and this module names no metric of its own."
                )
            self._watch(str(pl_module.monitor), pl_module.mode)  # type: ignore[arg-type]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._losses, self._in_a_row, self._longest = [], 0, 0
        self.stopping_reason, self.stopping_reason_message = EarlyStoppingReason.NOT_STOPPED, None
        if not self._best_at:
            self._best_at = iteration(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor):
            self._losses.append(loss.detach().mean())
        # a run that stops between two optimiser steps could not go on exactly
        if (batch_idx + 1) % math.lcm(self.every_n_steps, trainer.accumulate_grad_batches) == 0:
            self._check_losses(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check_losses(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._now = iteration(trainer, pl_module)
        if self.stop_reason is None:
            super().on_validation_end(trainer, pl_module)

    def _check_losses(self, trainer: Trainer) -> None:
        losses, self._losses = self._losses, []
        for good in torch.isfinite(torch.stack(losses)).tolist() if losses else ():
            self._in_a_row = 0 if good else self._in_a_row + 1
            self._longest = max(self._longest, self._in_a_row)
        if _goes_back(trainer):  # bad batches are then left out when they come again
            return
        stop = trainer.strategy.reduce_boolean_decision(self._longest >= self.nonfinite_steps, all=False)
        if stop and self.stopping_reason_message is None:
            self.stopping_reason = EarlyStoppingReason.NON_FINITE_METRIC
            self.stopping_reason_message = f"the training loss was not finite {self._longest} times in a row"
            self.stopped_epoch = trainer.current_epoch
            trainer.should_stop = True
            self._log_info(trainer, self.stopping_reason_message, True)

    def _evaluate_stopping_criteria(self, current: Tensor) -> tuple[bool, str | None]:
        before = self.wait_count
        stop, reason = super()._evaluate_stopping_criteria(current)
        if self.wait_count <= before and not stop:
            self._best_at = self._now
        waited = self._now - self._best_at
        if self.stopping_reason is EarlyStoppingReason.NON_FINITE_METRIC:
            reason = f"{self.monitor} is {current.item()}"
        elif stop:
            reason = (
                f"{self.monitor} has not improved on {self.best_score:.4g} for {self.wait_count} validations"
            )
        elif self.iterations is not None and waited >= self.iterations:
            stop, self.stopping_reason = True, EarlyStoppingReason.PATIENCE_EXHAUSTED
            reason = f"{self.monitor} has not improved on {self.best_score:.4g} for {waited} iterations"
        elif self._reached(float(current)):
            stop, self.stopping_reason = True, EarlyStoppingReason.STOPPING_THRESHOLD
            reason = f"{self.monitor} is {current.item():.4g}, the target is {self.target:g}"
        if stop:
            self.verbose = True  # the reason is told; improvements are not, the progress shows them
        return stop, reason

    def _reached(self, current: float) -> bool:
        if self.target is None:
            return False
        return current >= self.target if self.mode == "max" else current <= self.target

    def _validate_condition_metric(self, logs: dict[str, Tensor]) -> bool:
        if self.monitor not in logs:
            known = sorted(logs)
            raise UserError(
                f"callbacks.early_stopping.monitor is '{self.monitor}', which nothing logs (there are: "
                f"{', '.join(known)}).{nearest(self.monitor, known)}"
            )
        return True

    @staticmethod
    def _log_info(trainer: Trainer, message: str, log_rank_zero_only: bool) -> None:
        if trainer.is_global_zero:
            print(f"stopping early: {message}")

    def state_dict(self) -> dict[str, Any]:
        return {"wait_count": self.wait_count, "best_score": self.best_score, "best_at": self._best_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Patience and the reason are not restored: a longer patience is why one resumes a stopped run."""
        self.wait_count = state_dict["wait_count"]
        self.best_score = state_dict["best_score"]
        self._best_at = state_dict["best_at"]


def _goes_back(trainer: Trainer) -> bool:
    """Whether a monitor is among the callbacks that answers non-finite losses by going back."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return any(getattr(getattr(c, "recovery", None), "armed", False) for c in callbacks)
