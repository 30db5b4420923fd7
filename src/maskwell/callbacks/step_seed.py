"""Random state as a function of (seed, iteration, rank): a resumed run equals the uninterrupted one."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer

from maskwell.callbacks.clock import iteration


class StepSeed(Callback):
    """Reseeds torch, numpy and python before each batch: dropout, sampled points and noise repeat.

    Validation and test batches are seeded by their place alone: their losses can be compared
    between epochs and runs.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        reseed(self.seed, 0, iteration(trainer, pl_module), trainer.global_rank)

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        reseed(self.seed, 1, batch_idx, trainer.global_rank)

    def on_test_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        reseed(self.seed, 2, batch_idx, trainer.global_rank)


def reseed(*place: int) -> None:
    """Seed all generators from a tuple of non-negative integers, well mixed."""
    state = int(np.random.SeedSequence(place).generate_state(1)[0])
    random.seed(state)
    np.random.seed(state)  # noqa: NPY002 - third-party code draws from the global generator
    if torch.accelerator.is_available():
        torch.manual_seed(state)
    else:  # the same, without its notes for devices that may still come: a hundred times faster
        torch.default_generator.manual_seed(state)
