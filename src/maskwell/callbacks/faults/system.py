"""Faults of the machine: memory that runs out or leaks, time that passes, ranks that part."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import torch
from lightning import LightningModule, Trainer

from maskwell.callbacks.faults.base import Fault, trained

MIB = 2**20


class OutOfMemory(Fault):
    """A step asks for more memory than there is; ``severity`` times, where the run is started again."""

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.within(trainer, pl_module):
            raise torch.OutOfMemoryError("out of memory: tried to allocate 2.00 GiB (injected)")


class MemoryLeak(Fault):
    """Each step keeps ``severity`` MiB that nobody frees."""

    def __init__(self, severity: float = 1.0, start: int = 0, seed: int = 0) -> None:
        super().__init__(severity, start, seed)
        self.kept: list[torch.Tensor] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.act(trainer, pl_module)
        # written to, so that the memory is really taken
        self.kept.append(torch.ones(int(self.severity * MIB), dtype=torch.uint8))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.kept.clear()


class Stall(Fault):
    """One step takes ``severity`` times as long as the median of those before."""

    def __init__(self, severity: float = 1.0, start: int = 0, seed: int = 0) -> None:
        super().__init__(severity, start, seed)
        self._seconds: list[float] = []
        self._last = 0.0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        if self._last:
            self._seconds.append(now - self._last)
        self._last = now
        if self.onset is None and self._seconds and self.begun(trainer, pl_module):
            time.sleep(self.severity * median(self._seconds))


class Desync(Fault):
    """The weights of the second rank differ: each by noise, ``severity`` times its own size."""

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.onset is not None or not self.begun(trainer, pl_module) or trainer.global_rank != 1:
            return
        noise = torch.Generator().manual_seed(self.seed)
        with torch.no_grad():
            for _, parameter in trained(pl_module):
                factors = torch.randn(parameter.shape, generator=noise).to(parameter)
                parameter *= 1 + self.severity * factors
