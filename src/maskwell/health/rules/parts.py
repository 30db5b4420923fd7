"""A part of the loss that contributes nothing, or everything, or the wrong way round."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from maskwell.health import statistics
from maskwell.health.rules.base import CHANGES, Clock, Rule, Symptom, listed
from maskwell.health.signals import LOSS, NONFINITE, PART, Signals
from maskwell.health.statistics import Values, median


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
        made = composition(signals, self.steps)
        if made is None or made.error > 0.02:
            return
        shares = np.median(made.terms / np.maximum(np.abs(made.total), 1e-12)[:, None], axis=0)
        largest = int(np.argmax(shares))
        if shares[largest] > self.share:
            name = made.names[largest]
            others = median(np.delete(made.terms, largest, 1).sum(1))
            own = median(made.terms[:, largest])
            factor = max(others, 1e-9) / own
            weight = float(made.weights[largest])
            text = (
                f"{name} makes up {shares[largest]:.1%} of the loss; "
                f"a weight of {weight * factor:.2g} would make it half"
            )
            evidence = {"share": float(shares[largest]), "weight": weight}
            yield Symptom("warn", text, evidence, (), name)


@dataclass(kw_only=True)
class SubtractedPart(Rule):
    """A part that should fall enters the loss with a weight below 0: training makes it larger."""

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "N06b"
    depth: ClassVar[int] = 0
    every: ClassVar[int] = 32
    reads: ClassVar[tuple[str, ...]] = (PART,)
    explained_by: ClassVar[tuple[str, ...]] = CHANGES
    supports: ClassVar[dict[str, float]] = {"wrong_sign": 0.95}
    denies: ClassVar[dict[str, float]] = {"wrong_sign": 0.4}
    steps: int = 64
    share: float = 0.01
    errors: float = 8.0

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """One symptom for all; only of a total that is a weighted sum of known parts, to a thousandth."""
        made = composition(signals, self.steps)
        if made is None or made.error > 1e-3:
            return
        sizes = np.median(np.abs(made.terms), axis=0)
        below = (made.weights < -self.errors * made.weight_errors) & (sizes > self.share * sizes.sum())
        found = {
            name: float(weight)
            for name, weight, wrong in zip(made.names, made.weights, below, strict=True)
            if wrong and signals.get(PART + name).tail(self.steps).min() >= 0
        }
        if found:
            text = f"{listed(found)} is subtracted from the loss: training makes it larger"
            yield Symptom("error", text, {f"weight_of_{name}": weight for name, weight in found.items()})


class Composition(NamedTuple):
    """How a total [N] is made of its supervised parts: ``weights`` [P] with their standard errors, ``terms``
    [N, P] (part times weight), and the largest ``error`` of their sum, as a share of the largest total.
    """

    names: list[str]
    weights: Values
    weight_errors: Values
    terms: Values
    total: Values
    error: float


def composition(signals: Signals, steps: int) -> Composition | None:
    """By regression over the last ``steps``; None where it is not to be told, or of fewer than two parts."""
    total = signals.get(LOSS)
    if len(total) < steps:
        return None
    at = total.steps[-steps:]
    # a loss that was not finite in some steps has gaps there, its parts need not
    every = {n: s for n, s in signals.under(PART) if np.array_equal(s.steps[-steps:], at)}
    sums = statistics.sums_of_others({n: s.tail(steps) for n, s in every.items()})
    parts = {
        n: s.tail(steps)
        for n, s in every.items()
        if s.role == "supervised"
        and n not in sums
        and not np.allclose(s.tail(steps), total.tail(steps), 1e-5)
    }
    if len(parts) < 2:
        return None
    y, x = total.tail(steps), np.stack(list(parts.values()), 1)
    weights, _, rank, _ = np.linalg.lstsq(x, y, rcond=None)
    if rank < x.shape[1]:
        return None
    rest = x @ weights - y
    spread = np.linalg.inv(x.T @ x).diagonal() * (rest @ rest) / max(1, steps - x.shape[1])
    errors = np.sqrt(np.maximum(spread, 0.0))
    error = float(np.abs(rest).max() / max(np.abs(y).max(), 1e-12))
    return Composition(
        list(parts), np.asarray(weights), np.asarray(errors), np.asarray(x * weights), y, error
    )
