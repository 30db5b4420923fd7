"""Time, memory, and whether the processes of a parallel training still agree."""

from __future__ import annotations

import contextlib
import faulthandler
import shutil
import time
from pathlib import Path
from typing import IO, Any

import psutil
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy

from maskwell.callbacks.monitor.plain import batch_size
from maskwell.health.signals import COUNTER, SYSTEM, Signals

MIB = 2**20
STALL_SECONDS = 600.0
"""A step may always take this long."""
STALL_TIMES = 20.0
"""... or so many times as long as its like."""
REARM_SECONDS = 30.0
"""The watchdog is wound up again this often, while steps are made."""
CHECKSUM_EVERY = 256
"""Steps between comparisons of the weights of all ranks."""


class SystemWatch:
    """Measures wall time, waiting, memory and agreement of ranks; dumps stacks where a step hangs.

    Args:
        signals: where to.
    """

    def __init__(self, signals: Signals) -> None:
        self.signals = signals
        self._ended: float | None = None
        self._begun: float | None = None
        self._size = 0
        self._usual = 0.0
        self._stacks: IO[str] | None = None
        self._armed = float("-inf")

    def batch_starts(self, batch: Any) -> None:
        """Between the end of one batch and the start of the next lies the waiting for data."""
        self._begun = time.monotonic()
        self._size = self._size or batch_size(batch)

    def batch_ends(self, step: int) -> None:
        """Record how long the batch took and which share of it was waiting."""
        now = time.monotonic()
        if self._ended is not None and self._begun is not None:
            whole = now - self._ended
            self.signals.record(SYSTEM + "step_seconds", step, whole, "norm")
            if whole > 0:
                self.signals.record(SYSTEM + "wait_share", step, (self._begun - self._ended) / whole, "rate")
            self._usual = whole if not self._usual else 0.9 * self._usual + 0.1 * whole
        self._ended = now

    def pause(self) -> None:
        """What follows (a validation, a checkpoint) is no part of a step."""
        self._ended = self._begun = None
        self.stop_watchdog()

    def memory(self, step: int, device: torch.device) -> None:
        """Memory in use, and what is free."""
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            used = torch.cuda.memory_allocated(device)
        else:
            used, free = psutil.Process().memory_info().rss, psutil.virtual_memory().available
        self.signals.record(SYSTEM + "allocated_mib", step, used / MIB, "norm")
        self.signals.record(SYSTEM + "free_mib", step, free / MIB, "norm")

    def out_of_memory(self, step: int, device: torch.device) -> None:
        """A step failed for want of memory."""
        peak = (
            torch.cuda.max_memory_allocated(device)
            if device.type == "cuda"
            else psutil.Process().memory_info().rss
        )
        before = self.signals.value(SYSTEM + "out_of_memory") or 0.0
        self.signals.record(SYSTEM + "out_of_memory", step, before + 1, "count")
        self.signals.record(SYSTEM + "peak_mib", step, peak / MIB, "norm")
        self.signals.record(SYSTEM + "batch_size", step, self._size, "count")
        self.signals.record(COUNTER + "batches", step, step, "count")

    def ranks_agree(self, trainer: Trainer, module: LightningModule, step: int) -> None:
        """Record how far the checksums of the weights lie apart, where every rank holds all of them."""
        strategy = trainer.strategy
        whole = isinstance(strategy, DDPStrategy) and not isinstance(strategy, DeepSpeedStrategy)
        if trainer.world_size == 1 or not whole:
            return
        sums = [p.detach().double().sum() for p in module.parameters()]
        own = torch.stack(sums).abs().sum().reshape(1)
        both = trainer.strategy.reduce(torch.cat([own, -own]), reduce_op="max")
        spread = float(both[0] + both[1]) / max(abs(float(both[0])), 1e-12)
        self.signals.record(SYSTEM + "rank_spread", step, spread, "norm")

    def disk(self, step: int, folder: Path, checkpoint: Path | None) -> None:
        """How many more checkpoints of this size the disk holds."""
        if checkpoint is not None and checkpoint.is_file() and (size := checkpoint.stat().st_size):
            free = shutil.disk_usage(folder).free
            self.signals.record(SYSTEM + "checkpoint_fits", step, free / size, "count")

    def watch(self, folder: Path, steps: int) -> None:
        """Let the stacks of all threads be written to ``stacks.txt`` if the next ``steps`` steps hang."""
        now = time.monotonic()
        if now - self._armed < REARM_SECONDS:
            return
        self._armed = now
        limit = max(STALL_SECONDS, STALL_TIMES * self._usual * steps)
        if self._stacks is None:
            folder.mkdir(parents=True, exist_ok=True)
            self._stacks = (folder / "stacks.txt").open("a", encoding="utf-8")
        # a file of its own, and no test runner's: without a descriptor there is nothing to write to
        with contextlib.suppress(RuntimeError, ValueError):
            faulthandler.dump_traceback_later(limit, file=self._stacks)

    def stop_watchdog(self) -> None:
        """Nothing is watched until the next call of :meth:`watch`."""
        self._armed = float("-inf")
        if self._stacks is not None:
            faulthandler.cancel_dump_traceback_later()

    def close(self) -> None:
        """End of the run: an empty ``stacks.txt`` is removed."""
        self.stop_watchdog()
        if self._stacks is not None:
            path = Path(self._stacks.name)
            self._stacks.close()
            self._stacks = None
            if path.is_file() and path.stat().st_size == 0:
                path.unlink()
