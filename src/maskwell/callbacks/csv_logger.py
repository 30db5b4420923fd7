"""metrics.csv of a run: one row per logging call, history kept when a run is resumed."""

from __future__ import annotations

import csv
import io
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from maskwell.errors import warn


class CsvLogger(Logger):
    """Appends rows to ``path``; the first column is the batch count ``step``.

    Lightning's own CSVLogger deletes an existing file. This one keeps it: rows after the checkpoint
    are cut by :func:`cut` when a run is resumed, and training goes on below the rest. A metric that
    appears later becomes a new column on the right. Rows that a full disk refuses wait in memory.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        self.path = Path(path)
        self._columns: list[str] | None = None
        self._tail: list[dict[str, str]] = []
        self._waiting: list[dict[str, str]] = []

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return self.path.parent.name

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The run folder holds the whole configuration: nothing to write."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write one row at once, so that a killed run loses nothing."""
        row = {"step": "" if step is None else str(step)}
        row |= {name: f"{float(value):.9g}" for name, value in metrics.items()}
        refused = bool(self._waiting)
        self._waiting.append(row)
        try:
            while self._waiting:
                self._append(self._waiting[0])
                del self._waiting[0]
        except OSError as error:
            if not refused:
                warn(f"{self.path} could not be written ({error}); its rows wait, training goes on")

    def _append(self, row: dict[str, str]) -> None:
        columns = self._columns_for(row)
        if any(row.items() <= old.items() for old in self._tail):
            return
        text = io.StringIO()
        csv.DictWriter(text, columns, restval="", lineterminator="\n").writerow(row)
        size = self.path.stat().st_size
        try:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                file.write(text.getvalue())
        except OSError:
            os.truncate(self.path, size)  # no half of a row
            raise

    def _columns_for(self, row: Mapping[str, str]) -> list[str]:
        if self._columns is None:
            rows = read(self.path)
            self._columns = list(rows[0]) if rows else []
            # A run resumed at the end of an epoch logs that end again: what is there is not repeated.
            self._tail = [old for old in rows if old["step"] == rows[-1]["step"]]
        new = [name for name in row if name not in self._columns]
        if new or not self.path.exists():
            write(self.path, [*self._columns, *new], read(self.path))
            self._columns += new
        return self._columns


def read(path: Path) -> list[dict[str, str]]:
    """Rows of a metrics file, oldest first; empty where there is none."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write(path: Path, columns: list[str], rows: list[dict[str, str]]) -> None:
    """Replace ``path`` at once by ``rows`` under ``columns``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".csv.tmp")
    with beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    beside.replace(path)


def cut(path: Path, step: int) -> int:
    """Drop the rows of batches after ``step`` and return how many there were.

    ``step`` is the log step of the last batch that the checkpoint has seen; the resumed run goes on
    with the next one.
    """
    rows = read(path)
    kept = [row for row in rows if row["step"] and int(row["step"]) <= step]
    if len(kept) < len(rows):
        write(path, list(rows[0]), kept)
    return len(rows) - len(kept)
