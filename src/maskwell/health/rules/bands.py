"""Absolute bands from field notes: what a loss or metric was in runs that went well."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from maskwell.health.rules.base import Clock, Rule, Symptom, scaled_rate
from maskwell.health.signals import EPOCH_LOSS, METRIC, Signals


@dataclass(kw_only=True)
class LossBand(Rule):
    """The mean loss lies above the upper end of the band that belongs to its epoch.

    ``bands`` maps an epoch (from 1) to [low, high]; each holds until the next one's epoch. A loss
    below its band is ahead of the notes, which is no fault.
    """

    clock: ClassVar[Clock] = "epoch"
    bands: Mapping[int, tuple[float, float]] = field(default_factory=dict)

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """At most one symptom."""
        losses = signals.get(EPOCH_LOSS)
        due = [int(epoch) for epoch in self.bands if int(epoch) <= signals.epoch]
        if not due or not len(losses):
            return
        low, high = {int(epoch): band for epoch, band in self.bands.items()}[max(due)]
        now = losses.values[-1]
        if now > high:
            yield Symptom(
                "warn",
                f"the mean loss is above the {low:g} to {high:g} that good runs had by epoch {max(due)}",
                {"loss": now, "epoch": signals.epoch},
                (*scaled_rate(signals, 0.1), "model.loss.normalisation=global"),
            )


@dataclass(kw_only=True)
class MetricBand(Rule):
    """The validation figure ``metric`` lies outside [``low``, ``high``] from epoch ``from_epoch`` on."""

    clock: ClassVar[Clock] = "epoch"
    depth: ClassVar[int] = 2
    metric: str
    low: float
    high: float
    from_epoch: int = 1

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """At most one symptom."""
        values = signals.get(METRIC + self.metric).last(1)
        if signals.epoch >= self.from_epoch and values and not self.low <= values[0] <= self.high:
            yield Symptom(
                "warn",
                f"{self.metric} is outside the {self.low:g} to {self.high:g} that a successful run shows",
                {self.metric: values[0], "epoch": signals.epoch},
                subject=self.metric,
            )
