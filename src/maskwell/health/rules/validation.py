"""Validation against training, and against itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from maskwell.health import statistics
from maskwell.health.findings import Action
from maskwell.health.rules.base import Clock, Rule, Symptom, listed
from maskwell.health.signals import METRIC, METRIC_BAD, UPDATE, Signals, Steps, Values
from maskwell.health.statistics import median

SCORES = ("accuracy", "acc", "dice", "auroc")
"""As classifiers and foreign segmenters call theirs."""
HIGHER_IS_BETTER = ("map", "miou", "f1", "cgf1", "pmf1", "iou", "recall", "precision", *SCORES)
"""Last words of metrics that rise as a model gets better."""

EVALUATED_TRAIN = "evaluated_train/"
"""Prefix, under ``metric/``, of training figures that are computed as those of validation are."""


def pairs(signals: Signals, count: int = 64) -> Iterator[tuple[str, Values, Values]]:
    """(name, training, validation) of figures that were computed alike, at the same evaluations."""
    for name, train in signals.under(METRIC + EVALUATED_TRAIN):
        val = signals.get(METRIC + "val/" + name)
        _, at, of = np.intersect1d(train.steps, val.steps, return_indices=True)
        if len(at):
            yield name, train.values[at][-count:], val.values[of][-count:]


@dataclass(kw_only=True)
class Overfitting(Rule):
    """The validation loss rises while the gap to the training loss grows."""

    clock: ClassVar[Clock] = "evaluation"
    code: ClassVar[str] = "V01"
    reads: ClassVar[tuple[str, ...]] = (METRIC + "val/loss",)
    supports: ClassVar[dict[str, float]] = {"overfit": 0.85, "label_error": 0.2}
    denies: ClassVar[dict[str, float]] = {"overfit": 0.6}
    peers: ClassVar[tuple[str, ...]] = ("SageMaker Debugger", "UMLAUT", "AutoTrainer")
    evaluations: int = 6
    window: int = 12
    z: float = 1.96
    gap: float = 0.1
    patience: int = 3

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """By losses computed alike where there are any, else by the epochs' means of training."""
        val, train = _losses(signals)
        if len(val) < self.evaluations or int(np.argmin(val)) > len(val) - 1 - self.patience:
            return
        since = val[int(np.argmin(val)) :][-self.window :]
        recent = val[-self.window :]
        if len(since) < self.patience + 1:
            return
        rising = statistics.trend(since if len(since) >= 4 else recent)
        gaps = (val - train)[-len(since) :]
        widening = statistics.trend(gaps)
        level = max(abs(median(train[-len(since) :])), 1e-9)
        grown = median(gaps[-2:]) - median(gaps[:2])
        worse = median(val[-2:]) > 1.05 * float(np.min(val)) if val.min() > 0 else True
        enough = grown > self.gap * max(level, abs(float(val.min())))
        if rising.z > self.z and widening.z > self.z and enough and worse:
            best = int(np.argmin(val))
            evidence = {
                "best": float(val[best]),
                "now": float(val[-1]),
                "evaluations_since_best": float(len(val) - 1 - best),
            }
            remedies = ("callbacks.early_stopping.patience=5", "optim.weight_decay=0.1")
            yield Symptom(
                "warn", "validation gets worse while training gets better: overfitting", evidence, remedies
            )


def _losses(signals: Signals) -> tuple[Values, Values]:
    """Validation losses and training losses of the same epochs or evaluations."""
    for name, train, val in pairs(signals):
        if name == "loss":
            return val, train
    val_stream, train_stream = signals.get(METRIC + "val/loss"), signals.get("train_at_evaluation")
    _, at, of = np.intersect1d(val_stream.steps, train_stream.steps, return_indices=True)
    return val_stream.values[at][-64:], train_stream.values[of][-64:]


