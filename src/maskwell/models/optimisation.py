"""Optimisers with their schedules, as the configuration group ``optim`` names them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from maskwell.ops.schedules import warmup_cosine


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
        optimiser = torch.optim.AdamW([g for g in groups if g["params"]], lr=self.lr, betas=(0.9, self.beta2))
        warmup = round(self.warmup_share * total)
        schedule = LambdaLR(
            optimiser,
            lambda iteration: warmup_cosine(iteration, total, warmup=warmup, final_share=self.final_share),
        )
        return optimiser, schedule
