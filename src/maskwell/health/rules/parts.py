"""A part of the loss that contributes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from maskwell.health.rules.base import Clock, Rule, Symptom
from maskwell.health.signals import NONFINITE, PART, Signals


@dataclass(kw_only=True)
class DeadPart(Rule):
    """A supervised part of the loss was exactly 0, or exactly the same, in each of the last ``steps`` steps.

    Parts with another role (consistency, adversarial, regulariser) may rest at 0 by design.
    """

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "L08"
    depth: ClassVar[int] = 2
    reads: ClassVar[tuple[str, ...]] = (PART,)
    supports: ClassVar[dict[str, float]] = {"dead_component": 0.9, "no_targets": 0.3}
    denies: ClassVar[dict[str, float]] = {"dead_component": 0.7}
    steps: int = 64

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """One symptom per part; where steps are dropped as not finite, a part may well stay as it is."""
        if any(s.latest_step > signals.step - self.steps for _, s in signals.under(NONFINITE)):
            return
        for name, stream in signals.under(PART):
            last = stream.tail(self.steps)
            if stream.role != "supervised" or len(last) < self.steps:
                continue
            if not last.any():
                always = not stream.nonzero
                yield Symptom(
                    "warn",
                    f"{name} {'was never anything but' if always else 'has become'} exactly 0: "
                    "nothing is matched to its targets, or they are empty",
                    {"steps": self.steps, "value": 0.0},
                    ("debug=overfit",),
                    subject=name,
                )
            elif np.ptp(last) == 0:
                text = f"{name} is exactly the same in every step: it does not depend on what is learnt"
                yield Symptom("warn", text, {"steps": self.steps, "value": float(last[-1])}, (), name)
