"""An exponential moving average of a network's weights (Tarvainen & Valpola, 2017)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from maskwell.ops.schedules import ema_decay


class Teacher(nn.Module):
    """The averaged copy of ``student``: parameters and buffers; never trained, always in evaluation mode.

    Args:
        student: copied as it is now.
        decay: that the average grows to; it starts as the plain mean of the first iterations.
    """

    def __init__(self, student: nn.Module, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.net = copy.deepcopy(student).requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Teacher:
        return super().train(False)

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The averaged network's output; takes what the student takes."""
        return self.net(*args, **kwargs)

    @torch.no_grad()
    def update(self, student: nn.Module, iteration: int) -> None:
        """Move towards ``student`` after the optimiser step of ``iteration`` (0 is the first)."""
        keep = ema_decay(iteration, self.decay)
        pairs = list(zip(_tensors(self.net), _tensors(student), strict=True))
        floats = [(own, theirs) for own, theirs in pairs if own.is_floating_point()]
        torch._foreach_lerp_([own for own, _ in floats], [theirs for _, theirs in floats], 1 - keep)
        for own, theirs in pairs:
            if not own.is_floating_point():
                own.copy_(theirs)


def with_teacher(state: dict[str, Tensor], wanted: bool) -> dict[str, Tensor]:
    """Weights of a run with or without an average, for one with or without.

    An average that is new starts from the network; one that is not wanted replaces it.
    """
    own = {name: value for name, value in state.items() if name.startswith("net.")}
    average = {name: value for name, value in state.items() if name.startswith("teacher.")}
    if wanted:
        return {**own, **(average or {f"teacher.{name}": value for name, value in own.items()})}
    return {name.removeprefix("teacher."): value for name, value in average.items()} or own


def _tensors(network: nn.Module) -> Iterator[Tensor]:
    """Parameters and buffers, each once: tied ones would move twice."""
    return chain(network.parameters(), network.buffers())
