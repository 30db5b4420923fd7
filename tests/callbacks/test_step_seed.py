"""Random state as a function of (seed, iteration, rank)."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from lightning import LightningModule, Trainer

from maskwell.callbacks.step_seed import StepSeed, reseed


def drawn() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), float(torch.rand(()))  # noqa: NPY002


def at(seed: int, iteration: int, rank: int = 0) -> tuple[float, float, float]:
    trainer = cast(Trainer, SimpleNamespace(global_rank=rank))
    module = cast(LightningModule, SimpleNamespace(iteration=iteration))
    StepSeed(seed).on_train_batch_start(trainer, module, None, 0)
    return drawn()


def test_the_same_place_draws_the_same() -> None:
    first = at(3, 10)
    drawn()
    assert at(3, 10) == first


def test_every_part_of_the_place_counts() -> None:
    places: list[dict[str, Any]] = [
        {"seed": 3, "iteration": 10},
        {"seed": 4, "iteration": 10},
        {"seed": 3, "iteration": 11},
        {"seed": 3, "iteration": 10, "rank": 1},
    ]
    found = [at(**place) for place in places]
    for column in zip(*found, strict=True):
        assert len(set(column)) == len(places)


def test_evaluation_does_not_depend_on_the_iteration() -> None:
    trainer = cast(Trainer, SimpleNamespace(global_rank=0))
    found = []
    for iteration in (1, 50):
        module = cast(LightningModule, SimpleNamespace(iteration=iteration))
        StepSeed(0).on_validation_batch_start(trainer, module, None, 4)
        found.append(drawn())
    assert found[0] == found[1]
    reseed(0, 2, 4, 0)
    assert drawn() != found[0]  # the test split draws otherwise
