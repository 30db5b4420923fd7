"""The batch-doubling probe: does a loss stay the same when everything in its batch is there twice?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from statistics import fmean
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor

from maskwell.callbacks.monitor.rng import untouched
from maskwell.data.sample import Batch

LossOn = Callable[[Any], dict[str, float]]


def doubling_ratios(
    module: LightningModule,
    batch: Any,
    loss_on: LossOn,
    context: Callable[[], AbstractContextManager[Any]],
    seeds: tuple[int, ...] = (0, 1),
) -> dict[str, tuple[float, float]]:
    """Loss name -> (loss(b+b) / loss(b), relative spread over ``seeds``).

    ``b`` is the half of ``batch`` with most objects, so that b+b needs no more memory than training
    does. Weights, buffers, modes and random states are afterwards as they were.

    Args:
        module: what is trained.
        batch: a training batch on the module's device.
        loss_on: batch -> loss and parts by name.
        context: the precision context of a training step.
        seeds: of what is random in the loss (sampled points): both sides are means over them.
    """
    rows = _largest_half(batch)
    once, twice = _take(batch, rows), _take(batch, [*rows, *rows])
    single: list[dict[str, float]] = []
    double: list[dict[str, float]] = []
    with untouched(module), torch.no_grad(), context():
        for seed in seeds:
            for target, results in ((once, single), (twice, double)):
                torch.manual_seed(seed)
                results.append(loss_on(target))
    ratios = {}
    for name in single[0]:
        base = fmean(r[name] for r in single)
        if abs(base) < 1e-8 or not all(name in r for r in (*single, *double)):
            continue
        spread = sum(max(r[name] for r in rs) - min(r[name] for r in rs) for rs in (single, double))
        ratios[name] = (fmean(r[name] for r in double) / base, spread / abs(base))
    return ratios


def _size(batch: Any) -> int:
    """Number of samples: the length of the first tensor found."""
    if isinstance(batch, Tensor):
        return batch.shape[0] if batch.ndim else 0
    if isinstance(batch, Batch):
        return len(batch)
    inner = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else ()
    return next((n for n in map(_size, inner) if n), 0)


def _largest_half(batch: Any) -> list[int]:
    rows = list(range(_size(batch)))
    if isinstance(batch, Batch):
        rows.sort(key=lambda row: -len(batch.samples[row].labels))
    return rows[: max(1, len(rows) // 2)]


def _take(batch: Any, rows: list[int]) -> Any:
    """The given rows of every tensor and of every list that is as long as the batch."""
    size = _size(batch)

    def take(part: Any) -> Any:
        if isinstance(part, Tensor):
            return part[rows] if part.ndim and part.shape[0] == size else part
        if isinstance(part, Batch):
            samples = [part.samples[row] for row in rows]
            return replace(part, images=part.images[rows], pixel_mask=part.pixel_mask[rows], samples=samples)
        if isinstance(part, Mapping):
            return {key: take(value) for key, value in part.items()}
        if isinstance(part, list) and len(part) == size and _one_per_sample(part, size):
            return [part[row] for row in rows]
        if isinstance(part, list | tuple):
            return type(part)(take(value) for value in part)
        return part

    return take(batch)


def _one_per_sample(entries: list[Any], size: int) -> bool:
    """Whether a list as long as the batch holds samples (detection targets) and not columns of it."""
    columns = size > 1 and all(isinstance(entry, Tensor) and _size(entry) == size for entry in entries)
    return not columns
