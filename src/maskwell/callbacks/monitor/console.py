"""What the monitor says, and where."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning import Trainer

from maskwell.health.engine import Engine
from maskwell.health.findings import Finding, Severity, Verdict

_COLOURS: dict[Severity, str] = {"info": "36", "warn": "33", "error": "31"}
_VERDICTS: dict[Verdict, str] = {"healthy": "32", "look at": "33", "broken": "31"}
_WORDS: dict[Severity, str] = {"info": "note", "warn": "look at", "error": "broken"}


def say(text: str, colour: str = "36") -> None:
    """A line, in colour where the output is a terminal."""
    print(f"\033[{colour}m{text}\033[0m" if sys.stdout.isatty() else text)


def tell(finding: Finding) -> None:
    """One line per incident: cause, evidence, remedy."""
    say(line(finding), _COLOURS[finding.severity])


def line(finding: Finding) -> str:
    """What :func:`tell` prints."""
    return f"health: {_WORDS[finding.severity]}, step {finding.step}: {finding.line()}"


def conclude(engine: Engine, path: Path) -> None:
    """The verdict, and the three most important findings where there are several."""
    incidents = engine.ranked_incidents
    count = len(incidents)
    more = f": {count} incident{'s' if count != 1 else ''}, see {path}" if count else ""
    say(f"health: {engine.verdict}{more}", _VERDICTS[engine.verdict])
    if count > 1:
        for number, incident in enumerate(incidents[:3], 1):
            say(
                f"  {number}. step {incident.first_step}: {incident.cause.cause}", _COLOURS[incident.severity]
            )


def log_flags(trainer: Trainer, flags: Mapping[str, bool], step: int) -> None:
    """``health/<rule>`` as 0 or 1, under a step of the log."""
    # not by the module's log(): what that gets between two of Lightning's own logging steps is lost
    if flags:
        for logger in trainer.loggers:
            logger.log_metrics({f"health/{name}": float(on) for name, on in flags.items()}, step)


def alert(trainer: Trainer, news: Sequence[Finding]) -> None:
    """A W&B alert for each new incident, where there is such a run."""
    for logger in trainer.loggers:
        send: Any = getattr(getattr(logger, "experiment", None), "alert", None)
        if callable(send):
            for finding in news:
                level = "ERROR" if finding.severity == "error" else "WARN"
                send(title=f"health: {finding.rule}", text=line(finding), level=level)
