"""The statistics against scipy, against formulas by hand, and for what they leave unmoved."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from maskwell.health import statistics as s


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def test_mann_kendall_agrees_with_kendalls_tau(generator: np.random.Generator) -> None:
    for values in (generator.normal(size=12), generator.integers(0, 4, 20).astype(float)):
        n = len(values)
        tau = stats.kendalltau(np.arange(n), values, variant="b")
        ties = np.unique(values, return_counts=True)[1]
        pairs = n * (n - 1) / 2
        score = tau.statistic * math.sqrt(pairs * (pairs - (ties * (ties - 1) / 2).sum()))
        variance = (n * (n - 1) * (2 * n + 5) - (ties * (ties - 1) * (2 * ties + 5)).sum()) / 18
        assert s.mann_kendall(values) == pytest.approx((score - np.sign(score)) / math.sqrt(variance))


def test_a_constant_has_no_trend() -> None:
    assert s.trend(np.ones(12)) == (0.0, 0.0, 0.0) and s.trend(np.ones(2)) == (0.0, 0.0, 0.0)


def test_the_slope_is_theil_sens(generator: np.random.Generator) -> None:
    values = 0.3 * np.arange(15) + generator.normal(size=15)
    assert s.trend(values).slope == pytest.approx(stats.theilslopes(values, np.arange(15)).slope)


def test_wilson_agrees_with_scipy() -> None:
    for k, n in ((0, 50), (3, 40), (40, 40)):
        low, high = s.wilson(k, n)
        exact = stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
        assert (low, high) == pytest.approx((exact.low, exact.high), abs=1e-4)
    assert s.wilson(0, 0) == (0.0, 1.0)


def test_one_wild_value_moves_no_robust_number(generator: np.random.Generator) -> None:
    values = generator.normal(10, 2, 200)
    wild = np.append(values, 1e9)
    assert s.robust_sigma(values) == pytest.approx(values.std(), rel=0.15)
    assert s.robust_sigma(wild) == pytest.approx(s.robust_sigma(values), rel=0.05)
    assert s.robust_z(16.0, wild) == pytest.approx(3, abs=0.6)


def test_a_level_shift_is_measured(generator: np.random.Generator) -> None:
    logs = generator.normal(0, 0.5, 288)
    logs[-32:] += math.log(3)
    shift = s.level_shift(logs)
    assert shift is not None and shift.ratio == pytest.approx(3, rel=0.4) and shift.errors > 6
    assert s.level_shift(logs[1:]) is None


def test_logs_of_zeros_are_finite() -> None:
    logs = s.log_values(np.array([0.0, 1.0, 10.0]))
    assert np.isfinite(logs).all() and logs[0] < logs[1] - 4
    assert not s.log_values(np.zeros(3)).any()


def test_block_medians_take_whole_blocks_from_the_end() -> None:
    assert s.block_medians(np.arange(7.0), 3, 5).tolist() == [2.0, 5.0]
    assert len(s.block_medians(np.arange(2.0), 3)) == 0


def test_groups_that_explain_everything_and_nothing(generator: np.random.Generator) -> None:
    groups = np.tile(np.arange(4), 10)
    assert s.explained_by_groups(groups.astype(float), groups) == (1.0, 0.0)
    eta, p = s.explained_by_groups(generator.normal(size=40), groups)
    assert eta < 0.3 and p > 0.01
    values = groups + generator.normal(0, 0.5, 40)
    assert s.explained_by_groups(values, groups)[1] == pytest.approx(
        stats.f_oneway(*(values[groups == g] for g in range(4))).pvalue
    )


def test_a_power_law_is_found(generator: np.random.Generator) -> None:
    x = generator.integers(1, 30, 100).astype(float)
    assert s.power_law(x, 3 * x**0.8) == pytest.approx(0.8)
    assert s.power_law(np.ones(10), np.ones(10)) == 0.0
    assert s.rank_correlation(x, np.ones(100)) == 0.0


def test_the_same_histogram_is_stable_and_another_is_not() -> None:
    a = np.array([100.0, 200.0, 300.0])
    assert s.population_stability(a, 10 * a) < 1e-4
    assert s.population_stability(a, a[::-1]) > 0.25


def test_noise_scale_of_known_gradients() -> None:
    # |G|^2 = 4 and tr(S) = 12: one micro-batch has 4 + 12, four together 4 + 3
    assert s.noise_scale(16.0, 7.0, 4) == pytest.approx(3.0)
    assert s.noise_scale(16.0, 1.0, 4) == math.inf


def test_turns_and_alternation() -> None:
    zigzag = np.array([0.0, 1.0] * 8)
    assert s.sign_changes(zigzag) == 1.0 and s.autocorrelation(zigzag - 0.5) < -0.9
    assert s.sign_changes(np.arange(5.0)) == 0.0 and s.autocorrelation(np.ones(4)) == 0.0


def test_sums_are_told_from_their_terms(generator: np.random.Generator) -> None:
    a, b, c = generator.random((3, 200))
    parts = {"a": a, "b": b, "c": c, "zero": 0 * a}
    assert s.sums_of_others(parts) == set()
    assert s.sums_of_others({**parts, "sum": 2 * a + 0.1 * b}) == {"sum"}
    # the term that makes up nearly all of a sum is no sum itself, nor is a difference
    assert s.sums_of_others({**parts, "sum": 1e5 * a + b}) == {"sum"}
    assert s.sums_of_others({"a": a, "b": b, "difference": 0.5 * a - b}) == {"a"}
    assert len(s.sums_of_others({"a": a, "twice": 2 * a, "b": b})) == 1
