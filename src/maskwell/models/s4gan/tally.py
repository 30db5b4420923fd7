"""What pseudo-labels are like: how many, of which classes, and how many are right where that is known."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from maskwell.data.sample import IGNORE, Batch
from maskwell.models.s4gan import pseudo
from maskwell.models.s4gan.objective import hidden_labels
from maskwell.models.s4gan.pseudo import PseudoLabels

CONFIDENCE_DECAY = 0.99
"""Of the running mean of each class's confidence, per iteration."""


class PseudoTally(nn.Module):
    """Counts over all ranks since the last evaluation, kept in the checkpoint.

    Args:
        classes: C.

    Attributes:
        mean_confidence: running mean of the confidence of pixels predicted as each class, [C]; 0 for those
            that were never predicted.
    """

    mean_confidence: Tensor
    pixels: Tensor
    checked: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("mean_confidence", torch.zeros(classes))
        self.register_buffer("pixels", torch.zeros(classes, dtype=torch.int64))
        self.register_buffer("checked", torch.zeros(2, dtype=torch.int64))  # right, all

    def forget(self) -> None:
        """Back to the start of a run."""
        self.mean_confidence.zero_()
        self.pixels.zero_()
        self.checked.zero_()

    @torch.no_grad()
    def measure(self, found: PseudoLabels, unlabelled: Batch) -> Tensor:
        """Counts of this rank as one vector, to be summed over ranks for :meth:`add`."""
        classes, valid = len(self.pixels), unlabelled.pixel_mask
        right, checked = pseudo.agreement(found.labels, hidden_labels(unlabelled))
        chosen = (found.labels != IGNORE).sum()
        whole = torch.tensor(len(unlabelled), device=valid.device)
        numbers = torch.stack([found.count, whole, chosen, valid.sum(), right, checked])
        sums, counts = pseudo.confidence_sums(found, valid, classes)
        return torch.cat([numbers.float(), pseudo.histogram(found.labels, classes).float(), sums, counts])

    @torch.no_grad()
    def add(self, counts: Tensor) -> dict[str, Tensor]:
        """Add :meth:`measure` of all ranks; the facts of the step.

        Returns:
            ``st_count`` images with a pixel that teaches, ``st_of`` images in the batch, ``st_share`` of the
            pixels that teach.
        """
        numbers, pixels, sums, seen = counts.split([6, *[len(self.pixels)] * 3])
        images, of, chosen, valid, right, checked = numbers
        self.pixels += pixels.round().long()
        self.checked += torch.stack([right, checked]).round().long()
        self.mean_confidence.copy_(pseudo.running_mean(self.mean_confidence, sums, seen, CONFIDENCE_DECAY))
        share = chosen / valid.clamp(min=1)
        return {"st_count": images, "st_of": of, "st_share": share}

    def summary(self, categories: Sequence[str]) -> dict[str, Tensor]:
        """``pseudo_precision`` where labels exist to check, ``pseudo_share/<class>``; counts from anew."""
        result = {}
        if self.checked[1] > 0:
            result["pseudo_precision"] = (self.checked[0] / self.checked[1]).float()
        if self.pixels.sum() > 0:
            shares = (self.pixels / self.pixels.sum()).float()
            result |= {f"pseudo_share/{name}": share for name, share in zip(categories, shares, strict=True)}
        self.pixels.zero_()
        self.checked.zero_()
        return result
