"""Absolute bands from field notes: what a loss or metric was in runs that went well.

The notes contradict each other, and honest runs leave their bands: these rules belong to the
profiles ``health=guide_<family>`` and are off by default.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from maskwell.health import statistics
from maskwell.health.rules.base import Clock, Rule, Symptom, scaled_rate
from maskwell.health.signals import EPOCH_LOSS, LOSS, LR, METRIC, Signals
from maskwell.health.statistics import median

Bands = Mapping[int, tuple[float, float]]
"""From this epoch or step on: (low, high), until the next one's."""


def due(bands: Bands, now: int) -> tuple[int, float, float] | None:
    """(its beginning, low, high) of the band that holds at ``now``; None before the first."""
    begun = [at for at in bands if at <= now]
    return (max(begun), *bands[max(begun)]) if begun else None


@dataclass(kw_only=True)
class LossBand(Rule):
    """The mean loss lies above the upper end of the band that belongs to its epoch.

    ``bands`` maps an epoch (from 1) to [low, high]; each holds until the next one's epoch. A loss
    below its band is ahead of the notes, which is no fault.
    """

    clock: ClassVar[Clock] = "epoch"
    code: ClassVar[str] = "B01"
    reads: ClassVar[tuple[str, ...]] = (EPOCH_LOSS,)
    bands: Mapping[int, tuple[float, float]] = field(default_factory=dict)

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """At most one symptom."""
        band, now = due(self.bands, signals.epoch), signals.value(EPOCH_LOSS)
        if band is None or now is None:
            return
        begin, low, high = band
        if now > high:
            yield Symptom(
                "warn",
                f"the mean loss is above the {low:g} to {high:g} that good runs had by epoch {begin}",
                {"loss": now, "epoch": signals.epoch},
                (*scaled_rate(signals, 0.1), "model.loss.normalisation=global"),
            )


@dataclass(kw_only=True)
class MetricBand(Rule):
    """The validation figure ``metric`` lies outside [``low``, ``high``] from epoch ``from_epoch`` on."""

    clock: ClassVar[Clock] = "epoch"
    code: ClassVar[str] = "B02"
    depth: ClassVar[int] = 2
    reads: ClassVar[tuple[str, ...]] = (METRIC,)
    metric: str
    low: float
    high: float
    from_epoch: int = 1

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """At most one symptom."""
        value = signals.value(METRIC + self.metric)
        if signals.epoch >= self.from_epoch and value is not None and not self.low <= value <= self.high:
            yield Symptom(
                "warn",
                f"{self.metric} is outside the {self.low:g} to {self.high:g} that a successful run shows",
                {self.metric: value, "epoch": signals.epoch},
                subject=self.metric,
            )


@dataclass(kw_only=True)
class StreamBand(Rule):
    """The median of a stream's last values lies outside the band that belongs to its step.

    ``stream`` as it is called inside (``part/loss_d``, ``fact/st_count``, ``head_grad/x_head``,
    ``metric/val/miou``); ``bands`` from a step on [low, high]; ``side`` the end that counts.
    """

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "B03"
    depth: ClassVar[int] = 2
    every: ClassVar[int] = 16
    stream: str
    bands: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    side: Literal["both", "above", "below"] = "both"
    values: int = 64
    says: str = ""
    remedies: tuple[str, ...] = ()

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """At most one symptom."""
        found = signals.get(self.stream).tail(self.values)
        band = due(self.bands, signals.step)
        if band is None or not len(found):
            return
        begin, low, high = band
        middle = median(found)
        outside = (self.side != "above" and middle < low) or (self.side != "below" and middle > high)
        if outside:
            name = self.stream.partition("/")[2]
            text = f"{name} is outside the {low:g} to {high:g} that good runs had from step {begin} on"
            why = f"{text}: {self.says}" if self.says else text
            yield Symptom("warn", why, {name: middle, "step": float(signals.step)}, self.remedies, name)


@dataclass(kw_only=True)
class StreamRising(Rule):
    """A stream rises all the time, as feature matching does where the game is unstable."""

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "B04"
    every: ClassVar[int] = 64
    depth: ClassVar[int] = 2
    stream: str
    blocks: int = 12
    block: int = 64
    z: float = 2.58
    factor: float = 2.0
    says: str = ""

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """At most one symptom."""
        values = signals.get(self.stream).tail(self.block * self.blocks)
        if len(values) < self.block * self.blocks:
            return
        medians = statistics.block_medians(values, self.block, self.blocks)
        found = statistics.trend(medians)
        if found.z > self.z and medians[0] > 0 and medians[-1] > self.factor * medians[0]:
            name = self.stream.partition("/")[2]
            evidence = {"first": float(medians[0]), "now": float(medians[-1]), "z": found.z}
            yield Symptom("warn", f"{name} rises all the time: {self.says}", evidence, (), name)


@dataclass(kw_only=True)
class RateConstant(Rule):
    """The learning rate stays as it is, where the notes have it decay from the first step on."""

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "B05"
    every: ClassVar[int] = 64
    depth: ClassVar[int] = 0
    reads: ClassVar[tuple[str, ...]] = (LR,)
    steps: int = 500

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """One symptom per optimiser."""
        for name, stream in signals.under(LR):
            values = stream.tail(self.steps)
            if len(values) == self.steps and np.ptp(values) == 0 and values[-1] > 0:
                text = f"the learning rate has not changed for {self.steps} steps: it should decay"
                yield Symptom("warn", text, {"learning_rate": float(values[-1])}, (), name)


@dataclass(kw_only=True)
class BatchJumps(Rule):
    """The loss jumps by a large factor from one batch to the next, again and again."""

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "B06"
    every: ClassVar[int] = 64
    reads: ClassVar[tuple[str, ...]] = (LOSS,)
    factor: float = 20.0
    share: float = 0.02
    steps: int = 256

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """At most one symptom."""
        values = signals.get(LOSS).tail(self.steps)
        values = values[values > 0]
        if len(values) < self.steps // 2:
            return
        jumps = float((np.abs(np.diff(np.log(values))) > np.log(self.factor)).mean())
        if jumps > self.share:
            remedies = (
                "callbacks.grad_clip.max_norm=1.0",
                *scaled_rate(signals, 0.5),
                "optim.weight_decay=1e-4",
            )
            text = f"the loss jumps by a factor of {self.factor:g} from batch to batch"
            yield Symptom("warn", text, {"jumping_share": jumps}, remedies)


@dataclass(kw_only=True)
class ValidationRatio(Rule):
    """The validation loss is many times the training loss."""

    clock: ClassVar[Clock] = "evaluation"
    code: ClassVar[str] = "B07"
    reads: ClassVar[tuple[str, ...]] = (METRIC + "val/loss",)
    supports: ClassVar[dict[str, float]] = {"overfit": 0.7}
    ratio: float = 10.0

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """At most one symptom."""
        val, train = signals.value(METRIC + "val/loss"), signals.value("train_at_evaluation")
        if val is not None and train and val > self.ratio * train > 0:
            evidence = {"validation": val, "training": train}
            text = f"the validation loss is {val / train:.0f} times the training loss: overfitting"
            yield Symptom("warn", text, evidence, ("callbacks.early_stopping.patience=5",))
