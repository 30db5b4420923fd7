"""Faults of the machine: memory that runs out or leaks, time that passes, ranks that part."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning import LightningModule, Trainer

from maskwell.callbacks.faults.base import Fault, trained

MIB = 2**20


class OutOfMemory(Fault):
    """A step asks for more memory than there is; ``severity`` times, where the run is started again."""

    def batch_starts(self, trainer: Trainer, module: LightningModule, batch: Any) -> None:
        if self.within():
            raise torch.OutOfMemoryError("out of memory: tried to allocate 2.00 GiB (injected)")


class MemoryLeak(Fault):
    """Each step keeps ``severity`` MiB that nobody frees."""

    def __init__(self, severity: float = 1.0, start: int = 0, seed: int = 0) -> None:
        super().__init__(severity, start, seed)
        self.kept: list[torch.Tensor] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.act()
        # written to, so that the memory is really taken
        self.kept.append(torch.ones(int(self.severity * MIB), dtype=torch.uint8))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.kept.clear()


class Stall(Fault):
    """Nothing happens for ``severity`` steps of a training whose steps take :attr:`STEP` seconds.

    Nobody waits: the clock by which Python measures intervals is moved.
    """

    STEP = 40.0
    """Seconds of a step of a large network on a slow machine."""

    def batch_starts(self, trainer: Trainer, module: LightningModule, batch: Any) -> None:
        if self.onset is None and self.begun():
            self.clock, moved = time.monotonic, self.severity * self.STEP
            clock = self.clock
            time.monotonic = lambda: clock() + moved

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.onset is not None:
            time.monotonic = self.clock


class Derailed(Fault):
    """In one step all weights are displaced by noise, ``severity`` times their own size."""

    def batch_starts(self, trainer: Trainer, module: LightningModule, batch: Any) -> None:
        if self.onset is None and self.begun() and self.hits(trainer):
            noise = torch.Generator().manual_seed(self.seed)
            with torch.no_grad():
                for _, parameter in trained(module):
                    factors = torch.randn(parameter.shape, generator=noise).to(parameter)
                    parameter.mul_(1 + self.severity * factors)

    def hits(self, trainer: Trainer) -> bool:
        """Whether this process's weights are displaced."""
        return True


class Desync(Derailed):
    """As :class:`Derailed` in the second process of a parallel training alone."""

    def hits(self, trainer: Trainer) -> bool:
        return trainer.global_rank == 1
