"""Batches as plain tensors, lists and mappings, so that they can be stored and read as data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from maskwell.data import sample
from maskwell.errors import UserError

KIND = "__kind__"


def to_plain(batch: Any) -> Any:
    """The batch with dataclasses of :mod:`maskwell.data.sample` as mappings, all tensors on the CPU.

    Things of other classes become their text: they can be told, and not be put back.
    """
    if isinstance(batch, Tensor):
        return batch.detach().cpu()
    if batch is None or isinstance(batch, bool | int | float | str):
        return batch
    if is_dataclass(batch) and not isinstance(batch, type):
        values = {f.name: to_plain(getattr(batch, f.name)) for f in fields(batch) if f.init}
        return {KIND: type(batch).__name__, **values}
    if isinstance(batch, Mapping):
        return {str(key): to_plain(value) for key, value in batch.items()}
    if isinstance(batch, tuple):
        return {KIND: "tuple", "items": [to_plain(value) for value in batch]}
    if isinstance(batch, list):
        return [to_plain(value) for value in batch]
    return repr(batch)


def from_plain(stored: Any) -> Any:
    """Inverse of :func:`to_plain` for tensors, containers and the house's own samples.

    Raises:
        UserError: the batch held something else.
    """
    if isinstance(stored, list):
        return [from_plain(value) for value in stored]
    if not isinstance(stored, dict):
        return stored
    kind = stored.get(KIND)
    if kind is None:
        return {key: from_plain(value) for key, value in stored.items()}
    if kind == "tuple":
        return tuple(from_plain(value) for value in stored["items"])
    known = getattr(sample, kind, None)
    if known is None or not is_dataclass(known):
        raise UserError(f"The stored batch holds a '{kind}', which cannot be built again from data.")
    return known(**{key: from_plain(value) for key, value in stored.items() if key != KIND})


def tensors(batch: Any, place: str = "batch") -> Iterator[tuple[str, Tensor]]:
    """(where, tensor) of everything in a batch."""
    if isinstance(batch, Tensor):
        yield place, batch
    elif is_dataclass(batch) and not isinstance(batch, type):
        for entry in (f for f in fields(batch) if f.init):
            yield from tensors(getattr(batch, entry.name), f"{place}.{entry.name}")
    elif isinstance(batch, Mapping):
        for key, value in batch.items():
            yield from tensors(value, f"{place}.{key}")
    elif isinstance(batch, list | tuple):
        for index, value in enumerate(batch):
            yield from tensors(value, f"{place}[{index}]")


def bad_inputs(batch: Any) -> list[str]:
    """Where a batch holds values that are not finite."""
    return [
        where for where, t in tensors(batch) if t.is_floating_point() and not bool(torch.isfinite(t).all())
    ]


def sample_names(batch: Any) -> list[str]:
    """File names, or ids, of the samples of a batch, where it knows them."""
    found: list[str] = []
    if isinstance(batch, sample.Batch):
        return [entry.file_name or str(entry.image_id) for entry in batch.samples]
    inner = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else ()
    for entry in inner:
        found += sample_names(entry)
    return found


def batch_size(batch: Any) -> int:
    """Samples in a batch: the length of the first tensor in it."""
    first = next(tensors(batch), None)
    return int(first[1].shape[0]) if first is not None and first[1].ndim else 0
