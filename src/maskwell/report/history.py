"""What a run has logged: the columns of ``metrics.csv`` as series over iterations."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

BUCKETS = 120
"""Points of a curve at most; more are averaged, with their spread beside the mean."""


@dataclass(frozen=True)
class Series:
    """One logged figure: ``steps`` (iterations, from 1) and ``values``, float64 [N], NaN where it was one."""

    name: str
    steps: Floats
    values: Floats

    def __len__(self) -> int:
        return len(self.values)

    @property
    def last(self) -> float:
        """The newest value; NaN of an empty series."""
        return float(self.values[-1]) if len(self) else float("nan")

    @property
    def constant(self) -> bool:
        """Whether it says the same at every step."""
        return len(self) < 2 or bool(np.all(self.values == self.values[0]))

    def reduced(self, buckets: int = BUCKETS) -> tuple[Floats, Floats, Floats, Floats]:
        """Steps, mean, lowest and highest of at most ``buckets`` groups of neighbours, each float64 [B].

        Values that are not finite are left out of a group; a group of nothing else is NaN.
        """
        if len(self) <= buckets:
            finite = np.where(np.isfinite(self.values), self.values, np.nan)
            return self.steps, finite, finite, finite
        size = -(-len(self) // buckets)  # the same in all groups, so that noise looks the same everywhere
        starts = range(0, len(self), size)
        rows = [_summary(self.steps[at : at + size], self.values[at : at + size]) for at in starts]
        steps, mean, low, high = np.array(rows, np.float64).T
        return steps, mean, low, high


def _summary(steps: Floats, values: Floats) -> tuple[float, float, float, float]:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return float(steps.mean()), np.nan, np.nan, np.nan
    return float(steps.mean()), float(finite.mean()), float(finite.min()), float(finite.max())


class History(Mapping[str, Series]):
    """All series of a run by the name under which they were logged."""

    def __init__(self, series: Mapping[str, Series]) -> None:
        self._series = dict(series)

    def __getitem__(self, name: str) -> Series:
        return self._series[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._series)

    def __len__(self) -> int:
        return len(self._series)

    def under(self, prefix: str) -> list[Series]:
        """Every series whose name begins with ``prefix``, in the order of their first value."""
        return [series for name, series in self._series.items() if name.startswith(prefix)]

    @property
    def length(self) -> int:
        """The last iteration of which anything is known."""
        return int(max((series.steps[-1] for series in self.values() if len(series)), default=0))

    def epoch_starts(self) -> dict[int, float]:
        """Epoch, from 1, -> its first iteration."""
        epochs = self.get("train/epoch")
        if epochs is None:
            return {}
        starts: dict[int, float] = {}
        for step, epoch in zip(epochs.steps, epochs.values, strict=True):
            if np.isfinite(epoch):
                starts.setdefault(int(epoch) + 1, float(step))
        return starts


def read(path: Path) -> History:
    """The history of ``metrics.csv``; empty where there is none.

    The log counts batches from 0, people count from 1. Of several values at one step the last holds.
    """
    if not path.is_file():
        return History({})
    columns: dict[str, dict[float, float]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            step = _number(row.pop("step", "") or "")
            if step is None:
                continue
            for name, text in row.items():
                value = _number(text or "") if isinstance(text, str | None) else None
                if value is not None:
                    columns.setdefault(name, {})[step + 1] = value
    return History({name: _series(name, values) for name, values in columns.items()})


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _series(name: str, values: dict[float, float]) -> Series:
    steps = sorted(values)
    return Series(name, np.array(steps, np.float64), np.array([values[step] for step in steps], np.float64))
