"""Scalars of a TensorBoard directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from maskwell.errors import UserError
from maskwell.health.columns import EPOCH_NAMES
from maskwell.logs.rows import Notes, Row

PATTERN = "events.out.tfevents.*"


def runs(folder: Path) -> list[Path]:
    """Folders at or below ``folder`` that hold event files."""
    return sorted({path.parent for path in folder.rglob(PATTERN)})


def read(folder: Path, notes: Notes) -> Iterator[Row]:
    """One row per step of the run, in the order in which it was written.

    Raises:
        UserError: the files cannot be read or hold no scalars.
    """
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    now: dict[str, float] = {}
    step: int | None = None
    seen = False
    for file in sorted(folder.glob(PATTERN)):
        for event in EventFileLoader(str(file)).Load():
            for name, value in _scalars(event):
                if step is not None and event.step != step and now:
                    yield _row(now, step)
                    now = {}
                seen, step = True, int(event.step)
                now[name] = value
    if now:
        yield _row(now, step)
    if not seen:
        raise UserError(f"{folder} holds no TensorBoard scalars.")


def _row(values: dict[str, float], step: int | None) -> Row:
    epoch = next((values[name] for name in EPOCH_NAMES if name in values), None)
    return Row(values, step, epoch)


def _scalars(event: Any) -> Iterator[tuple[str, float]]:
    from tensorboard.util import tensor_util

    for value in event.summary.value:
        plugin = value.metadata.plugin_data.plugin_name
        if value.WhichOneof("value") == "simple_value":
            yield value.tag, float(value.simple_value)
        elif value.WhichOneof("value") == "tensor" and plugin in ("scalars", ""):
            array = tensor_util.make_ndarray(value.tensor)
            if array.size == 1 and array.dtype.kind in "fiu":
                yield value.tag, float(array.reshape(()))
