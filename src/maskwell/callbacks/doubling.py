"""The batch-doubling probe: does a loss stay the same when everything in its batch is there twice?"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np
import torch
from lightning import LightningModule
from torch import Tensor, nn

from maskwell.data.sample import Batch

LossOn = Callable[[Any], dict[str, float]]


def loss_function(module: LightningModule, batch: Any) -> LossOn | None:
    """How to get the loss of a batch outside a training step; None where the module offers no way.

    Any module may offer ``loss_on(batch)``, which returns a scalar or a mapping of scalars with
    "loss" among them; tasks of this package are asked by ``step``.
    """
    offered: Any = module
    if hasattr(module, "loss_on"):
        return lambda b: _scalars(offered.loss_on(b))
    if isinstance(batch, Batch) and hasattr(module, "step"):
        return lambda b: _of_step(offered.step(b, "train"))
    return None


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
        loss_on: from :func:`loss_function`.
        context: the precision context of a training step.
        seeds: of what is random in the loss (sampled points): both sides are means over them.
    """
    rows = _largest_half(batch)
    once, twice = _take(batch, rows), _take(batch, [*rows, *rows])
    single: list[dict[str, float]] = []
    double: list[dict[str, float]] = []
    with _untouched(module), torch.no_grad(), context():
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


@contextmanager
def _untouched(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards modes, buffers and random states are restored."""
    modes = {m: m.training for m in module.modules()}
    buffers = {b: b.clone() for b in module.buffers()}
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            module.eval()
            yield
    finally:
        for inner, mode in modes.items():
            inner.training = mode
        with torch.no_grad():
            for buffer, before in buffers.items():
                buffer.copy_(before)
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


def _of_step(output: Any) -> dict[str, float]:
    return _scalars({"loss": output.loss, **output.parts})


def _scalars(result: Tensor | Mapping[str, Tensor]) -> dict[str, float]:
    named = result if isinstance(result, Mapping) else {"loss": result}
    return {name: float(value) for name, value in named.items() if torch.as_tensor(value).numel() == 1}


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
