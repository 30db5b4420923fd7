"""A loss that is not divided by what it was summed over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from maskwell.health.rules.base import Clock, Rule, Symptom
from maskwell.health.signals import DOUBLING, DOUBLING_NOISE, LOSS, Signals


@dataclass(kw_only=True)
class Normaliser(Rule):
    """loss(batch twice) / loss(batch): 1 if the loss is a mean, 2 if it is a sum.

    A ratio further than ``tolerance`` (and the noise of the measurement) from 1 is named, for the
    total and for its parts.
    """

    clock: ClassVar[Clock] = "start"
    depth: ClassVar[int] = 0
    tolerance: float = 0.05

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """One symptom for all parts that are off."""
        off: dict[str, float] = {}
        for name, stream in signals.under(DOUBLING):
            ratio = stream.last(1)[0]
            noise = (signals.get(DOUBLING_NOISE + name).last(1) or [0.0])[0]
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
