"""History of an offline W&B run: its ``run-*.wandb`` file, read without the service."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from maskwell.errors import UserError
from maskwell.health.columns import EPOCH_NAMES
from maskwell.logs.rows import Notes, Row

BLOCK = 32 * 1024
"""The file is a LevelDB log: blocks of records, each with a checksum, a length and a kind."""
HEADER = struct.Struct("<IHB")
IDENT = b":W&B"
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def runs(folder: Path) -> list[Path]:
    """Run files at or below ``folder``; ``latest-run`` is a link to one of them."""
    return sorted({path.resolve() for path in folder.rglob("run-*.wandb")})


def read(path: Path, notes: Notes) -> Iterator[Row]:
    """One row per logged step.

    Raises:
        UserError: the file is damaged or holds no history.
    """
    from google.protobuf.message import DecodeError
    from wandb.proto import wandb_internal_pb2

    seen = False
    with path.open("rb") as file:
        for content in records(file, path):
            record: Any = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
            try:
                record.ParseFromString(content)
            except DecodeError as error:
                raise UserError(f"{path} is damaged or of another version of W&B ({error}).") from error
            if record.WhichOneof("record_type") != "history":
                continue
            items = {i.key or ".".join(i.nested_key): i.value_json for i in record.history.item}
            values = {name: value for name, text in items.items() if (value := _number(text)) is not None}
            step = values.get("_step", float(record.history.step.num))
            seen = True
            epoch = next((values[name] for name in EPOCH_NAMES if name in values), None)
            yield Row({k: v for k, v in values.items() if not k.startswith("_")}, int(step), epoch)
    if not seen:
        raise UserError(f"{path} holds no history: nothing was logged to this W&B run.")


def records(file: BinaryIO, path: Path) -> Iterator[bytes]:
    """Contents of the records of a LevelDB log with W&B's header, without the torn end of a killed run."""
    if file.read(7)[:4] != IDENT:
        raise UserError(f"{path} is no W&B run file.")
    at, parts = 7, b""
    while True:
        left = BLOCK - at % BLOCK
        if left < HEADER.size:
            file.read(left)
            at += left
            continue
        head = file.read(HEADER.size)
        if len(head) < HEADER.size:
            return
        _, length, kind = HEADER.unpack(head)
        body = file.read(length)
        at += HEADER.size + length
        if len(body) < length or kind not in (FULL, FIRST, MIDDLE, LAST):
            return
        parts = body if kind in (FULL, FIRST) else parts + body
        if kind in (FULL, LAST):
            yield parts


def _number(text: str) -> float | None:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return None
    if isinstance(value, str) and value in ("NaN", "Infinity", "-Infinity"):
        return float(value)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
