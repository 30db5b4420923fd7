"""The statistics of the rules: robust, one-sided where alarms are, over short windows of numbers.

All take float arrays [N], oldest first, and none keeps state. Losses are compared on a log scale
(:func:`log_values`), where a factor is a distance and heavy tails are mild.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

Values = npt.NDArray[np.float64]

MAD_TO_SIGMA = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""
MEDIAN_ERROR = math.sqrt(math.pi / 2)
"""Standard error of a median over that of a mean, for normal noise."""


class Shift(NamedTuple):
    """A change of level: ``ratio`` new over old by the medians, and how many robust standard ``errors``
    it is of the logs; ``mean_errors`` the same of the means, which two kinds of batches do not fool.
    """

    ratio: float
    errors: float
    mean_errors: float


class Trend(NamedTuple):
    """``z`` of the Mann-Kendall test, ``slope`` per value (Theil-Sen), ``change`` from first to last."""

    z: float
    slope: float
    change: float


def median(values: npt.ArrayLike) -> float:
    """Of numbers without NaN; NaN where there are none. Rules ask for dozens at every check: numpy's own,
    which looks for axes and NaN, takes ten times as long.
    """
    ordered = np.sort(np.ravel(values))
    count = len(ordered)
    return float(ordered[(count - 1) // 2] + ordered[count // 2]) / 2 if count else math.nan


def log_values(values: Values) -> Values:
    """Natural logs; values below a thousandth of the median of the positive ones count as that."""
    positive = values[values > 0]
    if not len(positive):
        return np.zeros_like(values)
    return np.asarray(np.log(np.maximum(values, 1e-3 * median(positive))))


def robust_sigma(values: Values) -> float:
    """Standard deviation as the median absolute deviation tells it; one wild value leaves it as it is."""
    return MAD_TO_SIGMA * median(np.abs(values - median(values)))


def robust_z(value: float, history: Values, floor: float = 1e-6) -> float:
    """Robust standard deviations (at least ``floor``) by which ``value`` exceeds ``history``'s median."""
    return (value - median(history)) / max(robust_sigma(history), floor)


def level_shift(logs: Values, recent: int = 32, baseline: int = 256) -> Shift | None:
    """The median of the last ``recent`` against that of the ``baseline`` before; None where too few are."""
    if len(logs) < recent + baseline:
        return None
    new, old = logs[-recent:], logs[-recent - baseline : -recent]
    half = math.sqrt(1 / recent + 1 / baseline)
    step = median(new) - median(old)
    error = MEDIAN_ERROR * max(robust_sigma(old), 1e-6) * half
    mean_error = max(float(old.std()), 1e-6) * half
    return Shift(math.exp(min(step, 700.0)), step / error, float(new.mean() - old.mean()) / mean_error)


