"""A part of the loss that contributes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from maskwell.health.rules.base import Clock, Rule, Symptom
from maskwell.health.signals import PART, Signals


@dataclass(kw_only=True)
class DeadPart(Rule):
    """A supervised part of the loss was exactly 0 in each of the last ``steps`` steps.

    Parts with another role (consistency, adversarial, regulariser) may rest at 0 by design.
    """

    clock: ClassVar[Clock] = "step"
    depth: ClassVar[int] = 2
    steps: int = 64

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """One symptom per part."""
        for name, stream in signals.under(PART):
            last = stream.last(self.steps)
            if stream.role == "supervised" and len(last) == self.steps and not any(last):
                always = not stream.nonzero
                yield Symptom(
                    "warn",
                    f"{name} {'was never anything but' if always else 'has become'} exactly 0: "
                    "nothing is matched to its targets, or they are empty",
                    {"steps": self.steps, "value": 0.0},
                    ("debug=overfit",),
                    subject=name,
                )
