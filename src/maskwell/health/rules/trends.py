"""The course of the mean loss over epochs: rising, or going nowhere."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import ClassVar

from maskwell.health.rules.base import Clock, Rule, Symptom, scaled_rate
from maskwell.health.signals import EPOCH_ERROR, EPOCH_LOSS, Signals


@dataclass(kw_only=True)
class Rising(Rule):
    """The mean loss rose ``epochs`` times in a row, by more than its noise explains.

    In all it must have risen by ``share`` of its value and by ``errors`` standard errors: on a
    plateau, three small rises in a row happen by chance every couple of dozen epochs.
    """

    clock: ClassVar[Clock] = "epoch"
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
        error = math.hypot(noise[0], noise[-1]) if known else 0.0
        if rise < self.share * abs(last[0]) or rise < self.errors * error:
            return
        worse_than_start = last[-1] > losses.values[0]
        yield Symptom(
            "error" if worse_than_start else "warn",
            f"the mean loss rose {self.epochs} epochs in a row: the learning rate is too high",
            {"before": last[0], "now": last[-1], "standard_error": error},
            (*scaled_rate(signals, 0.3), "callbacks.grad_clip.max_norm=0.1"),
        )


@dataclass(kw_only=True)
class Constant(Rule):
    """The mean loss stayed within ``share`` of its median for ``epochs`` epochs.

    Where it had fallen by ``learnt`` of its first value before, this is a plateau and no more than
    information; exactly equal values are always a fault.
    """

    clock: ClassVar[Clock] = "epoch"
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
        evidence = {"median": middle, "spread": spread, "first_epoch": losses.values[0]}
        if spread == 0.0:
            yield Symptom(
                "error",
                f"the mean loss is exactly the same since {self.epochs} epochs: nothing is being trained",
                evidence,
                ("debug=overfit", *scaled_rate(signals, 10)),
            )
        elif middle > (1 - self.learnt) * losses.values[0]:
            yield Symptom(
                "warn",
                f"the mean loss has not moved for {self.epochs} epochs and never fell: nothing is learnt",
                evidence,
                (*scaled_rate(signals, 3), "debug=overfit"),
            )
        else:
            yield Symptom("info", f"the loss lies on a plateau since {self.epochs} epochs", evidence)