def block_medians(values: Values, block: int = 32, blocks: int = 12) -> Values:
    """Medians of the last ``blocks`` whole blocks of ``block`` values, fewer where there are fewer."""
    count = min(blocks, len(values) // block)
    if count == 0:
        return np.empty(0)
    return np.asarray(np.median(values[-count * block :].reshape(count, block), axis=1))


@cache
def _pairs(n: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Indices of all pairs of ``n`` values, the earlier first."""
    return np.triu_indices(n, 1)


def mann_kendall(values: Values) -> float:
    """z of the Mann-Kendall test for a monotonic trend, corrected for ties; above 0 where it rises."""
    n = len(values)
    if n < 3:
        return 0.0
    first, second = _pairs(n)
    score = float(np.sign(values[second] - values[first]).sum())
    _, ties = np.unique(values, return_counts=True)
    variance = (n * (n - 1) * (2 * n + 5) - float((ties * (ties - 1) * (2 * ties + 5)).sum())) / 18
    return (
        0.0 if variance <= 0 else (score - math.copysign(min(1.0, abs(score)), score)) / math.sqrt(variance)
    )


def trend(values: Values) -> Trend:
    """Mann-Kendall and Theil-Sen together; no trend in fewer than three values."""
    n = len(values)
    if n < 3:
        return Trend(0.0, 0.0, 0.0)
    first, second = _pairs(n)
    slope = median((values[second] - values[first]) / (second - first))
    return Trend(mann_kendall(values), slope, slope * (n - 1))


def wilson(successes: float, trials: float, z: float = 1.96) -> tuple[float, float]:
    """Confidence interval of a rate (Wilson, 1927); (0, 1) without trials. Counts may be weighted."""
    if trials <= 0:
        return 0.0, 1.0
    share = successes / trials
    centre = share + z * z / (2 * trials)
    half = z * math.sqrt(max(share * (1 - share), 0.0) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def autocorrelation(values: Values) -> float:
    """Correlation of each value with the next, 0 where nothing varies."""
    centred = values - values.mean()
    power = float((centred * centred).sum())
    return float((centred[1:] * centred[:-1]).sum()) / power if power > 0 else 0.0


def sign_changes(values: Values) -> float:
    """Share of successive differences whose sign turns."""
    signs = np.sign(np.diff(values))
    return float((signs[1:] * signs[:-1] < 0).mean()) if len(signs) > 1 else 0.0


def explained_by_groups(values: Values, groups: npt.NDArray[np.int64]) -> tuple[float, float]:
    """(eta squared, p of the F test): how much of the variance lies between groups."""
    parts = [values[groups == g] for g in np.unique(groups)]
    total = float(((values - values.mean()) ** 2).sum())
    if len(parts) < 2 or total <= 0 or len(values) <= len(parts):
        return 0.0, 1.0
    between = float(sum(len(p) * (p.mean() - values.mean()) ** 2 for p in parts))
    if between >= total * (1 - 1e-12):
        return 1.0, 0.0
    return between / total, float(stats.f_oneway(*parts).pvalue)


def lower_later(first: Values, last: Values) -> float:
    """p of the Mann-Whitney test that ``last`` is no lower than ``first``."""
    return float(stats.mannwhitneyu(last, first, alternative="less").pvalue)


def rank_correlation(a: Values, b: Values) -> float:
    """Spearman's rho, 0 where one of them does not vary."""
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(stats.spearmanr(a, b).statistic)


def power_law(x: Values, y: Values) -> float:
    """Theil-Sen slope of log ``y`` on log ``x``, both above 0; 0 where ``x`` does not vary."""
    if len(x) < 3 or np.ptp(x) == 0:
        return 0.0
    return float(stats.theilslopes(np.log(y), np.log(x)).slope)


def sums_of_others(series: Mapping[str, Values], tolerance: float = 1e-4) -> set[str]:
    """Names of those series [N] that are sums of others with weights above 0; of two that are alike, one.

    The series that others explain best goes first: a total goes before the term that makes up most of it.
    """
    left = {name: v / size for name, v in series.items() if 0 < (size := float(np.linalg.norm(v))) < math.inf}
    found: set[str] = set()
    while len(left) > 1:
        rest = {
            name: float(optimize.nnls(np.stack([v for n, v in left.items() if n != name], 1), values)[1])
            for name, values in left.items()
        }
        best = min(rest, key=rest.__getitem__)
        if rest[best] > tolerance:
            break
        found.add(best)
        del left[best]
    return found


def population_stability(counts: Values, reference: Values) -> float:
    """Population stability index of two histograms with the same bins; 0 if they have the same shape."""
    p = (counts + 0.5) / (counts + 0.5).sum()
    q = (reference + 0.5) / (reference + 0.5).sum()
    return float(((p - q) * np.log(p / q)).sum())


def noise_scale(small_norm: float, large_norm: float, ratio: float) -> float:
    """Batch size, in small batches, at which gradient noise equals the gradient (McCandlish et al., 2018).

    Args:
        small_norm: mean squared norm of the gradient of one small batch.
        large_norm: mean squared norm of the gradient over ``ratio`` small batches together.
        ratio: above 1.
    """
    signal = (ratio * large_norm - small_norm) / (ratio - 1)
    noise = (small_norm - large_norm) / (1 - 1 / ratio)
    return noise / signal if signal > 0 else math.inf
