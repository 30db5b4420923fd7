"""Loss terms as pure functions on logits, and the one place where objects are counted.

Sum-type terms return one value per object, unreduced over objects, so that the caller divides by
:func:`global_count`, or by a :class:`Divisor` made of it, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def global_count(local: float | Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Divisor of a sum-type loss: the sum of ``local`` over ranks / world size, at least 1.

    DDP averages gradients over ranks, so the division by the world size makes the averaged
    gradient that of one process with all objects (DETR, Carion et al., 2020, A.4). Without gradients, as
    in validation, it is the local count: ranks may have different numbers of batches there, and one would
    wait for the other.
    """
    count = torch.as_tensor(local, dtype=torch.float32, device=device).detach().clone()
    if torch.is_grad_enabled() and dist.is_available() and dist.is_initialized():
        dist.all_reduce(count)
        count /= dist.get_world_size()
    return count.clamp(min=1.0)


@dataclass(frozen=True)
class Divisor:
    """What a sum is divided by: ``own``, the count of its batch.

    ``whole``: that of all batches whose gradients are accumulated with it, over their number; None: the
    batch stands alone.
    """

    own: Tensor
    whole: Tensor | None = None

    def mean(self, total: Tensor) -> Tensor:
        """``total`` over ``own``, with the gradient of ``total`` over ``whole``.

        So what is logged and watched stays the mean of this batch, as if it stood alone.
        """
        value = total / self.own
        if self.whole is None:
            return value
        share = total / self.whole
        return value.detach() + (share - share.detach())

    def __mul__(self, copies: int) -> Divisor:
        return Divisor(self.own * copies, None if self.whole is None else self.whole * copies)


@dataclass(frozen=True)
class Accumulation:
    """``number`` batches whose gradients are averaged for one optimiser step (the last ones may be fewer).

    ``totals``: what the terms of the loss are divided by, name -> count of all of them on this rank.
    Divided by these the mean of their gradients is the gradient of one batch that holds them all; a mean
    of each batch's own means would weigh an object the more, the fewer its batch has.
    """

    totals: Mapping[str, float] = field(default_factory=dict)
    number: int = 1

    def divisor(
        self,
        name: str,
        local: float | Tensor,
        device: torch.device | str = "cpu",
        count: Callable[[float | Tensor, torch.device | str], Tensor] | None = None,
    ) -> Divisor:
        """Divisor of the terms that are summed over what ``name`` counts, ``local`` of it in this batch.

        ``count``: count on this rank and device -> divisor; None: :func:`global_count`.
        """
        count = count or global_count
        own = count(local, device)
        return Divisor(own, count(self.totals[name], device) / self.number if self.totals else None)


ALONE = Accumulation()
"""A batch that the optimiser steps with by itself."""


def sigmoid_focal(logits: Tensor, targets: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Element-wise focal loss (Lin et al., 2017, eq. 5); ``targets`` in [0, 1], same shape."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    probability = logits.sigmoid()
    p_true = probability * targets + (1 - probability) * (1 - targets)
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    return weight * cross_entropy * (1 - p_true) ** gamma


def dice(logits: Tensor, targets: Tensor, *, smooth: float = 1.0) -> Tensor:
    """1 - soft Dice per row: [N, P] logits against [N, P] targets in {0, 1} -> [N] in [0, 1]."""
    probability = logits.sigmoid()
    overlap = 2 * (probability * targets).sum(-1)
    total = probability.sum(-1) + targets.sum(-1)
    return 1 - (overlap + smooth) / (total + smooth)


def iou_aware_bce(
    logits: Tensor,
    positive: Tensor,
    iou: Tensor,
    *,
    pos_weight: float = 10.0,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> Tensor:
    """IoU-aware classification loss per query (IA-BCE; Cai et al., 2023, eq. 4), unreduced.

    A matched query is drawn to ``p^alpha * iou^(1-alpha)`` (at least 0.01, no gradient), weighted by
    ``pos_weight``; an unmatched one to 0, weighted by ``p^gamma``. SAM 3 trains with these figures.

    Args:
        logits: [...] class logits.
        positive: bool [...], query is matched.
        iou: [...] IoU with the matched object, any value where unmatched.
    """
    probability = logits.sigmoid().detach()
    soft = (probability**alpha * iou.detach().clamp(min=0) ** (1 - alpha)).clamp(min=0.01)
    target = torch.where(positive, soft, torch.zeros_like(soft))
    weight = torch.where(positive, torch.full_like(soft, pos_weight), logits.sigmoid() ** gamma)
    return weight * F.binary_cross_entropy_with_logits(logits, target, reduction="none")
