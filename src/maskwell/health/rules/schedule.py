"""The learning rate as it is, against what was planned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from maskwell.health.rules.base import CHANGES, Clock, Rule, Symptom, scaled_rate
from maskwell.health.signals import COUNTER, LR, LR_EXPECTED, UPDATE, Signals
from maskwell.health.statistics import median


@dataclass(kw_only=True)
class RateOffPlan(Rule):
    """The learning rate is not what its schedule, simulated from the start, says; or it is 0 early."""

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "O01"
    depth: ClassVar[int] = 0
    every: ClassVar[int] = 16
    reads: ClassVar[tuple[str, ...]] = (LR,)
    explained_by: ClassVar[tuple[str, ...]] = ("recovery",)
    settle: ClassVar[int] = 16
    supports: ClassVar[dict[str, float]] = {"schedule": 0.9, "lr_low": 0.2}
    denies: ClassVar[dict[str, float]] = {"schedule": 0.5}
    peers: ClassVar[tuple[str, ...]] = ("UMLAUT",)
    tolerance: float = 0.05
    steps: int = 8
    zero_after: int = 32
    early: float = 0.9

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """One symptom per optimiser."""
        planned = signals.value(COUNTER + "planned_steps")
        for name, stream in signals.under(LR):
            rates = stream.tail(self.steps)
            if len(rates) < self.steps:
                continue
            evidence = {"learning_rate": float(rates[-1]), "step": float(stream.latest_step)}
            early = not planned or stream.latest_step < self.early * planned
            if not rates.any() and stream.seen >= self.zero_after and early:
                text = "the learning rate is 0: nothing is learnt"
                causes = {"lr_low": 0.8, "schedule": 0.8}
                yield Symptom("error", text, evidence, scaled_rate(signals, 1.0), f"{name}_zero", causes)
                continue
            expected = signals.get(LR_EXPECTED + name).tail(self.steps)
            if len(expected) < self.steps:
                continue
            off = np.abs(rates - expected) > self.tolerance * np.maximum(np.abs(expected), 1e-12)
            if off.all():
                text = (
                    "the learning rate does not follow its schedule: epochs taken for steps, or stepped twice"
                )
                evidence = {**evidence, "planned": float(expected[-1])}
                yield Symptom("warn", text, evidence, (), name)


@dataclass(kw_only=True)
class RateJump(Rule):
    """The learning rate jumped by a large factor, and nothing declared it."""

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "O02"
    depth: ClassVar[int] = 0
    every: ClassVar[int] = 16
    reads: ClassVar[tuple[str, ...]] = (LR,)
    explained_by: ClassVar[tuple[str, ...]] = CHANGES
    settle: ClassVar[int] = 16
    supports: ClassVar[dict[str, float]] = {"schedule": 0.8, "optimizer_state": 0.3}
    denies: ClassVar[dict[str, float]] = {"schedule": 0.2}
    factor: float = 10.0
    newest: int = 64

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """Upwards only, one symptom per optimiser; a warm-up starts at 0 and climbs in steps it declares."""
        for name, stream in signals.under(LR):
            rates = signals.window(stream, self.newest)
            if stream.seen < 2 * self.newest or len(rates) < 2:
                continue
            before, after = rates[:-1], rates[1:]
            jumps = np.flatnonzero((before > 0) & (after > self.factor * before))
            if len(jumps) and signals.get(LR_EXPECTED + name).latest is None:
                at = int(jumps[-1])
                evidence = {"before": float(before[at]), "after": float(after[at])}
                yield Symptom("warn", "the learning rate jumped up", evidence, (), name)


@dataclass(kw_only=True)
class ScheduleDesync(Rule):
    """The schedule has made far more or fewer steps than the optimiser it belongs to."""

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "O03"
    depth: ClassVar[int] = 0
    every: ClassVar[int] = 64
    reads: ClassVar[tuple[str, ...]] = (COUNTER + "schedule_steps/",)
    supports: ClassVar[dict[str, float]] = {"schedule": 0.9}
    denies: ClassVar[dict[str, float]] = {"schedule": 0.3}
    tolerance: float = 0.05
    after: int = 100

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """One symptom per optimiser; steps skipped for bad gradients count as made."""
        for name, stream in signals.under(COUNTER + "schedule_steps/"):
            made = signals.value(COUNTER + "optimizer_steps/" + name) or 0.0
            stepped = stream.latest or 0.0
            if made < self.after or stepped == 0:
                continue
            if abs(stepped - made) > self.tolerance * made + 2:
                evidence = {"schedule_steps": stepped, "optimiser_steps": made}
                text = "schedule and optimiser are out of step: the rate decays too fast or too slowly"
                yield Symptom("warn", text, evidence, ("trainer.accumulate_grad_batches=1",), name)


@dataclass(kw_only=True)
class RateInference(Rule):
    """Large steps and a loss that does not fall, together: the learning rate is too high; or the opposite."""

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "O04"
    every: ClassVar[int] = 64
    reads: ClassVar[tuple[str, ...]] = (UPDATE,)
    explained_by: ClassVar[tuple[str, ...]] = CHANGES
    supports: ClassVar[dict[str, float]] = {"lr_high": 0.8}
    peers: ClassVar[tuple[str, ...]] = ("Cockpit",)
    high: float = 0.03
    low: float = 1e-6
    samples: int = 6
    after: int = 200

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """At most one symptom; a suggested factor brings the change to a thousandth of the weights."""
        loss = signals.get("loss")
        changes = [
            median(v)
            for _, s in signals.under(UPDATE)
            if len(v := signals.window(s, self.samples)) == self.samples
        ]
        if not changes or not self.after <= loss.seen or loss.role != "supervised":
            return
        begin, now = median(loss.first), median(loss.tail(50))
        change = median(changes)
        evidence = {"median_change_over_weight": change, "loss_over_first": now / begin if begin else 0.0}
        if change > self.high and now > 0.95 * begin:
            factor = 1e-3 / change
            text = "steps are large and the loss does not fall: the learning rate is too high"
            yield Symptom("warn", text, evidence, scaled_rate(signals, factor), "high")
        elif change < self.low and now > 0.98 * begin and loss.seen < 2000:
            factor = min(1e-3 / max(change, 1e-12), 1000.0)
            text = "steps are tiny and the loss does not fall: the learning rate is too low"
            yield Symptom("warn", text, evidence, scaled_rate(signals, factor), "low", {"lr_low": 0.85})
