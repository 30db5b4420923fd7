"""Semi-supervised training: pseudo-labels and the discriminator."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from maskwell.health import statistics
from maskwell.health.rules.base import Clock, Rule, Symptom
from maskwell.health.signals import EVENT, FACT, METRIC, PART, PREFLIGHT, PROBE, Signals, Values
from maskwell.health.statistics import median

ST_COUNT, ST_OF, ST_SHARE = FACT + "st_count", FACT + "st_of", FACT + "st_share"
LN2 = math.log(2)


def _since_start(signals: Signals, name: str, count: int) -> Values:
    """The newest values of a stream since self-training began."""
    return signals.get(name).tail(count, signals.get(EVENT + "self_training").latest_step)


@dataclass(kw_only=True)
class PseudoCount(Rule):
    """Hardly any unlabelled image gives a pseudo-label long after self-training began, or none any more."""

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "T01"
    depth: ClassVar[int] = 0
    every: ClassVar[int] = 32
    reads: ClassVar[tuple[str, ...]] = (ST_COUNT,)
    supports: ClassVar[dict[str, float]] = {"pseudo_threshold": 0.9}
    denies: ClassVar[dict[str, float]] = {"pseudo_threshold": 0.6}
    share: float = 0.01
    patience: int = 300
    steps: int = 100
    before: float = 0.2

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """Counts are judged as shares of what was offered; nothing before the start is."""
        started = signals.get(EVENT + "self_training").latest_step
        taken = _since_start(signals, ST_COUNT, 1024)
        offered = _since_start(signals, ST_OF, 1024)
        if not signals.get(ST_OF).seen:  # as in the field notes' log: of as many as were ever taken
            offered = np.full(len(taken), max(1.0, float(signals.get(ST_COUNT).values.max(initial=0.0))))
        size = min(len(taken), len(offered))
        if size < self.patience or (started < 0 and signals.step < 1000):
            return
        taken, offered = taken[-size:], offered[-size:]
        recent, of = float(taken[-self.steps :].sum()), float(offered[-self.steps :].sum())
        upper = statistics.wilson(recent, of)[1]
        earlier = float(taken[: -self.steps].sum()) / max(1.0, float(offered[: -self.steps].sum()))
        evidence = {"taken": recent, "offered": of, "share_before": earlier}
        if recent == 0 and earlier > self.before:
            text = "pseudo-labels have stopped all at once: the model or its discriminator got worse"
            causes = {"d_strong": 0.5, "divergence": 0.4, "pseudo_threshold": 0.4}
            yield Symptom("warn", text, evidence, ("model.rates.lr_discriminator=5e-5",), "stopped", causes)
        elif (upper < max(self.share, 4 / max(of, 1.0)) and recent == 0) or upper < self.share:
            text = "hardly any unlabelled image passes the threshold: nothing is learnt from them"
            remedies = ("model.recipe.threshold_st=0.1", "model.recipe.pixel_threshold=0.8")
            yield Symptom("warn", text, evidence, remedies, "low")


@dataclass(kw_only=True)
class PseudoCollapse(Rule):
    """Nearly all pseudo-labels are of one class, or their classes are far from those of labelled images."""

    clock: ClassVar[Clock] = "evaluation"
    code: ClassVar[str] = "T02"
    reads: ClassVar[tuple[str, ...]] = (METRIC + "val/pseudo_share/",)
    supports: ClassVar[dict[str, float]] = {"pseudo_collapse": 0.9}
    denies: ClassVar[dict[str, float]] = {"pseudo_collapse": 0.5}
    share: float = 0.95
    divergence: float = 1.0
    evaluations: int = 2

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """By evaluation; the labelled shares are those that the preflight counted."""
        streams = dict(signals.under(METRIC + "val/pseudo_share/"))
        if not streams or min(len(s) for s in streams.values()) < self.evaluations:
            return
        shares = np.stack([s.tail(self.evaluations) for s in streams.values()], 1)
        if shares.sum(1).min() < 0.99:
            return
        largest = int(shares.mean(0).argmax())
        labelled = np.array([signals.value(f"{PREFLIGHT}class/train/{name}") or 0.0 for name in streams])
        usual = labelled / labelled.sum() if labelled.sum() else None
        evidence = {"share": float(shares[-1, largest])}
        if shares[:, largest].min() > self.share and (usual is None or usual[largest] < 0.9 * self.share):
            text = f"nearly all pseudo-labels are {list(streams)[largest]}: they have collapsed"
            yield Symptom("warn", text, evidence, ("model.recipe.class_wise=true",), "one_class")
        elif usual is not None:
            p = np.maximum(shares, 1e-6)
            distance = (p * np.log(p / np.maximum(usual, 1e-3))).sum(1)
            if distance.min() > self.divergence:
                text = "pseudo-labels have quite other classes than the labelled images"
                remedies = ("model.recipe.class_wise=true",)
                yield Symptom("warn", text, {"divergence": float(distance[-1])}, remedies, "distribution")


@dataclass(kw_only=True)
class ConfirmationDrift(Rule):
    """More and more pseudo-labels are taken while validation gets worse: the model confirms its errors."""

    clock: ClassVar[Clock] = "evaluation"
    code: ClassVar[str] = "T03"
    reads: ClassVar[tuple[str, ...]] = (ST_SHARE,)
    supports: ClassVar[dict[str, float]] = {"pseudo_collapse": 0.8}
    denies: ClassVar[dict[str, float]] = {"pseudo_collapse": 0.2}
    z: float = 1.96
    evaluations: int = 6
    share: float = 0.9

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """At most two symptoms: the drift, and a teacher that is no average."""
        metric = signals.get(METRIC + "val/miou").tail(12)
        taken = _since_start(signals, ST_SHARE, 512)
        if len(metric) >= self.evaluations and len(taken) >= 256:
            falling = statistics.trend(metric)
            growing = statistics.trend(statistics.block_medians(taken, 32, 16))
            high = median(taken[-32:]) > self.share
            if falling.z < -self.z and growing.z > self.z and high and falling.change < -0.1 * metric.max():
                evidence = {"taken_share": median(taken[-32:]), "change_of_miou": falling.change}
                text = "ever more pseudo-labels are taken while validation gets worse: errors are confirmed"
                yield Symptom("warn", text, evidence, ("model.recipe.pixel_threshold=0.95",), "drift")
        distance = signals.value(PROBE + "teacher_distance")
        if distance == 0.0:
            text = "the averaged weights are exactly the trained ones: there is no teacher"
            yield Symptom(
                "warn", text, {"distance": 0.0}, ("model.ema_decay=0.996",), "teacher", {"evaluation": 0.5}
            )


@dataclass(kw_only=True)
class DiscriminatorBalance(Rule):
    """The discriminator wins all the time, stays at chance, or has a loss above 1.

    ``part`` is its loss, the mean of both binary cross-entropies: ln 2 at chance, 0 where it is never wrong.
    """

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "T04"
    every: ClassVar[int] = 32
    reads: ClassVar[tuple[str, ...]] = (PART + "loss_d",)
    supports: ClassVar[dict[str, float]] = {"d_strong": 0.9}
    denies: ClassVar[dict[str, float]] = {"d_strong": 0.5, "d_weak": 0.5}
    part: str = "loss_d"
    matching: str = "loss_fm"
    won: float = 0.1
    steps: int = 200
    chance: float = 0.01
    chance_steps: int = 500
    high: float = 1.0
    both: float = 0.1

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """At most one symptom."""
        stream = signals.get(PART + self.part)
        values = stream.tail(self.chance_steps)
        if len(values) < self.steps or values.min() < 0:  # that of a critic is no cross-entropy
            return
        if abs(median(stream.first) - 2 * LN2) < self.both * 2 * LN2:
            values = values / 2  # a sum over real and predicted ones begins there, a mean at half of it
        recent = values[-self.steps :]
        middle = median(recent)
        evidence = {self.part: middle}
        weaker = ("model.rates.lr_discriminator=5e-5", "model.recipe.real_confidence=0.9")
        if float(np.quantile(recent, 0.9)) < self.won:
            matching = statistics.trend(
                statistics.block_medians(signals.get(PART + self.matching).tail(self.steps), 16, 12)
            )
            falling = matching.z < -2.58
            if not falling:
                text = "the discriminator is never wrong: the generator learns nothing from it"
                yield Symptom("warn", text, evidence, weaker, "wins")
        elif middle > self.high:
            text = "the discriminator's loss stays above 1: it is worse than chance, the game is unstable"
            yield Symptom(
                "warn", text, evidence, weaker, "unstable", {"d_strong": 0.4, "lr_high": 0.5, "d_weak": 0.4}
            )
        elif len(values) == self.chance_steps and np.abs(values - LN2).max() < self.chance * LN2:
            text = "the discriminator's loss stays at ln 2: it does not learn"
            remedies = ("model.rates.lr_discriminator=1e-4",)
            yield Symptom("warn", text, evidence, remedies, "chance", {"d_weak": 0.9})


@dataclass(kw_only=True)
class DiscriminatorInput(Rule):
    """Real and predicted pairs reach the discriminator on different scales, by which it tells them apart."""

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "T05"
    depth: ClassVar[int] = 0
    reads: ClassVar[tuple[str, ...]] = (PROBE + "d_range_ratio",)
    supports: ClassVar[dict[str, float]] = {"d_input": 0.95}
    denies: ClassVar[dict[str, float]] = {"d_input": 0.7}
    ratio: float = 1.5

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """At most one symptom; the ratio is the larger range of image values over the smaller."""
        found = signals.value(PROBE + "d_range_ratio")
        if found is not None and found > self.ratio:
            text = "images of real and predicted pairs reach the discriminator on different scales"
            yield Symptom("warn", text, {"range_ratio": found})
