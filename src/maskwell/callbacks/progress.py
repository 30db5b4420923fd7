"""A plan at the start, then a progress bar, or a line now and then where there is no terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column


@dataclass(frozen=True)
class Plan:
    """What a training is going to do, known before its first step.

    ``images`` split -> number; ``batches`` batches per epoch and process; ``epochs`` and ``total``
    batches of the whole run, None where nothing bounds them; ``per_step`` images in one optimiser
    step over all devices; ``trained`` and ``parameters`` are counts.
    """

    images: dict[str, int]
    batches: float
    epochs: int | None
    total: int | None
    per_step: str
    trained: int
    parameters: int

    @classmethod
    def of(cls, trainer: Trainer, module: LightningModule) -> Plan:
        """Read off a trainer whose data loaders are set up."""
        loaders = {"train": trainer.train_dataloader, "val": trainer.val_dataloaders}
        images = {
            split: n for split, loader in loaders.items() if loader is not None and (n := _images(loader))
        }
        batches = trainer.num_training_batches
        epochs = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else None
        accumulate = trainer.accumulate_grad_batches
        bounds = []
        if epochs is not None and batches < math.inf:
            bounds.append(round(epochs * batches))
        if trainer.max_steps > 0:
            optimisers = 1 if module.automatic_optimization else max(1, len(trainer.optimizers))
            bounds.append(-(-trainer.max_steps // optimisers) * accumulate)
        per_device = _batch_size(trainer.train_dataloader)
        per_step = "unknown"
        if per_device:
            factors = [f"{per_device}"]
            factors += [f"{accumulate} accumulated"] if accumulate > 1 else []
            factors += [f"{trainer.world_size} devices"] if trainer.world_size > 1 else []
            product = per_device * accumulate * trainer.world_size
            per_step = f"{product}" + (f" ({' x '.join(factors)})" if len(factors) > 1 else "")
        counts = [(p.numel(), p.requires_grad) for p in module.parameters()]
        return cls(
            images=images,
            batches=batches,
            epochs=epochs,
            total=min(bounds) if bounds else None,
            per_step=per_step,
            trained=sum(n for n, wanted in counts if wanted),
            parameters=sum(n for n, _ in counts),
        )

    def text(self) -> str:
        """Two lines for people."""
        images = " / ".join(f"{n:,} {split}" for split, n in self.images.items()) or "unknown"
        length = f"{self.epochs} epochs" if self.epochs else "no limit of epochs"
        total = f", {self.total:,} iterations in all" if self.total is not None else ""
        share = self.trained / max(1, self.parameters)
        return (
            f"plan: {images} images, {self.batches:,} iterations per epoch, {length}{total}\n"
            f"      {self.per_step} images per step, "
            f"{self.trained:,} of {self.parameters:,} parameters trained ({share:.1%})"
        )


class TrainingProgress(Callback):
    """Shows plan, speed, loss, learning rate and the task's key metric while a model trains.

    On a terminal a bar for the whole run, with a second one during validation; elsewhere one line
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
        self._task: TaskID | None = None
        self._validating: TaskID | None = None
        self._done = 0
        self._since = 0.0
        self._shown = 0.0
        self._seen = 0
        self._validation_start = 0.0

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
        console = Console()
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description} {task.completed:.0f}", table_column=Column(no_wrap=True)),
                BarColumn(bar_width=20),
                TextColumn("{task.fields[figures]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
                console=console,
                refresh_per_second=4,
            )
            self._task = self._bar.add_task(
                "training", total=self.plan.total, completed=self._done, figures=""
            )
            self._validating = self._bar.add_task("validation", visible=False, figures="")
            self._bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.plan is None:
            return
        now = time.monotonic()
        self._done += 1
        self._seen += 1
        if self._seen == 1:
            self._since = now  # the first iteration warms caches and workers up: not timed
        elif self._seen == self.measure + 1:
            self.seconds_per_iteration = (now - self._since) / self.measure
            print(self._forecast())
        if self._bar is not None and self._task is not None:
            if now - self._shown >= 0.5:
                self._shown = now
                self._bar.update(self._task, completed=self._done, figures=self._figures(trainer, outputs))
        elif now - self._shown >= self.every_seconds:
            self._shown = now
            self._line(trainer, outputs)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validation_start = time.monotonic()
        if self._bar is not None and self._validating is not None:
            total = sum(trainer.num_val_batches)
            self._bar.update(
                self._validating, visible=True, completed=0, total=None if total == math.inf else total
            )

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if self._bar is not None and self._validating is not None:
            self._bar.advance(self._validating)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.plan is None or trainer.sanity_checking:
            return
        now = time.monotonic()
        self.seconds_per_validation = now - self._validation_start
        self._since += self.seconds_per_validation  # a validation among the timed iterations does not count
        if self._bar is not None and self._validating is not None and self._task is not None:
            self._bar.update(self._validating, visible=False)
            self._bar.update(self._task, completed=self._done, figures=self._figures(trainer, None))
        self._shown = now
        self._line(trainer, None)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done)
            self._bar.stop()
        self._bar = self.plan = None

    def _line(self, trainer: Trainer, outputs: Any) -> None:
        assert self.plan is not None
        total = f"/{self.plan.total:,}" if self.plan.total is not None else ""
        print(f"iteration {self._done:,}{total}  {self._figures(trainer, outputs)}")

    def _figures(self, trainer: Trainer, outputs: Any) -> str:
        """Loss, rate, the key metric and the time that is left."""
        logged = trainer.callback_metrics
        loss = outputs.get("loss") if isinstance(outputs, dict) else logged.get("train/batch_loss")
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
            entries.append(f"{_duration(left)} left")
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
            text += f", {_duration(self.seconds_per_iteration * self.plan.batches)} per epoch"
        left = self._seconds_left()
        if left is not None and self.plan.total is not None:
            whole = _duration(self.seconds_per_iteration * self.plan.total)
            end = datetime.now() + timedelta(seconds=left)
            text += f", {whole} in all without validation, done about {end:%H:%M}"
        return text


def _duration(seconds: float) -> str:
    """``42 s``, ``3 min 05 s`` or ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _leaves(loader: Any) -> Iterable[Any]:
    """The loaders inside a loader, a list or dict of loaders, or a CombinedLoader."""
    inner = getattr(loader, "flattened", None)
    if inner is None and isinstance(loader, dict):
        inner = loader.values()
    elif inner is None and isinstance(loader, list | tuple):
        inner = loader
    if inner is None:
        yield loader
    else:
        for one in inner:
            yield from _leaves(one)


def _object_counts(datamodule: Any) -> str:
    """Objects of the first samples and batches, where the data module's ``summary()`` tells them."""
    summary = getattr(datamodule, "summary", None)
    if summary is None:
        return ""
    facts = summary()
    samples = ", ".join(str(n) for n in facts.first_samples)
    batches = ", ".join(str(n) for n in facts.first_batches)
    return f"      objects in the first samples: {samples}; in the first batches: {batches}"


def _images(loader: Any) -> int:
    return sum(
        len(one.dataset) for one in _leaves(loader) if hasattr(getattr(one, "dataset", None), "__len__")
    )


def _batch_size(loader: Any) -> int | None:
    """Images per batch, summed over loaders that are drawn from together."""
    sizes = [
        getattr(one, "batch_size", None) or getattr(getattr(one, "batch_sampler", None), "batch_size", None)
        for one in _leaves(loader)
    ]
    known = [size for size in sizes if size]
    return sum(known) if known and len(known) == len(sizes) else None
