"""A loss that is not divided by what it was summed over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from maskwell.health import statistics
from maskwell.health.findings import Severity
from maskwell.health.rules.base import Clock, Rule, Symptom, listed
from maskwell.health.signals import DOUBLING, DOUBLING_NOISE, FACT, LOSS, PART, PREFLIGHT, Signals, Stream


@dataclass(kw_only=True)
class Normaliser(Rule):
    """loss(batch twice) / loss(batch): 1 if the loss is a mean, 2 if it is a sum.

    A ratio further than ``tolerance`` (and the noise of the measurement) from 1 is named, for the
    total and for its parts. A part that is neither a sum nor moves the total is drawn at random, or is
    no part of the total: the noise, told by two draws, is then often told too small. A loss of mostly empty
    images says little: a mean over objects is divided by 1 where there are none.
    """

    clock: ClassVar[Clock] = "start"
    code: ClassVar[str] = "P08a"
    depth: ClassVar[int] = 0
    reads: ClassVar[tuple[str, ...]] = (DOUBLING,)
    supports: ClassVar[dict[str, float]] = {"not_normalised": 0.95}
    denies: ClassVar[dict[str, float]] = {"not_normalised": 0.7}
    tolerance: float = 0.05
    empty: float = 0.5

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
        if not summed and LOSS not in off and signals.value(DOUBLING + LOSS) is not None:
            return
        what = ", ".join(inner)
        cause = (
            f"{what} is a sum over objects or images, not divided by their number: it doubles with the batch"
            if summed
            else f"{what} depends on the size of the batch"
        )
        evidence = {f"{name}_doubled_over_single": ratio for name, ratio in off.items()}
        weak = (signals.value(PREFLIGHT + "empty_share") or 0.0) >= self.empty
        causes = {"not_normalised": 0.3} if weak else None
        severity: Severity = "error" if summed and not weak else "warn"
        yield Symptom(severity, cause, evidence, ("model.loss.normalisation=global",), causes=causes)


@dataclass(kw_only=True)
class GrowsWithTargets(Rule):
    """Most parts of a loss grow like the number of objects in a batch, as sums do and means do not.

    One part alone may do so by design: a focal loss over all queries has more to say of more objects. Nor
    do all parts of a sum: some are means over prompts, and what mixes both grows less.
    """

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
    share: float = 0.5

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """At most one symptom, of two parts at least."""
        targets = signals.get(FACT + self.fact)
        if len(targets) < self.batches or np.ptp(targets.tail(256)) == 0:
            return
        found: dict[str, tuple[float, float]] = {}
        for name, stream in signals.under(PART):
            if stream.role == "supervised" and (fitted := self._fit(targets, stream)) is not None:
                found[name] = fitted
        growing = {n: f for n, f in found.items() if f[0] > self.slope and f[1] > self.correlation}
        if len(growing) > max(1.0, self.share * len(found)):
            name = max(growing, key=lambda n: growing[n][1])
            text = f"{listed(growing)} grow with the number of objects in a batch: they are not divided by it"
            evidence = {"exponent": growing[name][0], "rank_correlation": growing[name][1]}
            yield Symptom("warn", text, evidence, ("model.loss.normalisation=global",))

    def _fit(self, targets: Stream, part: Stream) -> tuple[float, float] | None:
        """(exponent, rank correlation) of a part over the number of objects; None where too few are known."""
        _, at, of = np.intersect1d(targets.steps, part.steps, return_indices=True)
        x, y = targets.values[at][-256:], part.values[of][-256:]
        both = (x > 0) & (y > 0)
        if both.sum() < self.batches or np.ptp(x[both]) == 0:
            return None
        return statistics.power_law(x[both], y[both]), statistics.rank_correlation(x[both], y[both])
