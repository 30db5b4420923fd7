"""Learning-rate schedules at the iterations that can be told by hand."""

from __future__ import annotations

import math

import pytest

from maskwell.ops.schedules import ema_decay, polynomial, warmup_cosine


def rates(total: int, warmup: int, final: float) -> list[float]:
    return [warmup_cosine(i, total, warmup=warmup, final_share=final) for i in range(total + 3)]


def test_known_points() -> None:
    values = rates(total=110, warmup=10, final=0.1)
    assert values[0] == pytest.approx(1 / 11)
    assert values[9] == pytest.approx(10 / 11)
    assert values[10] == 1.0
    assert values[60] == pytest.approx(0.55)  # half-way down
    assert values[35] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)
    assert values[110] == values[112] == pytest.approx(0.1)


def test_it_rises_then_falls_and_never_reaches_zero_first() -> None:
    values = rates(total=50, warmup=8, final=0.01)
    assert values[0] > 0
    assert values[:9] == sorted(values[:9])
    assert values[8:] == sorted(values[8:], reverse=True)


def test_no_warmup_starts_at_the_full_rate() -> None:
    assert warmup_cosine(0, 10, warmup=0, final_share=0.0) == 1.0


@pytest.mark.parametrize(("total", "warmup"), [(1, 0), (1, 1), (3, 3), (5, 9)])
def test_runs_shorter_than_their_warmup_stay_in_bounds(total: int, warmup: int) -> None:
    assert all(0 < rate <= 1 for rate in rates(total, warmup, 0.05))


def test_polynomial_is_zero_at_the_end_and_not_before() -> None:
    assert polynomial(0, 50_000) == 1.0
    assert math.isclose(polynomial(25_000, 50_000), 0.5**0.9)
    assert polynomial(49_999, 50_000) > 0
    assert polynomial(50_000, 50_000) == 0.0 == polynomial(60_000, 50_000)


def test_ema_decay_starts_as_a_plain_mean() -> None:
    assert [ema_decay(i, 0.996) for i in (0, 1, 9)] == [0.0, 0.5, 0.9]
    assert ema_decay(1000, 0.996) == 0.996
