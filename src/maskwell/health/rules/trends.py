"""The course over epochs and evaluations: rising, going nowhere, falling behind."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import ClassVar

import numpy as np

from maskwell.health import statistics
from maskwell.health.rules.base import CHANGES, Clock, Rule, Symptom, scaled_rate
from maskwell.health.rules.validation import HIGHER_IS_BETTER, SCORES, pairs
from maskwell.health.signals import EPOCH_ERROR, EPOCH_LOSS, METRIC, Signals
from maskwell.health.statistics import Values


@dataclass(kw_only=True)
class Rising(Rule):
    """The mean loss rose ``epochs`` times in a row, by more than its noise explains.

    In all it must have risen by ``share`` of its value and by ``errors`` standard errors: on a
    plateau, three small rises in a row happen by chance every couple of dozen epochs.
    """

    clock: ClassVar[Clock] = "epoch"
    code: ClassVar[str] = "E01"
    reads: ClassVar[tuple[str, ...]] = (EPOCH_LOSS,)
    supports: ClassVar[dict[str, float]] = {"lr_high": 0.6, "divergence": 0.6}
    denies: ClassVar[dict[str, float]] = {"divergence": 0.3}
    epochs: int = 3
    share: float = 0.05
    errors: float = 3.0

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """At most one symptom; an error where the loss stands above that of the first epoch."""
        losses = signals.get(EPOCH_LOSS)
        last = losses.last(self.epochs + 1)
        if len(last) <= self.epochs or not all(a < b for a, b in pairwise(last)):
            return
        rise = last[-1] - last[0]
        noise = signals.get(EPOCH_ERROR).last(self.epochs + 1)
        known = noise and all(math.isfinite(n) for n in noise)
        error = math.hypot(noise[0], noise[-1]) if known else _scatter(losses.values[: -self.epochs])
        if rise < self.share * abs(last[0]) or rise < self.errors * error:
            return
        worse_than_start = last[-1] > losses.first[0]
        yield Symptom(
            "error" if worse_than_start else "warn",
            f"the mean loss rose {self.epochs} epochs in a row: the learning rate is too high",
            {"before": last[0], "now": last[-1], "standard_error": error},
            (*scaled_rate(signals, 0.3), "callbacks.grad_clip.max_norm=0.1"),
        )


def _scatter(losses: Values) -> float:
    """How far the means of successive epochs lie apart, of which no error is known; 0 of few."""
    return float(np.std(np.diff(losses[-25:]))) if len(losses) > 4 else 0.0


@dataclass(kw_only=True)
class Constant(Rule):
    """The mean loss stayed within ``share`` of its median for ``epochs`` epochs.

    Where it had fallen by ``learnt`` of its first value before, this is a plateau and no more than
    information; exactly equal values are always a fault.
    """

    clock: ClassVar[Clock] = "epoch"
    code: ClassVar[str] = "E02"
    depth: ClassVar[int] = 2
    reads: ClassVar[tuple[str, ...]] = (EPOCH_LOSS,)
    supports: ClassVar[dict[str, float]] = {"plateau": 0.6, "lr_low": 0.5, "not_optimised": 0.5}
    denies: ClassVar[dict[str, float]] = {"not_optimised": 0.2}
    epochs: int = 10
    share: float = 0.005
    learnt: float = 0.1

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """At most one symptom."""
        losses = signals.get(EPOCH_LOSS)
        last = losses.last(self.epochs)
        if len(last) < self.epochs:
            return
        middle, spread = median(last), max(last) - min(last)
        if spread > self.share * abs(middle):
            return
        evidence = {"median": middle, "spread": spread, "first_epoch": losses.first[0]}
        if spread == 0.0:
            yield Symptom(
                "error",
                f"the mean loss is exactly the same since {self.epochs} epochs: nothing is being trained",
                evidence,
                ("debug=overfit", *scaled_rate(signals, 10)),
            )
        elif middle > (1 - self.learnt) * losses.first[0]:
            yield Symptom(
                "warn",
                f"the mean loss has not moved for {self.epochs} epochs and never fell: nothing is learnt",
                evidence,
                (*scaled_rate(signals, 3), "debug=overfit"),
            )
        else:
            yield Symptom("info", f"the loss lies on a plateau since {self.epochs} epochs", evidence)


@dataclass(kw_only=True)
class SlowStart(Rule):
    """After ``epochs`` epochs the mean loss is still about that of the first one. Information.

    A fall of 5 % an epoch is progress; a high first loss says nothing.
    """

    clock: ClassVar[Clock] = "epoch"
    code: ClassVar[str] = "E03"
    depth: ClassVar[int] = 2
    reads: ClassVar[tuple[str, ...]] = (EPOCH_LOSS,)
    supports: ClassVar[dict[str, float]] = {"lr_low": 0.4}
    epochs: int = 5
    share: float = 0.95

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """At most one symptom."""
        losses = signals.get(EPOCH_LOSS)
        if losses.seen < self.epochs or losses.seen > 2 * self.epochs:
            return
        now, first = losses.last(1)[0], losses.first[0]
        if now > self.share * first > 0:
            evidence = {"first_epoch": first, "now": now}
            text = f"after {losses.seen} epochs the mean loss has hardly fallen"
            yield Symptom("info", text, evidence, scaled_rate(signals, 3))


@dataclass(kw_only=True)
class TrainValGap(Rule):
    """A figure computed alike is far better on training than on validation images.

    A warning where validation falls meanwhile; a gap alone is information: few images always leave one.
    """

    clock: ClassVar[Clock] = "evaluation"
    code: ClassVar[str] = "E06"
    reads: ClassVar[tuple[str, ...]] = (METRIC + "evaluated_train/",)
    supports: ClassVar[dict[str, float]] = {"overfit": 0.7}
    denies: ClassVar[dict[str, float]] = {"overfit": 0.4}
    gap: float = 0.15
    evaluations: int = 3
    fall: float = 0.1
    on_gap: str = "info"

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """One symptom per metric."""
        for name, train, val in pairs(signals):
            if name.rpartition("/")[2] not in HIGHER_IS_BETTER or len(val) < self.evaluations:
                continue
            gaps = (train - val)[-self.evaluations :]
            if gaps.min() <= self.gap:
                continue
            falls = len(val) >= 6 and val[-3:].max() < (1 - self.fall) * val.max()
            evidence = {f"train_{name}": float(train[-1]), f"val_{name}": float(val[-1])}
            remedies = ("callbacks.early_stopping.patience=5", "data.val_split=0.3")
            text = f"{name} is {gaps[-1]:.2f} higher on training than on validation images: overfitting"
            yield Symptom(
                "warn" if falls or self.on_gap == "warn" else "info", text, evidence, remedies, name
            )


@dataclass(kw_only=True)
class MetricFalling(Rule):
    """The main figure of validation, or of training images, falls over many evaluations."""

    clock: ClassVar[Clock] = "evaluation"
    code: ClassVar[str] = "E07"
    reads: ClassVar[tuple[str, ...]] = (METRIC,)
    explained_by: ClassVar[tuple[str, ...]] = CHANGES
    supports: ClassVar[dict[str, float]] = {"overfit": 0.4, "divergence": 0.4, "lr_high": 0.3}
    denies: ClassVar[dict[str, float]] = {"divergence": 0.2}
    main: tuple[str, ...] = ("map", "miou", "f1", "cgf1", "f1_relative", *SCORES)
    evaluations: int = 8
    z: float = 2.58
    share: float = 0.2

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """One symptom per metric."""
        for name in self.main:
            for place in ("val/", "evaluated_train/"):
                values = signals.window(signals.get(METRIC + place + name), self.evaluations)
                if len(values) < self.evaluations:
                    continue
                found = statistics.trend(values)
                best = float(np.max(signals.get(METRIC + place + name).values))
                if found.z < -self.z and found.change < -self.share * abs(best):
                    evidence = {"best": best, "now": float(values[-1]), "z": found.z}
                    text = f"{place}{name} falls from evaluation to evaluation"
                    yield Symptom("warn", text, evidence, scaled_rate(signals, 0.3), place + name)