@dataclass(kw_only=True)
class TooGood(Rule):
    """Validation is clearly better than training, computed alike: leaked data, or the wrong split."""

    clock: ClassVar[Clock] = "evaluation"
    code: ClassVar[str] = "V02"
    reads: ClassVar[tuple[str, ...]] = (METRIC + EVALUATED_TRAIN,)
    supports: ClassVar[dict[str, float]] = {"leakage": 0.5, "split_mismatch": 0.5, "evaluation": 0.4}
    denies: ClassVar[dict[str, float]] = {"leakage": 0.2}
    peers: ClassVar[tuple[str, ...]] = ("UMLAUT",)
    points: float = 0.05
    evaluations: int = 3
    perfect: float = 0.99

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """One symptom per metric."""
        for name, train, val in pairs(signals):
            if name.rpartition("/")[2] not in HIGHER_IS_BETTER or len(val) < self.evaluations:
                continue
            ahead = (val - train)[-self.evaluations :]
            if ahead.min() > self.points:
                evidence = {f"val_{name}": float(val[-1]), f"train_{name}": float(train[-1])}
                text = f"{name} is better on validation than on training images, by {ahead[-1]:.2f}"
                yield Symptom("warn", text, evidence, (), name)
        for name, stream in signals.under(METRIC + "val/"):
            early = stream.first[:2]
            good = name.rpartition("/")[2] in HIGHER_IS_BETTER and len(early) == 2
            if good and min(early) > self.perfect and stream.seen <= 4:
                text = f"{name} is perfect from the first evaluation on: is the answer in the input?"
                yield Symptom("info", text, {name: early[-1]}, (), f"{name}_perfect", {"leakage": 0.5})


@dataclass(kw_only=True)
class FrozenValidation(Rule):
    """Figures of validation are exactly the same again and again, though the weights change."""

    clock: ClassVar[Clock] = "evaluation"
    code: ClassVar[str] = "V03"
    depth: ClassVar[int] = 0
    reads: ClassVar[tuple[str, ...]] = (METRIC + "val/loss",)
    supports: ClassVar[dict[str, float]] = {"evaluation": 0.8, "not_optimised": 0.4, "lr_low": 0.3}
    denies: ClassVar[dict[str, float]] = {"evaluation": 0.5}
    evaluations: int = 3

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """By the loss alone: a metric of 0 may stay 0 for long in health."""
        last = signals.get(METRIC + "val/loss").tail(self.evaluations)
        moving = [s.latest for _, s in signals.under(UPDATE)]
        still = bool(moving) and not any(moving)
        if len(last) == self.evaluations and np.ptp(last) <= 1e-12 * abs(last[0]) and not still:
            text = "the validation loss is exactly the same each time: other weights than the trained ones?"
            evidence = {"val/loss": float(last[-1]), "evaluations": float(self.evaluations)}
            yield Symptom("error", text, evidence)


@dataclass(kw_only=True)
class NonFiniteValidation(Rule):
    """A loss of validation is NaN or infinite, though training may go on as if nothing were."""

    clock: ClassVar[Clock] = "evaluation"
    code: ClassVar[str] = "N09"
    depth: ClassVar[int] = 0
    reads: ClassVar[tuple[str, ...]] = (METRIC + "val/loss", METRIC_BAD)
    supports: ClassVar[dict[str, float]] = {"overflow": 0.5, "bad_weights": 0.4, "evaluation": 0.4}
    denies: ClassVar[dict[str, float]] = {"bad_weights": 0.2}
    peers: ClassVar[tuple[str, ...]] = ("Lightning",)

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """One symptom for all, of the newest evaluation; an error where it was so twice in a row."""
        newest = max((s.latest_step for _, s in signals.under(METRIC)), default=-1)
        bad = {name: s for name, s in signals.under(METRIC_BAD) if s.latest_step >= max(newest, 0)}
        if bad:
            again = any(_again(signals, name, stream.steps) for name, stream in bad.items())
            text = f"{listed(bad)} is NaN or infinite" + (" again and again" if again else "")
            evidence = {f"evaluations_with_bad_{name}": float(s.seen) for name, s in bad.items()}
            yield Symptom("error" if again else "warn", text, evidence)


def _again(signals: Signals, name: str, bad: Steps) -> bool:
    """Whether no finite value lies between the last two that were not."""
    finite = signals.get(METRIC + name).steps
    return len(bad) > 1 and not ((finite > bad[-2]) & (finite < bad[-1])).any()


