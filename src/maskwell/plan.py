"""``plan=true``: measure three steps and say what the whole training will take."""

from __future__ import annotations

import copy
import statistics
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil
import torch
from lightning import Callback, LightningModule, Trainer
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from maskwell import build
from maskwell.callbacks.step_seed import StepSeed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from maskwell.models.base import BaseTask

WARM_UP, MEASURED = 1, 3
"""Steps before the clock runs (allocation, compilation), and steps that are timed."""

MEMORY_SHARE = 0.9
"""Share of the device's memory that a batch may fill."""


@dataclass(frozen=True)
class Forecast:
    """What three steps tell of a training; memory in bytes, ``fitting`` None where it cannot be told."""

    device: str
    batch_size: int
    seconds_per_step: float
    peak_memory: int
    total_memory: int
    steps: int
    fitting: int | None

    @property
    def total_seconds(self) -> float:
        """Time of all training steps, without validation."""
        return self.steps * self.seconds_per_step


def measure(cfg: DictConfig) -> Forecast:
    """Run a few steps at the configured batch size, and at another one for the memory per image.

    Nothing is written. One process on one device is measured.
    """
    task = build.task(cfg)
    data = build.datamodule(cfg, task)
    size = data.batch_size
    other = size // 2 or 2
    clocks = {}
    for batch_size in sorted({size, other}):  # the small one first: peaks do not go down on the CPU
        data.batch_size = batch_size
        clocks[batch_size] = _run(cfg, task, data)
    clock = clocks[size]
    fitting = fitting_batch(
        {batch_size: run.peak for batch_size, run in clocks.items()}, round(MEMORY_SHARE * clock.total)
    )
    data.batch_size = size
    steps = task.iterations or _steps(cfg, len(data.dataset("train")), size)
    return Forecast(
        clock.device, size, statistics.median(clock.seconds), clock.peak, clock.total, steps, fitting
    )


def show(forecast: Forecast) -> None:
    """Print the forecast."""
    gib = 2**30
    table = Table(title=f"plan: batch size {forecast.batch_size} on {forecast.device}", title_justify="left")
    table.add_column("measured")
    table.add_column("value", justify="right")
    table.add_row("seconds per step", f"{forecast.seconds_per_step:.3f}")
    table.add_row(
        "peak memory", f"{forecast.peak_memory / gib:.2f} GiB of {forecast.total_memory / gib:.1f} GiB"
    )
    table.add_row("steps", f"{forecast.steps:,}")
    table.add_row("total time without validation", f"{forecast.total_seconds / 60:.1f} min")
    fitting = "not told apart from noise" if forecast.fitting is None else f"about {forecast.fitting}"
    table.add_row("batch size that fits", fitting)
    Console().print(table)


def fitting_batch(peaks: dict[int, int], budget: int) -> int | None:
    """The largest batch within ``budget`` bytes, by a line through the peaks of two batch sizes.

    None where memory did not grow with the batch, so that no line can be drawn.
    """
    (small, low), (large, high) = sorted(peaks.items())
    per_image = (high - low) / (large - small)
    if per_image <= 0:
        return None
    fixed = high - large * per_image
    return max(0, int((budget - fixed) / per_image))


def _steps(cfg: DictConfig, samples: int, batch_size: int) -> int:
    """Batches of the whole training on one process."""
    bounds = []
    if cfg.trainer.max_epochs and cfg.trainer.max_epochs > 0:
        bounds.append(cfg.trainer.max_epochs * max(1, samples // batch_size))
    if cfg.trainer.max_steps > 0:
        bounds.append(cfg.trainer.max_steps * cfg.trainer.accumulate_grad_batches)
    return min(bounds, default=0)


def _run(cfg: DictConfig, task: BaseTask, data: Any) -> _Clock:
    clock = _Clock()
    short = copy.deepcopy(cfg)
    short.trainer.update(
        {
            "max_steps": WARM_UP + MEASURED,
            "max_epochs": -1,
            "devices": 1,
            "strategy": "auto",
            "accumulate_grad_batches": 1,
            "limit_val_batches": 0,
            "default_root_dir": None,
            "profiler": None,
        }
    )
    if task.iterations is not None:  # steps of several optimisers are not what is counted there
        short.trainer.update({"max_steps": -1, "limit_train_batches": WARM_UP + MEASURED})
    trainer = build.trainer(
        short, task, callbacks=[StepSeed(cfg.seed), clock], logger=False, enable_checkpointing=False
    )
    with clock.watch():
        trainer.fit(task, datamodule=data)
    return clock


class _Clock(Callback):
    """Times steps and keeps the highest memory: allocated on a GPU, resident on the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self.peak = 0
        self.total = 0
        self.device = "cpu"
        self._start = 0.0

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Sample the resident memory while the steps run."""
        done = threading.Event()

        def sample() -> None:
            process = psutil.Process()
            while not done.wait(0.005):
                self.peak = max(self.peak, process.memory_info().rss)

        thread = threading.Thread(target=sample, daemon=True)
        if not torch.cuda.is_available():
            thread.start()
        try:
            yield
        finally:
            done.set()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        device = trainer.strategy.root_device
        self.device = str(device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.total = torch.cuda.mem_get_info(device)[1]
        else:
            self.total = psutil.virtual_memory().total

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self._start = self._now(trainer)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        seconds = self._now(trainer) - self._start
        if trainer.fit_loop.epoch_loop.total_batch_idx + 1 > WARM_UP:
            self.seconds.append(seconds)
        if trainer.strategy.root_device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated(trainer.strategy.root_device)

    def _now(self, trainer: Trainer) -> float:
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize(trainer.strategy.root_device)
        return time.perf_counter()
