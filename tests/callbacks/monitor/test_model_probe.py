"""What the probes of networks measure, of the small tasks of this package."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import s4gan_small
from maskwell.callbacks.faults import DiscriminatorRange
from maskwell.callbacks.monitor.model_probe import DiscriminatorProbe
from maskwell.health.signals import PROBE, Signals


def range_ratio(recipe: str, factor: float | None = None, first: int = 1, **more: float) -> float | None:
    """Of the pairs that reach the discriminator in four iterations; afterwards nothing watches it."""
    task = s4gan_small.make_task(replace(s4gan_small.RECIPES[recipe], **more))
    if factor is not None:
        fault = DiscriminatorRange(factor)
        fault.setup(None, task, "fit")  # type: ignore[arg-type]
        fault.now = 1
    probe, signals = DiscriminatorProbe(task), Signals()
    torch.manual_seed(0)
    for iteration in range(4):
        probe.batch_starts()
        task._losses(s4gan_small.train_batch(2 * iteration))
        probe.batch_ends(first + iteration, signals)
    if task.discriminator is not None:
        assert not task.discriminator._forward_pre_hooks
    return signals.value(PROBE + "d_range_ratio")


@pytest.mark.parametrize(("recipe", "r1"), [("guide", 0.0), ("sound", 0.0), ("sound", 1.0)])
def test_ranges_of_both_kinds_of_pairs_are_told_apart(recipe: str, r1: float) -> None:
    honest, mild, strong = (range_ratio(recipe, factor, r1=r1) for factor in (None, 2.0, 255.0))
    assert honest is not None and honest < 1.2
    assert mild == pytest.approx(2.0, rel=0.2) and strong == pytest.approx(255.0, rel=0.2)


def test_a_run_that_goes_on_is_looked_at_for_as_long() -> None:
    assert range_ratio("guide", 2.0, first=31) == pytest.approx(2.0, rel=0.2)


def test_a_recipe_without_a_discriminator_is_not_watched() -> None:
    assert range_ratio("supervised") is None
