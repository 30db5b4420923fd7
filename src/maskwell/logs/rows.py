"""A row of a log, and what a reader has to say about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Row(NamedTuple):
    """Numbers that were logged together: ``step`` and ``epoch`` where they are known."""

    values: Mapping[str, float]
    step: int | None = None
    epoch: float | None = None


@dataclass
class Notes:
    """What a reader has to say beside the rows: ``dropped`` column -> why it was left out."""

    messages: list[str] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)