@dataclass(kw_only=True)
class MetricCollapse(Rule):
    """A metric has fallen to less than half of its best, or all predictions are of one class.

    A young model predicts the commonest class alone before it learns the others. One that has predicted
    others, and better, has collapsed after ``evaluations``; one that never has, after ``patience`` of
    them and ``steps`` steps. Others count by their share of the true pixels, where that is known.
    """

    clock: ClassVar[Clock] = "evaluation"
    code: ClassVar[str] = "V04"
    reads: ClassVar[tuple[str, ...]] = (METRIC + "val/",)
    supports: ClassVar[dict[str, float]] = {"divergence": 0.5, "degenerate": 0.5, "lr_high": 0.3}
    denies: ClassVar[dict[str, float]] = {"degenerate": 0.3}
    peers: ClassVar[tuple[str, ...]] = ("Ultralytics",)
    share: float = 0.5
    evaluations: int = 2
    established: float = 0.05
    main: tuple[str, ...] = ("map", "miou", "f1", "cgf1", "pmf1", *SCORES)
    one_class: float = 0.99
    others_left: float = 0.1
    others_had: float = 0.5
    patience: int = 8
    steps: int = 300
    action: Action = "recover"

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """Main metrics alone; those of single classes or thresholds swing in health."""
        yield from self._one_class(signals)
        for name in self.main:
            values = signals.get(METRIC + "val/" + name).values
            if len(values) < self.evaluations + 2:
                continue
            best = float(values[: -self.evaluations].max())
            now = float(values[-self.evaluations :].max())
            if best > self.established and now < self.share * best:
                text = f"{name} has collapsed to less than half of its best"
                yield Symptom("warn", text, {"best": best, "now": float(values[-1])}, (), name)

    def _one_class(self, signals: Signals) -> Iterator[Symptom]:
        predicted = signals.get(METRIC + "val/predicted_share_largest")
        true = signals.value(METRIC + "val/true_share_largest")
        if len(predicted) < self.evaluations:
            return
        others, there = 1 - predicted.values, None if true is None else 1 - true
        few = 1 - self.one_class if there is None else min(1 - self.one_class, self.others_left * there)
        many = 5 * (1 - self.one_class) if there is None else self.others_had * there
        gone = int(np.argmax(others[::-1] >= few)) if (others >= few).any() else len(others)
        if gone < self.evaluations:
            return
        figures = {"share": float(predicted.values[-1]), "evaluations": float(gone)}
        evidence = figures | ({} if true is None else {"true_share": true})
        causes = {"degenerate": 0.9, "imbalance": 0.4}
        if self._was_better(signals, predicted.steps[:-gone][others[:-gone] > many]):
            text = "nearly everything is predicted as one class, where others were told apart before"
        elif gone >= self.patience and int(predicted.steps[-1]) >= self.steps:
            text = "nearly everything is still predicted as one class: the others are not learnt"
        else:
            return
        yield Symptom("warn", text, evidence, (), "predicted_share_largest", causes)

    def _was_better(self, signals: Signals, steps: Steps) -> bool:
        """Whether the model was better than now at one of these evaluations: chance predicts others too."""
        quality = signals.get(METRIC + "val/miou")
        then = quality.values[np.isin(quality.steps, steps)]
        if not len(then):
            return len(steps) >= self.evaluations
        return float(then.max()) > 1.1 * float(quality.values[-self.evaluations :].max())


@dataclass(kw_only=True)
class NoisyValidation(Rule):
    """Improvements of the monitored figure are smaller than its noise: early stopping acts on chance."""

    clock: ClassVar[Clock] = "evaluation"
    code: ClassVar[str] = "V05"
    depth: ClassVar[int] = 2
    reads: ClassVar[tuple[str, ...]] = (METRIC + "val/",)
    supports: ClassVar[dict[str, float]] = {"evaluation": 0.2}
    evaluations: int = 10
    names: tuple[str, ...] = ("val/loss", "val/map", "val/miou", "val/f1")

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """Information: noise is what evaluations differ by from their own straight course."""
        for name in self.names:
            values = signals.get(METRIC + name).tail(self.evaluations)
            if len(values) < self.evaluations or np.ptp(values) == 0:
                continue
            course = statistics.trend(values)
            places = np.arange(len(values)) - (len(values) - 1) / 2
            noise = float(np.std(values - course.slope * places, ddof=2))
            if abs(course.change) < noise / math.sqrt(2) and abs(course.z) < 1:
                evidence = {"change": course.change, "noise": noise}
                text = f"{name} changes by less than its noise: early stopping would act on chance"
                yield Symptom("info", text, evidence, ("callbacks.early_stopping.patience=10",), name)
