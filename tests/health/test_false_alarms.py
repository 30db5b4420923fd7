"""Healthy curves stay silent, and the same curves with a fault in them do not."""

from __future__ import annotations

import numpy as np
import pytest

from maskwell.health.engine import Engine
from maskwell.health.findings import Finding
from maskwell.health.rules import GROUPS
from maskwell.health.signals import LOSS, LR, Role
from tests.health.curves import FAMILIES, Values, diverging, shifted

STEPS = 2000
EVERY = 8
RATES = {"cyclic": 1e-3 * (1 + 0.35 * np.sin(np.arange(STEPS) / 80))}


def hear(values: Values, role: Role = "supervised", rates: Values | None = None) -> list[Finding]:
    """Everything above information that the rules of the loss say of a run with this curve and rates."""
    engine = Engine({name: kind() for name, kind in GROUPS["dynamics"].items()})
    told: list[Finding] = []
    for step, value in enumerate(values, 1):
        engine.signals.record(LOSS, step, value, role)
        if rates is not None:
            engine.signals.record(LR + "all", step, rates[step - 1], "rate")
        engine.signals.step = step
        if step % EVERY == 0:
            told += engine.check("step").news
    return told


def _role(family: str) -> Role:
    return "adversarial" if family == "discriminator" else "supervised"


@pytest.mark.parametrize("family", FAMILIES)
def test_healthy_curves_raise_no_alarm(family: str) -> None:
    for seed in range(3):
        values = FAMILIES[family](np.random.default_rng([seed, 7]), STEPS)
        assert hear(values, _role(family), RATES.get(family)) == [], seed


@pytest.mark.parametrize("family", ["cross_entropy", "heavy_detection", "sam_scale", "student"])
@pytest.mark.parametrize("factor", [3.0, 10.0])
def test_a_shift_is_found_within_32_steps(family: str, factor: float) -> None:
    values = shifted(FAMILIES[family](np.random.default_rng(1), STEPS), 1200, factor)
    found = [f for f in hear(values) if f.rule == "level_shift"]
    assert found and 1200 < found[0].step <= 1232


@pytest.mark.parametrize(
    ("family", "latency"), [("cross_entropy", 64), ("sam_scale", 64), ("tiny_points", 96)]
)
def test_divergence_is_found(family: str, latency: int) -> None:
    steps = []
    for seed in range(3):
        found = hear(diverging(FAMILIES[family](np.random.default_rng(seed), 1400), 1200, 0.02))
        steps.append(found[0].step - 1200)
    assert min(steps) > 0 and np.median(steps) <= latency


def test_a_slow_drift_is_found_by_its_trend() -> None:
    values = diverging(FAMILIES["cross_entropy"](np.random.default_rng(3), 2600), 1600, 0.001)
    assert "divergence" in {f.rule for f in hear(values)}


def test_a_single_outlier_is_written_down_and_not_told() -> None:
    values = FAMILIES["cross_entropy"](np.random.default_rng(4), 1000)
    values[600] *= 100
    engine = Engine({name: kind() for name, kind in GROUPS["dynamics"].items()})
    told = 0
    for step, value in enumerate(values, 1):
        engine.signals.record(LOSS, step, value, "supervised")
        engine.signals.step = step
        if step % EVERY == 0:
            told += len(engine.check("step").news)
    assert told == 0 and engine.verdict == "healthy"
    assert [f.rule for i in engine.incidents for f in i.findings] == ["batch_outlier"]
