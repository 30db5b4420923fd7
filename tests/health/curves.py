"""Healthy loss curves of nine kinds, and faults put into them: what the detectors are tried on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
Generator = np.random.Generator


def _decay(steps: int, start: float, floor: float, time: float) -> Values:
    return np.asarray(start * np.exp(-np.arange(steps) / time) + floor)


def cross_entropy(r: Generator, n: int) -> Values:
    return _decay(n, 2.0, 0.5, 700) * np.exp(r.normal(0, 0.15, n))


def heavy_detection(r: Generator, n: int) -> Values:
    return _decay(n, 6.0, 2.0, 900) * np.exp(r.normal(0, 0.5, n))


def sam_scale(r: Generator, n: int) -> Values:
    return _decay(n, 100.0, 110.0, 1200) * np.exp(r.normal(0, 0.1, n))


def discriminator(r: Generator, n: int) -> Values:
    wander = np.cumsum(r.normal(0, 0.01, n))
    wander -= np.linspace(0, 1, n) * wander[-1]
    return np.clip(0.45 + 0.15 * np.sin(np.arange(n) / 300) + 0.3 * wander, 0.08, 1.2) * np.exp(
        r.normal(0, 0.3, n)
    )


def tiny_points(r: Generator, n: int) -> Values:
    return _decay(n, 0.05, 0.004, 600) * np.exp(r.normal(0, 0.6, n))


def rate_drops(r: Generator, n: int) -> Values:
    level = np.where(np.arange(n) < n // 3, 1.0, np.where(np.arange(n) < 2 * n // 3, 0.6, 0.4))
    return (level + _decay(n, 1.5, 0.0, 300)) * np.exp(r.normal(0, 0.2, n))


def cyclic(r: Generator, n: int) -> Values:
    return _decay(n, 1.0, 0.8, 800) * (1 + 0.35 * np.sin(np.arange(n) / 80)) * np.exp(r.normal(0, 0.1, n))


def sparse_targets(r: Generator, n: int) -> Values:
    has = r.random(n) < 0.4
    return np.where(
        has, _decay(n, 3.0, 1.0, 800) * np.exp(r.normal(0, 0.4, n)), 0.02 * np.exp(r.normal(0, 0.2, n))
    )


def student(r: Generator, n: int) -> Values:
    return _decay(n, 2.0, 1.0, 800) * np.exp(0.2 * r.standard_t(3, n))


FAMILIES: dict[str, Callable[[Generator, int], Values]] = {
    f.__name__: f
    for f in (
        cross_entropy,
        heavy_detection,
        sam_scale,
        discriminator,
        tiny_points,
        rate_drops,
        cyclic,
        sparse_targets,
        student,
    )
}


def shifted(values: Values, at: int, factor: float) -> Values:
    return np.asarray(np.where(np.arange(len(values)) < at, values, values * factor))


def diverging(values: Values, at: int, rate: float) -> Values:
    return np.asarray(values * (1 + rate) ** np.maximum(0, np.arange(len(values)) - at))
