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
        self._kept: dict[_NormBase, list[Tensor]] = {}

    def keep(self) -> None:
        """Those of what is in training mode now; others change by no forward pass."""
        training = [norm for norm in self._norms if norm.training]
        new = [norm for norm in training if norm not in self._kept]
        self._kept |= {norm: [buffer.clone() for buffer in norm.buffers(recurse=False)] for norm in new}
        known = [norm for norm in training if norm not in new]
        _copy([b for n in known for b in self._kept[n]], [b for n in known for b in n.buffers(recurse=False)])

    def restore(self) -> None:
        """As they were when they were last kept."""
        norms = [norm for norm in self._kept if norm.training]
        _copy([b for n in norms for b in n.buffers(recurse=False)], [b for n in norms for b in self._kept[n]])


@torch.no_grad()
def _copy(into: list[Tensor], values: list[Tensor]) -> None:
    pairs = list(zip(into, values, strict=True))
    for floating in (True, False):
        alike = [pair for pair in pairs if pair[0].is_floating_point() == floating]
        if alike:
            torch._foreach_copy_([own for own, _ in alike], [other for _, other in alike])
