"""The form of ``health.json``: what is written is held against it, others may read it by its schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from maskwell.errors import UserError

Number = float | Literal["nan", "inf", "-inf"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class CauseEntry(_Strict):
    """A possible cause of an incident; ``score`` in [0, 1]."""

    label: str
    score: float
    words: str


class FindingEntry(_Strict):
    """As :class:`maskwell.health.findings.Finding`."""

    rule: str
    severity: Literal["info", "warn", "error"]
    step: int
    cause: str
    evidence: dict[str, Number]
    remedies: list[str]
    subject: str
    depth: int
    causes: dict[str, float]


class IncidentEntry(_Strict):
    """As :class:`maskwell.health.findings.Incident`, its causes likeliest first."""

    first_step: int
    last_step: int
    severity: Literal["info", "warn", "error"]
    cause: str
    causes: list[CauseEntry]
    denied: dict[str, float]
    findings: list[FindingEntry]


class RecoveryEntry(_Strict):
    """A return to a healthy checkpoint."""

    step: int
    to_step: int
    factor: float
    cause: str


class Report(_Strict):
    """The whole file."""

    format: Literal[2]
    verdict: Literal["healthy", "look at", "broken"]
    step: int
    epoch: int
    rules: list[str]
    top: list[str]
    incidents: list[IncidentEntry]
    recoveries: list[RecoveryEntry] = []
    source: str | None = None
    updated: str | None = None


def write(content: dict[str, Any], path: Path) -> None:
    """Write a report whole or not at all.

    Raises:
        ValidationError: the content has not the form of :class:`Report`.
    """
    text = json.dumps(Report.model_validate(content).model_dump(), indent=2, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".json.tmp")
    beside.write_text(text + "\n", encoding="utf-8")
    beside.replace(path)


def read(path: Path) -> Report:
    """The report of a run.

    Raises:
        UserError: there is none, or it is of another version or damaged.
    """
    try:
        return Report.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"There is no {path}: the run had no monitor, or it is no run folder.") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{path} is no health.json of this version: {where}: {first['msg']}.") from error
