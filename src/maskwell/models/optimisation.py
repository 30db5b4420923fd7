"""Optimisers with their schedules, as the configuration group ``optim`` names them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from maskwell.ops.schedules import warmup_cosine


def fused(parameters: Iterable[nn.Parameter]) -> bool | None:
    """What ``fused`` of torch's optimisers should be: True where these parameters lie on the CPU.

    Torch's own choice there is a loop over the tensors in Python, which takes several times as long where
    they are many and small. Elsewhere (None) that choice is good, and a fused optimiser would unscale
    float16 gradients itself, after they were clipped. The kernel reads a gradient in its parameter's memory
    order: ``backward`` leaves it so, gradients set by hand have to be brought to it (:func:`laid_out`).
    """
    on_cpu = all(p.device.type == "cpu" and torch.empty_like(p).stride() == p.stride() for p in parameters)
    return True if on_cpu else None


def laid_out(gradient: Tensor, parameter: Tensor) -> Tensor:
    """A gradient in the memory order of its parameter."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


@dataclass(frozen=True)
class AdamWCosine:
    """AdamW with linear warm-up and cosine decay over the whole run.

    ``lr`` peak rate; ``weight_decay`` of matrices (vectors and scalars such as biases and norms get
    none); ``warmup_share`` of all iterations; ``final_share`` of the rate that is left at the end.
    """

    lr: float = 1e-4
    weight_decay: float = 0.01
    warmup_share: float = 0.05
    final_share: float = 0.01
    beta2: float = 0.999

    def build(
        self, parameters: Iterable[tuple[str, nn.Parameter]], total: int
    ) -> tuple[torch.optim.Optimizer, LambdaLR]:
        """The optimiser over named trainable parameters and its per-iteration schedule of ``total`` steps."""
        decayed: list[nn.Parameter] = []
        plain: list[nn.Parameter] = []
        for _, parameter in parameters:
            (decayed if parameter.ndim > 1 else plain).append(parameter)
        groups = [
            {"params": decayed, "weight_decay": self.weight_decay, "name": "decayed"},
            {"params": plain, "weight_decay": 0.0, "name": "plain"},
        ]
        optimiser = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=self.lr,
            betas=(0.9, self.beta2),
            fused=fused([*decayed, *plain]),
        )
        warmup = round(self.warmup_share * total)
        schedule = LambdaLR(
            optimiser,
            lambda iteration: warmup_cosine(iteration, total, warmup=warmup, final_share=self.final_share),
        )
        return optimiser, schedule
