"""The reference step of the benchmark is the same computation as ours."""

from __future__ import annotations

import torch

from benchmarks import s4gan_step

SIZE, NDF = (32, 48), 4


def test_both_ways_give_the_same_gradients() -> None:
    assert s4gan_step.gradient_difference(SIZE, NDF) < 1e-10


def test_the_comparison_can_fail() -> None:
    ours, plain = (s4gan_step.make(s4gan_step.GUIDE, SIZE, NDF, torch.float64) for _ in range(2))
    s4gan_step.our_gradients(ours)
    plain.labelled.images[0] += 0.1
    s4gan_step.plain_gradients(plain)
    assert (ours.gradients() - plain.gradients()).abs().max() > 1e-4 * plain.gradients().abs().max()


def test_steps_of_both_ways_end_at_the_same_weights() -> None:
    ours, plain = (s4gan_step.make(s4gan_step.GUIDE, SIZE, NDF, torch.float64) for _ in range(2))
    start = [p.clone() for p in plain.networks[1].parameters()]
    for _ in range(2):
        s4gan_step.our_step(ours)
        s4gan_step.plain_step(plain)
    for mine, theirs in zip(ours.networks, plain.networks, strict=True):
        for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    moved = zip(start, plain.networks[1].parameters(), strict=True)
    assert all((before - after).abs().max() > 0 for before, after in moved)
