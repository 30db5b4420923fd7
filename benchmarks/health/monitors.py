"""All monitors over a recorded run: ours by replay, the others by their rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.health.miniature import MINIATURES
from benchmarks.health.peers import PEERS, Log, listen
from benchmarks.health.plan import Cell
from benchmarks.health.score import Alarm, Case
from benchmarks.health.tape import Tape
from maskwell.health.engine import Engine
from maskwell.health.findings import Finding
from maskwell.health.rules import default_rules

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
    """The monitor's engine with its default rules, after the run."""
    return tape.replay(Engine(default_rules()), MINIATURES[family].rate)  # type: ignore[index]


def ours(engine: Engine) -> list[Alarm]:
    """Every incident that is more than information, from when it was told, with its causes."""
    found = []
    for incident in engine.incidents:
        told = [finding.step for finding in incident.findings if finding.severity != "info"]
        if told:
            found.append(Alarm(min(told), tuple(label for label, _ in incident.ranked)))
    return found


def remedy(engine: Engine, begin: int) -> str | None:
    """The first override that the first incident from ``begin`` on prints, as a user would paste it."""
    for incident in engine.incidents:
        serious = [f for f in incident.findings if f.severity != "info" and f.step >= begin]
        if serious:
            leading: Finding = incident.cause
            ordered = [leading, *(f for f in serious if f is not leading)]
            return next((r for f in ordered for r in f.remedies if "=" in r), None)
    return None


def all_alarms(tape: Tape, family: str, monitor: str) -> dict[str, list[Alarm]]:
    """Monitor -> its alarms; ``monitor`` names the metric that counts in this family."""
    log = Log.of(tape, monitor)
    return {OURS: ours(replayed(tape, family)), **{peer: listen(peer, log) for peer in PEERS}}
