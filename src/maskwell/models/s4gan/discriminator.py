"""The discriminator: is this class map a label of this image, or a prediction?"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from maskwell.data.sample import IGNORE
from maskwell.errors import UserError


@dataclass(frozen=True)
class DiscriminatorSpec:
    """Size of the discriminator.

    Args:
        ndf: channels of its first layer; the last has eight times as many. 16 is quick on a CPU.
        dropout: share of channels dropped after its first three layers in training, never when it scores.
    """

    ndf: int = 64
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.ndf < 1:
            raise UserError(
                f"model.discriminator.ndf={self.ndf}: give one channel or more, 64 as in the paper."
            )
        if not 0 <= self.dropout < 1:
            raise UserError(f"model.discriminator.dropout={self.dropout}: give a share in [0, 1).")


class Discriminator(nn.Module):
    """Four convolutions of stride 2 over image and class map, a global mean, one logit.

    (Mittal et al., 2021; the mean is global here, so that any input size will do.)

    Args:
        classes: C.
        spec: width and dropout.
        spectral: divide every weight by its spectral norm (Miyato et al., 2018).
    """

    def __init__(self, classes: int, spec: DiscriminatorSpec, *, spectral: bool) -> None:
        super().__init__()
        widths = [classes + 3, *(spec.ndf * factor for factor in (1, 2, 4, 8))]
        normed = spectral_norm if spectral else (lambda layer: layer)
        self.layers = nn.ModuleList(
            normed(nn.Conv2d(before, after, kernel_size=4, stride=2, padding=1))
            for before, after in pairwise(widths)
        )
        self.classifier = normed(nn.Linear(widths[-1], 1))
        self.dropout = spec.dropout

    def forward(self, images: Tensor, maps: Tensor, *, scoring: bool = False) -> tuple[Tensor, Tensor]:
        """Logits [B] (positive: a real label) and features [B, 8 ndf].

        Args:
            images: [B, 3, H, W] in [-1, 1], H and W at least 16.
            maps: class probabilities or one-hot labels [B, C, H, W].
            scoring: no dropout, whatever the mode.
        """
        features = torch.cat([images, maps], dim=1)
        for depth, layer in enumerate(self.layers):
            features = F.leaky_relu(layer(features), 0.2)
            if depth < 3 and self.dropout and not scoring:
                features = F.dropout2d(features, self.dropout, self.training)
        pooled = features.mean((2, 3))
        return self.classifier(pooled)[:, 0], pooled


def real_maps(labels: Tensor, predicted: Tensor, *, confidence: float, fill_void: bool) -> Tensor:
    """Class maps [B, C, H, W] of labels, as a discriminator shall see them.

    Predictions are never exactly 0 or 1 and never all zero, so hard maps of real labels betray
    themselves. The labelled class gets at least ``confidence`` and the others share the rest as they do
    in the prediction (Luc et al., 2016); where the prediction is right and surer than that,
    the two maps are the same.

    Args:
        labels: int64 [B, H, W], 255 = void.
        predicted: probabilities [B, C, H, W] of the same images, without gradient.
        confidence: in (0, 1]; 1 gives one-hot maps.
        fill_void: put the prediction where the label is void, instead of zeros.
    """
    void = labels == IGNORE
    index = labels.masked_fill(void, 0)[:, None]
    one_hot = torch.zeros_like(predicted).scatter_(1, index, 1.0)
    if confidence < 1:
        own = predicted.gather(1, index)
        wanted = own.clamp(min=confidence)
        rest = predicted * (1 - wanted) / (1 - own).clamp(min=1e-6)
        maps = torch.where(one_hot > 0, wanted, rest)
    else:
        maps = one_hot
    return torch.where(void[:, None], predicted if fill_void else torch.zeros_like(predicted), maps)
