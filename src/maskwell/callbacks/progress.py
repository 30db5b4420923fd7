"""A plan at the start, then a progress bar, or a line now and then where there is no terminal."""

from __future__ import annotations

import math
import time
from datetime import datetime, timedelta
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Column

from maskwell.callbacks.plan import Plan, duration


class TrainingProgress(Callback):
    """Shows plan, speed, loss, learning rate and the task's key metric while a model trains.

    On a terminal one bar for the whole run and a second one while it is evaluated; elsewhere a line
    every ``every_seconds`` and one per validation. After ``measure`` iterations it says once how long
    an iteration, an epoch and the run will take.

    Args:
        every_seconds: seconds between lines where there is no terminal.
        measure: iterations that are timed for the forecast (the first one is left out).
    """

    def __init__(self, every_seconds: float = 30.0, measure: int = 10) -> None:
        super().__init__()
        self.every_seconds = every_seconds
        self.measure = measure
        self.plan: Plan | None = None
        self.seconds_per_iteration: float | None = None
        self.seconds_per_validation = 0.0
        self._bar: Progress | None = None
        self._training: TaskID | None = None
        self._evaluating: TaskID | None = None
        self._done = 0
        self._seen = 0
        self._timed_from = 0.0
        self._shown = 0.0
        self._evaluation_start = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        self.plan = Plan.of(trainer, pl_module)
        print(self.plan.text())
        counts = _object_counts(getattr(trainer, "datamodule", None))
        if counts:
            print(counts)
        self._done = trainer.fit_loop.epoch_loop.total_batch_idx + 1
        self._seen = 0
        self._shown = time.monotonic()
        self._open()
        if self._bar is not None:
            self._training = self._bar.add_task(
                "training", total=self.plan.total, completed=self._done, text=""
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.plan is None:
            return
        now = time.monotonic()
        self._done += 1
        self._seen += 1
        if self._seen == 1:
            self._timed_from = now  # the first iteration warms caches and workers up: not timed
        elif self._seen == self.measure + 1:
            self.seconds_per_iteration = (now - self._timed_from) / self.measure
            print(self._forecast())
        if now - self._shown >= (0.5 if self._bar is not None else self.every_seconds):
            self._shown = now
            self._show(self._figures(trainer, outputs))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start_evaluation(trainer, "validation", trainer.num_val_batches)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._advance_evaluation(trainer, "validation", trainer.num_val_batches)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end_evaluation(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start_evaluation(trainer, "test", trainer.num_test_batches)

    def on_test_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._advance_evaluation(trainer, "test", trainer.num_test_batches)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end_evaluation(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close()

    def _open(self) -> None:
        console = Console()
        if console.is_terminal and self._bar is None:
            self._bar = Progress(
                TextColumn("{task.description}"),
                MofNCompleteColumn(table_column=Column(no_wrap=True)),
                BarColumn(bar_width=20),
                TextColumn("{task.fields[text]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
                console=console,
                refresh_per_second=4,
            )
            self._bar.start()

    def _close(self) -> None:
        if self._bar is not None:
            if self._training is not None:
                self._bar.update(self._training, completed=self._done)
            self._bar.stop()
        self._bar = self._training = self._evaluating = self.plan = None

    def _show(self, figures: str) -> None:
        if self._bar is not None and self._training is not None:
            self._bar.update(self._training, completed=self._done, text=figures)
        elif self.plan is not None:
            total = f"/{self.plan.total:,}" if self.plan.total is not None else ""
            print(f"iteration {self._done:,}{total}  {figures}")

    def _start_evaluation(self, trainer: Trainer, what: str, batches: list[int | float]) -> None:
        if not trainer.is_global_zero:
            return
        self._evaluation_start = time.monotonic()
        self._open()
        if self._bar is not None:
            total = sum(batches)
            self._evaluating = self._bar.add_task(what, total=None if total == math.inf else total, text="")

    def _advance_evaluation(self, trainer: Trainer, what: str, batches: list[int | float]) -> None:
        now = time.monotonic()
        if self._bar is not None and self._evaluating is not None:
            self._bar.advance(self._evaluating)
        elif trainer.is_global_zero and now - max(self._shown, self._evaluation_start) >= self.every_seconds:
            self._shown = now
            print(f"{what}: {duration(now - self._evaluation_start)}, {sum(batches):,} batches in all")

    def _end_evaluation(self, trainer: Trainer) -> None:
        now = time.monotonic()
        if self._bar is not None and self._evaluating is not None:
            self._bar.remove_task(self._evaluating)
            self._evaluating = None
        if self.plan is None:
            self._close()
        elif not trainer.sanity_checking:
            self.seconds_per_validation = now - self._evaluation_start
            self._timed_from += self.seconds_per_validation  # does not count where iterations are being timed
            self._shown = now
            self._show(self._figures(trainer, None))

    def _figures(self, trainer: Trainer, outputs: Any) -> str:
        """Epoch, loss, rate, the key metric and the time that is left."""
        logged = trainer.callback_metrics
        returned = outputs.get("loss") if isinstance(outputs, dict) else None
        loss = logged.get("train/batch_loss", returned)
        entries = [f"epoch {trainer.current_epoch + 1}"]
        if isinstance(loss, torch.Tensor):
            entries.append(f"loss {loss.item():.4g}")
        if trainer.optimizers:
            entries.append(f"lr {trainer.optimizers[0].param_groups[0]['lr']:.2g}")
        metric = getattr(trainer.lightning_module, "monitor", "val/loss")
        if metric in logged:
            entries.append(f"{metric} {logged[metric].item():.4g}")
        left = self._seconds_left()
        if left is not None:
            entries.append(f"{duration(left)} left")
        return "  ".join(entries)

    def _seconds_left(self) -> float | None:
        plan = self.plan
        if plan is None or plan.total is None or self.seconds_per_iteration is None:
            return None
        batches = max(0, plan.total - self._done)
        validations = batches / plan.batches * self.seconds_per_validation
        return batches * self.seconds_per_iteration + validations

    def _forecast(self) -> str:
        assert self.plan is not None and self.seconds_per_iteration is not None
        text = f"time: {self.seconds_per_iteration:.3g} s per iteration"
        if self.plan.batches < math.inf:
            text += f", {duration(self.seconds_per_iteration * self.plan.batches)} per epoch"
        left = self._seconds_left()
        if left is not None and self.plan.total is not None:
            whole = duration(self.seconds_per_iteration * self.plan.total)
            end = datetime.now() + timedelta(seconds=left)
            text += f", {whole} in all without validation, done about {end:%H:%M}"
        return text


def _object_counts(datamodule: Any) -> str:
    """What the data module's ``summary()`` tells: labelled images, or objects of the first samples."""
    summary = getattr(datamodule, "summary", None)
    if summary is None:
        return ""
    facts = summary()
    if facts.labelled is not None:
        unlabelled = f", {facts.unlabelled:,} unlabelled ones" if facts.unlabelled else ""
        return f"      {facts.labelled:,} labelled images{unlabelled}"
    samples = ", ".join(str(n) for n in facts.first_samples[:8])
    batches = ", ".join(str(n) for n in facts.first_batches)
    rehearsal = (
        f"\n      rehearsal: {facts.rehearsal} generated scenes beside each batch" if facts.rehearsal else ""
    )
    return f"      objects in the first samples: {samples}; in the first batches: {batches}{rehearsal}"
