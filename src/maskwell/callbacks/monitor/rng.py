"""Random states and modes, kept as they are while something is measured."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torchmetrics import Metric


@contextmanager
def untouched(module: nn.Module, training: bool = False) -> Iterator[None]:
    """Inside, the mode ``training``; afterwards modes, buffers, metrics and random states are restored."""
    modes = {m: m.training for m in module.modules()}
    buffers = {b: b.clone() for b in module.buffers()}
    metrics = {m: _metric_state(m) for m in module.modules() if isinstance(m, Metric)}
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            module.train(training)
            yield
    finally:
        for inner, mode in modes.items():
            inner.training = mode
        with torch.no_grad():
            for buffer, before in buffers.items():
                buffer.copy_(before)
        for metric, state in metrics.items():
            metric.__dict__.update(state)
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


def _metric_state(metric: Metric) -> dict[str, Any]:
    kept = [*metric._defaults, "_update_count", "_computed"]
    return {name: copy.copy(metric.__dict__[name]) for name in kept if name in metric.__dict__}


def current() -> tuple[Any, ...]:
    """Random states of torch, CUDA, python and numpy as they give them: cheap to take at every step."""
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
    return torch.get_rng_state(), cuda, random.getstate(), np.random.get_state()  # noqa: NPY002


def states(taken: tuple[Any, ...] | None = None) -> dict[str, Any]:
    """What :func:`current` gave, or gives now, as tensors and plain numbers, loadable as data."""
    cpu, cuda, (version, internal, gauss), numpy_state = taken or current()
    name, keys, position, has_gauss, cached = numpy_state
    found: dict[str, Any] = {"torch": cpu, "python": [version, list(internal), gauss]}
    if cuda is not None:
        found["cuda"] = cuda
    words = torch.from_numpy(np.asarray(keys, np.int64))
    found["numpy"] = [str(name), words, int(position), int(has_gauss), float(cached)]
    return found


def restore(found: dict[str, Any]) -> None:
    """Set what :func:`states` gave."""
    torch.set_rng_state(found["torch"])
    version, internal, gauss = found["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = found["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    if "cuda" in found and torch.cuda.is_available():
        torch.cuda.set_rng_state(found["cuda"])
