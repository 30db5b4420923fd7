"""A training that never sees an object."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from maskwell.health.findings import Action
from maskwell.health.rules.base import Clock, Rule, Symptom
from maskwell.health.signals import FACT, Signals


@dataclass(kw_only=True)
class NoObjects(Rule):
    """The count ``fact`` was 0 in every one of the first ``steps`` steps.

    Batches without objects are normal where objects are rare; never one is not.
    """

    clock: ClassVar[Clock] = "step"
    depth: ClassVar[int] = 0
    fact: str = "num_objects"
    steps: int = 64
    action: Action = "stop"

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """At most one symptom."""
        counts = signals.get(FACT + self.fact)
        if counts.seen >= self.steps and not counts.nonzero:
            yield Symptom(
                "error",
                "no batch held a single object: the annotations are not read, or none fits the prompts "
                "and crops; `make data-check` shows which",
                {"steps": counts.seen, self.fact: 0.0},
                ("data.crop=null",),
            )
