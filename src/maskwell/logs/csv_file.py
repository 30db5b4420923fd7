"""CSV files of metrics, of any size: read row by row."""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from maskwell.errors import UserError
from maskwell.health.columns import EPOCH_NAMES, STEP_NAMES
from maskwell.logs.rows import Notes, Row

SAMPLE = 64 * 1024
"""Characters from which the separator is guessed."""


def read(path: Path, notes: Notes) -> Iterator[Row]:
    """Rows of a CSV with a header; text and empty cells are left out, rows without numbers too.

    Raises:
        UserError: the file cannot be read, has no header, or no column of numbers.
    """
    csv.field_size_limit(sys.maxsize)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            dialect = _dialect(file.read(SAMPLE))
            file.seek(0)
            yield from _rows(csv.reader(file, delimiter=dialect), path, notes)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a CSV of metrics ({error}).") from error


def _dialect(text: str) -> str:
    first = text.partition("\n")[0]
    return max(",;\t", key=first.count) if any(c in first for c in ",;\t") else ","


def _rows(reader: Iterator[Sequence[str]], path: Path, notes: Notes) -> Iterator[Row]:
    header = [name.strip() for name in next(reader, [])]
    if not any(header):
        raise UserError(f"{path} is empty: a CSV of metrics has a header and rows of numbers.")
    if all(_number(name) is not None for name in header if name):
        raise UserError(f"{path} has no header: its first line has to name the columns (step, loss, ...).")
    if len(set(header)) < len(header):
        twice = sorted({name for name in header if header.count(name) > 1})
        notes.messages.append(f"columns with the same name are taken as one: {', '.join(twice)}")
    step_at = _first(header, STEP_NAMES)
    epoch_at = _first(header, EPOCH_NAMES)
    if step_at is None:
        notes.messages.append("there is no step column: the rows are counted")
    step_name = None if step_at is None else header[step_at]
    epoch_name = None if epoch_at is None else header[epoch_at]
    numeric: set[str] = set()
    for number, cells in enumerate(reader, 1):
        values = _numbers(header, cells)
        if values:
            numeric.update(values)
            step = float(number) if step_name is None else values.get(step_name, math.nan)
            whole = int(step) if math.isfinite(step) else None
            yield Row(values, whole, None if epoch_name is None else values.get(epoch_name))
    for name in header:
        if name and name not in numeric:
            notes.dropped[name] = "holds no numbers"
    if not numeric:
        raise UserError(f"{path} holds no numbers: a CSV of metrics has a header and rows of numbers.")


def _numbers(header: Sequence[str], cells: Sequence[str]) -> dict[str, float]:
    """Column -> number of a row, text and empty cells left out."""
    values = {}
    for name, cell in zip(header, cells, strict=False):
        if cell:
            try:
                values[name] = float(cell)
            except ValueError:  # text
                continue
    return values


def _first(header: list[str], known: Sequence[str]) -> int | None:
    lower = [name.lower() for name in header]
    return next((lower.index(name) for name in known if name in lower), None)


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None
