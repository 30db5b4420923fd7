"""An exponential moving average of a network's weights (Tarvainen & Valpola, 2017)."""

from __future__ import annotations

import copy

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
    def forward(self, images: Tensor) -> Tensor:
        """The averaged network's output."""
        result: Tensor = self.net(images)
        return result

    @torch.no_grad()
    def update(self, student: nn.Module, iteration: int) -> None:
        """Move towards ``student`` after the optimiser step of ``iteration`` (0 is the first)."""
        keep = ema_decay(iteration, self.decay)
        own, theirs = self.net.state_dict(), student.state_dict()
        floats = [name for name, value in own.items() if value.is_floating_point()]
        torch._foreach_lerp_([own[n] for n in floats], [theirs[n] for n in floats], 1 - keep)
        for name in own.keys() - set(floats):
            own[name].copy_(theirs[name])
