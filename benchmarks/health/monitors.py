"""All monitors over a recorded run: ours by replay, the others by their rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.health.miniature import MINIATURES
from benchmarks.health.peers import PEERS, Log, listen
from benchmarks.health.plan import Cell
from benchmarks.health.score import Alarm, Case
from benchmarks.health.tape import Tape
from maskwell.health.engine import Check, Engine
from maskwell.health.findings import Finding, Incident
from maskwell.health.rules import Clock, default_rules

OURS = "maskwell"


def case(cell: Cell, result: Mapping[str, Any]) -> Case:
    """A recorded cell as it is judged."""
    return Case(
        cell.name,
        cell.training.family,
        cell.group,
        cell.severity,
        cell.training.seed,
        int(result["steps"]),
        cell.right,
        result["onset"] if cell.right else None,
        cell.static,
        tuple(result["evaluations"]),
    )


def replayed(tape: Tape, family: str) -> Engine:
    """The monitor's engine with its default rules, after the run, for one who looks at it."""
    return tape.replay(Engine(default_rules()), MINIATURES[family].rate)  # type: ignore[index]


@dataclass(frozen=True)
class Line:
    """What the monitor prints: at which step, the causes of the incident as they were ranked then, likeliest
    first, and the overrides of the line.
    """

    step: int
    causes: tuple[str, ...]
    overrides: tuple[str, ...]


def printed(tape: Tape, family: str) -> list[Line]:
    """All lines that the default rules print in a run, information left out; nothing is known afterwards."""
    engine, lines = Engine(default_rules()), list[Line]()
    check = engine.check

    def heard(clock: Clock) -> Check:
        result = check(clock)
        for finding in result.news:
            if finding.severity != "info":
                incident = next(i for i in reversed(engine.incidents) if _holds(i, finding))
                causes = tuple(label for label, _ in incident.ranked)
                overrides = tuple(remedy for remedy in finding.remedies if "=" in remedy)
                lines.append(Line(engine.signals.step, causes, overrides))
        return result

    engine.__dict__["check"] = heard
    tape.replay(engine, MINIATURES[family].rate)  # type: ignore[index]
    return lines


def _holds(incident: Incident, finding: Finding) -> bool:
    return any(known.key == finding.key for known in incident.findings)


def ours(lines: Sequence[Line]) -> list[Alarm]:
    """Every line is an alarm."""
    return [Alarm(line.step, line.causes) for line in lines]


def remedy(lines: Sequence[Line]) -> str | None:
    """The first override that is printed, as a user would paste it."""
    return next((override for line in lines for override in line.overrides), None)


def all_alarms(tape: Tape, family: str, monitor: str) -> dict[str, list[Alarm]]:
    """Monitor -> its alarms; ``monitor`` names the metric that counts in this family."""
    log = Log.of(tape, monitor)
    return {OURS: ours(printed(tape, family)), **{peer: listen(peer, log) for peer in PEERS}}
