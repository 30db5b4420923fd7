"""What is counted as found, as false, and as named right."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from benchmarks.health.score import (
    Alarm,
    Case,
    bootstrap,
    episodes,
    false_rate,
    figures,
    judge,
    parted,
    wilson,
)


def made(right: tuple[str, ...] = ("lr_high",), onset: int | None = 301, **more: object) -> Case:
    given = {"name": "x", "family": "detr", "group": "loss", "severity": 1.0, "seed": 0, "steps": 640}
    return Case(**{**given, "right": right, "onset": onset, **more})  # type: ignore[arg-type]


def test_an_alarm_behind_the_onset_finds_the_fault() -> None:
    outcome = judge(made(), [Alarm(320, ("plateau", "lr_high")), Alarm(330, ("lr_high",))])
    assert outcome.found and outcome.latency == 19 and outcome.top1 is False and outcome.top3 is True
    assert (outcome.named, outcome.named_right, outcome.false_episodes) == (2, 1, 0)


def test_a_monitor_that_repeats_a_cause_names_it_once() -> None:
    outcome = judge(made(), [Alarm(310 + step, ("lr_high",)) for step in range(0, 200, 10)])
    assert (outcome.named, outcome.named_right) == (1, 1)
    again = judge(made(), [Alarm(310, ("lr_high",)), Alarm(330, ("overfit",)), Alarm(420, ("lr_high",))])
    assert (again.named, again.named_right) == (3, 2)


def test_without_a_false_episode_the_rate_is_bound_by_the_steps_that_were_seen() -> None:
    quiet = [judge(made(right=(), onset=None, steps=1000), []) for _ in range(10)]
    found = figures(quiet)
    assert found["false_per_1000"] == found["false_per_1000.low"] == 0
    assert found["false_per_1000.high"] == pytest.approx(3.689 / 10, abs=1e-3)  # exact bound of no event


def test_alarms_before_the_onset_are_false_unless_the_fault_was_always_there() -> None:
    early = [Alarm(100, ("lr_high",)), Alarm(140), Alarm(250)]
    moving, static = judge(made(), early), judge(made(static=True), early)
    assert not moving.found and moving.false_episodes == 2 and moving.named_right == 0
    assert static.found and static.false_episodes == 0 and static.latency == 0
    assert moving.case.healthy_steps == 300 and static.case.healthy_steps == 0


def test_a_step_that_never_ended_is_told_at_the_one_before() -> None:
    outcome = judge(made(), [Alarm(300, ("lr_high",))])
    assert outcome.found and outcome.latency == 0 and outcome.false_episodes == 0


def test_the_budget_ends_after_500_steps_or_three_evaluations() -> None:
    late = [Alarm(900)]
    assert not judge(made(), late).found
    assert not judge(made(evaluations=(250, 500, 750)), late).found  # only two behind the onset
    assert judge(made(evaluations=(250, 500, 750, 1000)), late).found


def test_steps_of_a_fault_that_never_acted_are_healthy_but_the_run_is_no_control() -> None:
    outcome = judge(made(onset=None), [Alarm(5)])
    assert not outcome.case.faulty and outcome.false_episodes == 1 and outcome.case.healthy_steps == 640
    found = figures([outcome])
    assert "healthy_flagged" not in found and found["false_per_1000"] == pytest.approx(1 / 0.64)


@pytest.mark.parametrize(
    ("steps", "count"), [([], 0), ([5], 1), ([5, 55, 105], 1), ([5, 56], 2), ([90, 1], 2)]
)
def test_near_alarms_are_one_episode(steps: list[int], count: int) -> None:
    assert episodes(steps) == count


@pytest.mark.parametrize(("hits", "of"), [(0, 20), (7, 20), (20, 20), (950, 1000)])
def test_wilson_is_that_of_scipy(hits: int, of: int) -> None:
    expected = binomtest(hits, of).proportion_ci(method="wilson")
    assert wilson(hits, of) == pytest.approx((expected.low, expected.high), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


def test_figures_of_a_few_runs() -> None:
    healthy = made(right=(), onset=None, steps=1000)
    outcomes = [
        judge(made(), [Alarm(311, ("lr_high",))]),
        judge(made(), []),
        judge(healthy, [Alarm(1, ("overfit",)), Alarm(500)]),
        judge(healthy, []),
    ]
    found = figures(outcomes)
    assert found["detection"] == 0.5 and found["detection.of"] == 2
    assert found["top1"] == 0.5 and found["latency.median"] == 10
    assert found["precision"] == 0.5  # one of two alarms that named a cause
    assert found["healthy_flagged"] == 0.5
    assert found["healthy_steps"] == 2600 and found["false_per_1000"] == pytest.approx(2 / 2.6)
    assert found["false_per_1000.low"] <= found["false_per_1000"] <= found["false_per_1000.high"]
    assert parted(outcomes, lambda case: case.family)["detr"]["detection"] == 0.5


def test_the_bootstrap_draws_whole_runs() -> None:
    outcomes = [judge(made(right=(), onset=None, steps=1000), [Alarm(1)] * hit) for hit in (0, 0, 0, 1)]
    low, high = bootstrap(outcomes, false_rate)
    assert low == 0 and 0.25 < high <= 1
    assert bootstrap(outcomes, false_rate) == (low, high)
