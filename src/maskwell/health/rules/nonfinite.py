"""A loss, or a part of it, that is NaN or infinite."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from maskwell.health.findings import Action
from maskwell.health.rules.base import Clock, Rule, Symptom, scaled_rate
from maskwell.health.signals import LOSS, NONFINITE, Signals


@dataclass(kw_only=True)
class NonFinite(Rule):
    """One bad step is a warning (its update is skipped); several in a row or close together an error.

    ``in_a_row`` steps with consecutive numbers, or ``in_window`` within the last ``window`` steps.
    """

    clock: ClassVar[Clock] = "step"
    depth: ClassVar[int] = 0
    in_a_row: int = 2
    in_window: int = 3
    window: int = 100
    action: Action = "stop"

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """One symptom for all values, naming those that were bad at the last bad step."""
        steps = sorted({s for _, stream in signals.under(NONFINITE) for s in stream.steps})
        recent = [s for s in steps if s > signals.step - self.window]
        if not recent:
            return
        latest = recent[-1]
        names = [n for n, stream in signals.under(NONFINITE) if stream.steps and stream.steps[-1] == latest]
        inner = [n for n in names if n != LOSS]
        tail = recent[-self.in_a_row :]
        run = len(tail) == self.in_a_row and tail[-1] - tail[0] == self.in_a_row - 1
        broken = run or len(recent) >= self.in_window
        what = ", ".join(inner) if inner else "the loss"
        yield Symptom(
            "error" if broken else "warn",
            f"{what} is NaN or infinite" + (" again and again" if broken else " in a single step"),
            {"last_bad_step": latest, f"bad_steps_in_last_{self.window}": len(recent)},
            (*scaled_rate(signals, 0.1), "trainer.precision=32-true") if broken else (),
        )
