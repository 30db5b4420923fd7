"""A part of the loss that contributes nothing, or everything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from maskwell.health import statistics
from maskwell.health.rules.base import CHANGES, Clock, Rule, Symptom
from maskwell.health.signals import LOSS, NONFINITE, PART, Signals
from maskwell.health.statistics import median


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


@dataclass(kw_only=True)
class Dominance(Rule):
    """One part makes up nearly all of the loss: the others are hardly learnt."""

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "L09"
    every: ClassVar[int] = 64
    reads: ClassVar[tuple[str, ...]] = (PART,)
    explained_by: ClassVar[tuple[str, ...]] = CHANGES
    supports: ClassVar[dict[str, float]] = {"loss_weight": 0.8, "not_normalised": 0.3}
    denies: ClassVar[dict[str, float]] = {"loss_weight": 0.3}
    peers: ClassVar[tuple[str, ...]] = ("TheDeepChecker",)
    share: float = 0.99
    steps: int = 200

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """By the weight with which a part enters the total, as a regression over the steps tells it."""
        total = signals.get(LOSS)
        if len(total) < self.steps:
            return
        at = total.steps[-self.steps :]
        # a loss that was not finite in some steps has gaps there, its parts need not
        every = {n: s for n, s in signals.under(PART) if np.array_equal(s.steps[-self.steps :], at)}
        sums = statistics.sums_of_others({n: s.tail(self.steps) for n, s in every.items()})
        parts = {
            n: s
            for n, s in every.items()
            if s.role == "supervised"
            and n not in sums
            and not np.allclose(s.tail(self.steps), total.tail(self.steps), rtol=1e-5)
        }
        if len(parts) < 2:
            return
        y = total.tail(self.steps)
        x = np.stack([s.tail(self.steps) for s in parts.values()], 1)
        weights, _, rank, _ = np.linalg.lstsq(x, y, rcond=None)
        fitted = x @ weights
        if rank < x.shape[1] or np.abs(fitted - y).max() > 0.02 * np.abs(y).max():
            return  # the total is no weighted sum of the parts that are known
        shares = np.median(x * weights / np.maximum(np.abs(y), 1e-12)[:, None], axis=0)
        largest = int(np.argmax(shares))
        if shares[largest] > self.share:
            name = list(parts)[largest]
            others = median(np.delete(x * weights, largest, 1).sum(1))
            own = median(x[:, largest] * weights[largest])
            factor = max(others, 1e-9) / own
            weight = float(weights[largest])
            text = (
                f"{name} makes up {shares[largest]:.1%} of the loss; "
                f"a weight of {weight * factor:.2g} would make it half"
            )
            evidence = {"share": float(shares[largest]), "weight": weight}
            yield Symptom("warn", text, evidence, (), name)
