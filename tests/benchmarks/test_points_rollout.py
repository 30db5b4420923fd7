"""Encoding once and encoding anew teach the same (losses are computed in float32)."""

from __future__ import annotations

from benchmarks import points_rollout


def test_both_ways_give_the_same_gradients() -> None:
    assert points_rollout.gradient_difference(64) < 1e-5


def test_the_rollout_makes_all_its_marks() -> None:
    step = points_rollout.make(96)
    step.task.eval()
    points_rollout.roll(step)
    points_rollout.forward(step)
