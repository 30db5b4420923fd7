"""Which pixels of an unlabelled image teach: by the discriminator's score, by confidence, by class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from maskwell.data.sample import IGNORE


@dataclass(frozen=True)
class PseudoLabels:
    """``labels`` int64 [B, H, W], 255 where nothing is taught; ``confidence`` [B, H, W], the greatest
    probability of each pixel; ``classes`` int64 [B, H, W], its class, chosen or not.
    """

    labels: Tensor
    confidence: Tensor
    classes: Tensor

    @property
    def count(self) -> Tensor:
        """Images of which at least one pixel teaches, int64 scalar."""
        return (self.labels != IGNORE).flatten(1).any(1).sum()


def choose(
    probabilities: Tensor, valid: Tensor, gate: Tensor | None, thresholds: Tensor | None
) -> PseudoLabels:
    """The likeliest class of each pixel that is valid, in a chosen image, and sure enough.

    Args:
        probabilities: [B, C, H, W].
        valid: bool [B, H, W], False in padding.
        gate: bool [B], images that the discriminator takes for real; None takes all.
        thresholds: [C], least probability of each class; None takes all pixels.
    """
    confidence, classes = probabilities.detach().max(1)
    chosen = valid
    if gate is not None:
        chosen = chosen & gate[:, None, None]
    if thresholds is not None:
        chosen = chosen & (confidence >= thresholds[classes])
    return PseudoLabels(classes.masked_fill(~chosen, IGNORE), confidence, classes)


def image_gate(logits: Tensor, threshold: float) -> Tensor:
    """bool [B]: the sigmoid of the discriminator's logits [B] exceeds ``threshold``."""
    return logits.detach().sigmoid() > threshold


def class_thresholds(mean_confidence: Tensor, threshold: float) -> Tensor:
    """``threshold`` lowered for classes of which the model is less sure, [C] (FreeMatch, Wang et al., 2023).

    Args:
        mean_confidence: running mean of the confidence of the pixels predicted as each class, [C]; 0 for
            classes that were never predicted, which get ``threshold`` itself.
        threshold: of the class with the greatest.
    """
    share = mean_confidence / mean_confidence.max().clamp(min=1e-6)
    return threshold * torch.where(mean_confidence > 0, share, 1.0)


def confidence_sums(found: PseudoLabels, valid: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Sum of the confidences and number of the valid pixels predicted as each class, two of float [C].

    A pixel that is not finite counts nowhere: it would stay in the running mean for ever.
    """
    valid = valid & found.confidence.isfinite()
    of_class = found.classes[valid]
    sums = torch.zeros(classes, device=valid.device)
    sums.index_add_(0, of_class, found.confidence[valid].float())
    return sums, torch.bincount(of_class, minlength=classes).to(sums)


def running_mean(mean: Tensor, sums: Tensor, counts: Tensor, decay: float) -> Tensor:
    """``mean`` [C] moved towards ``sums / counts`` where a class was predicted, all the way from 0."""
    found = sums / counts.clamp(min=1)
    moved = torch.where(mean > 0, decay * mean + (1 - decay) * found, found)
    return torch.where(counts > 0, moved, mean)


def agreement(labels: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """(right, checked) pixels of pseudo-labels where true labels that training must not use are known.

    Args:
        labels: pseudo-labels int64 [B, H, W], 255 = none.
        hidden: true labels of the same shape, 255 = unknown or void.
    """
    checked = (labels != IGNORE) & (hidden != IGNORE)
    return ((labels == hidden) & checked).sum(), checked.sum()


def histogram(labels: Tensor, classes: int) -> Tensor:
    """Pixels of each class, int64 [C]; 255 counts nowhere."""
    return torch.bincount(labels[labels != IGNORE], minlength=classes)
