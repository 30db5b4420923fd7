"""A loss that is not divided by what it was summed over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from maskwell.health import statistics
from maskwell.health.rules.base import GUIDED, Clock, Rule, Symptom
from maskwell.health.signals import DOUBLING, DOUBLING_NOISE, FACT, LOSS, Signals


@dataclass(kw_only=True)
class Normaliser(Rule):
    """loss(batch twice) / loss(batch): 1 if the loss is a mean, 2 if it is a sum.

    A ratio further than ``tolerance`` (and the noise of the measurement) from 1 is named, for the
    total and for its parts.
    """

    clock: ClassVar[Clock] = "start"
    code: ClassVar[str] = "P08a"
    depth: ClassVar[int] = 0
    reads: ClassVar[tuple[str, ...]] = (DOUBLING,)
    supports: ClassVar[dict[str, float]] = {"not_normalised": 0.95}
    denies: ClassVar[dict[str, float]] = {"not_normalised": 0.7}
    tolerance: float = 0.05

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """One symptom for all parts that are off."""
        off: dict[str, float] = {}
        for name, stream in signals.under(DOUBLING):
            ratio = stream.last(1)[0]
            noise = signals.value(DOUBLING_NOISE + name) or 0.0
            if abs(ratio - 1) > self.tolerance + noise:
                off[name] = ratio
        if not off:
            return
        inner = [name for name in off if name != LOSS] or [LOSS]
        summed = all(abs(off[name] - 2) <= 2 * self.tolerance for name in inner)
        what = ", ".join(inner)
        cause = (
            f"{what} is a sum over objects or images, not divided by their number: it doubles with the batch"
            if summed
            else f"{what} depends on the size of the batch"
        )
        evidence = {f"{name}_doubled_over_single": ratio for name, ratio in off.items()}
        yield Symptom("error" if summed else "warn", cause, evidence, ("model.loss.normalisation=global",))


@dataclass(kw_only=True)
class GrowsWithTargets(Rule):
    """The loss of a batch grows like the number of its objects, as a sum does and a mean does not."""

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "P08b"
    depth: ClassVar[int] = 0
    every: ClassVar[int] = 64
    reads: ClassVar[tuple[str, ...]] = (FACT + "num_objects",)
    supports: ClassVar[dict[str, float]] = {"not_normalised": 0.8}
    denies: ClassVar[dict[str, float]] = {"not_normalised": 0.3}
    fact: str = "num_objects"
    batches: int = 64
    slope: float = 0.6
    correlation: float = 0.6

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """One symptom per part of the loss."""
        targets = signals.get(FACT + self.fact)
        if len(targets) < self.batches or np.ptp(targets.tail(256)) == 0:
            return
        for name, stream in signals.losses(GUIDED):
            steps, at, of = np.intersect1d(targets.steps, stream.steps, return_indices=True)
            if len(steps) < self.batches:
                continue
            x, y = targets.values[at][-256:], stream.values[of][-256:]
            both = (x > 0) & (y > 0)
            # the loss falls in the meantime: what is left beside its course is compared
            flat = y[both] / np.exp(statistics.log_values(y[both]).mean()) if both.any() else y[both]
            if both.sum() < self.batches or np.ptp(x[both]) == 0:
                continue
            rho = statistics.rank_correlation(x[both], flat)
            slope = statistics.power_law(x[both], flat) if rho > self.correlation else 0.0
            if slope > self.slope:
                yield Symptom(
                    "warn",
                    f"{name} grows with the number of objects in a batch: it is not divided by it",
                    {"exponent": slope, "rank_correlation": rho},
                    ("model.loss.normalisation=global",),
                    subject=name,
                )
