"""Running statistics of BatchNorm, as they were before a step that is dropped.

The forward pass writes them: without this, one image with a NaN leaves a network that trains on, and answers
nothing but NaN in evaluation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


class StatisticsMemory:
    """Keeps the statistics of all normalisations below a module that gather some in training."""

    def __init__(self, module: nn.Module) -> None:
        norms = [m for m in module.modules() if isinstance(m, _NormBase) and m.track_running_stats]
        self._norms = [m for m in norms if m.running_mean is not None]
        self._training: list[_NormBase] = []
        self._pairs: list[tuple[list[Tensor], list[Tensor]]] = []  # live and kept; floats, then counts

    @torch.no_grad()
    def keep(self) -> None:
        """Those of what is in training mode now; others change by no forward pass."""
        training = [norm for norm in self._norms if norm.training]
        if training != self._training:
            self._training = training
            buffers = [buffer for norm in training for buffer in norm.buffers(recurse=False)]
            kinds = [[b for b in buffers if b.is_floating_point() == floating] for floating in (True, False)]
            self._pairs = [(live, [b.clone() for b in live]) for live in kinds if live]
            return
        for live, kept in self._pairs:
            torch._foreach_copy_(kept, live)

    @torch.no_grad()
    def restore(self) -> None:
        """As they were when they were last kept."""
        for live, kept in self._pairs:
            torch._foreach_copy_(live, kept)
