"""What a rule is: a small class that reads signals, with its thresholds as dataclass fields."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from maskwell.health.findings import Action, Finding, Severity
from maskwell.health.signals import Signals

Clock = Literal["start", "step", "epoch"]
"""When a rule is asked: once before the first step, every few steps, or after each epoch."""


@dataclass(frozen=True)
class Symptom:
    """What a rule reports; the engine makes a :class:`Finding` of it. See there for the fields."""

    severity: Severity
    cause: str
    evidence: Mapping[str, float] = field(default_factory=dict)
    remedies: tuple[str, ...] = ()
    subject: str = ""


@dataclass(kw_only=True)
class Rule(ABC):
    """Base of all rules.

    ``action`` is what a finding of severity "error" leads to; lesser ones are told and no more.
    ``depth`` is 0 for rules that name a root cause, larger for those that see its consequences.
    """

    clock: ClassVar[Clock]
    depth: ClassVar[int] = 1
    action: Action = "warn"

    @abstractmethod
    def check(self, signals: Signals) -> Iterator[Symptom]:
        """Everything that is wrong now, as far as this rule sees."""

    def finding(self, name: str, step: int, symptom: Symptom) -> Finding:
        """``symptom`` under the name that this rule bears in the configuration."""
        return Finding(
            rule=name,
            severity=symptom.severity,
            step=step,
            cause=symptom.cause,
            evidence=symptom.evidence,
            remedies=symptom.remedies,
            subject=symptom.subject,
            depth=self.depth,
        )


def scaled_rate(signals: Signals, factor: float) -> tuple[str, ...]:
    """An override that multiplies the learning rate, where the rate is known."""
    rate = signals.learning_rate
    return (f"optim.lr={rate * factor:.2g}",) if rate else ()
