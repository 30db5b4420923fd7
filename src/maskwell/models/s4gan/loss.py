"""The losses of S4GAN as pure functions (Mittal et al., 2021), divided over all ranks.

Every term is such that the mean over data-parallel ranks, with batches of the same size, is the
term of one process with all images.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from maskwell.data.sample import IGNORE
from maskwell.ops.losses import global_count


def cross_entropy(logits: Tensor, labels: Tensor, of: Tensor | None = None) -> Tensor:
    """Cross-entropy over the pixels that are not 255; 0, and finite, where there is none.

    Args:
        logits: [B, C, H, W].
        labels: int64 [B, H, W], 255 = void.
        of: divisor of this rank; None: the number of labelled pixels. Self-training divides by all
            pixels that could have been chosen, so that few pseudo-labels weigh little.
    """
    total = F.cross_entropy(full_precision(logits), labels, ignore_index=IGNORE, reduction="sum")
    count = (labels != IGNORE).sum() if of is None else of
    return total / global_count(count, logits.device)


def feature_matching(real: Tensor, fake: Tensor) -> Tensor:
    """L1 distance of the batch means of the discriminator's features, mean over features.

    Args:
        real: features of real pairs [B, F]; they get no gradient.
        fake: features of predicted pairs [B, F].
    """
    return (_batch_mean(full_precision(real).detach()) - _batch_mean(full_precision(fake))).abs().mean()


def discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Half the binary cross-entropy of real -> 1 plus that of fake -> 0; ln 2 for a discriminator at 0.

    Args:
        real: logits [B].
        fake: logits [B].
    """
    real, fake = full_precision(real), full_precision(fake)
    on_real = F.binary_cross_entropy_with_logits(real, torch.ones_like(real))
    on_fake = F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))
    return (on_real + on_fake) / 2


def r1(logits: Tensor, inputs: tuple[Tensor, ...]) -> Tensor:
    """Half the squared norm of the gradient at real inputs, mean over images (Mescheder et al., 2018).

    Args:
        logits: [B] of real pairs, with a graph to ``inputs``.
        inputs: tensors [B, ...] that require a gradient.
    """
    gradients = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
    return sum((g.flatten(1).square().sum(1).mean() for g in gradients), torch.zeros_like(logits[0])) / 2


def full_precision(values: Tensor) -> Tensor:
    """Half precision to float32; the rest as it is."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _batch_mean(values: Tensor) -> Tensor:
    """Mean over the images of all ranks; its gradient goes to this rank's own images."""
    local = values.mean(0)
    if not (dist.is_available() and dist.is_initialized()):
        return local
    everywhere = local.detach().clone()
    dist.all_reduce(everywhere)
    # The value is that of all ranks; averaging gradients over ranks then gives that of one process.
    return local + (everywhere / dist.get_world_size() - local).detach()
