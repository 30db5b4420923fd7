"""The generator: a backbone and a DeepLab head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskwell.errors import UserError
from maskwell.models import backbone as backbones
from maskwell.models.backbone import Backbone, Norm

Head = Literal["v2", "v3plus"]


@dataclass(frozen=True)
class GeneratorSpec:
    """Architecture of the generator.

    Args:
        backbone: ``small``, a directory in Hub layout or a Hub name; see :func:`.backbone.load`.
        head: ``v3plus`` (Chen et al., 2018b) or ``v2`` (Chen et al., 2018a; that of the S4GAN paper).
        norm: ``batch``, ``group`` (with ``small`` only) or ``frozen_batch``.
        output_stride: 8, 16 or 32; None: 16 where it can be chosen.
        width: channels of the v3plus head; None: 256, 64 with ``small``.
        dropout: share dropped before the classifier, in training.
    """

    backbone: str = backbones.SMALL
    head: Head = "v3plus"
    norm: Norm = "batch"
    output_stride: int | None = None
    width: int | None = None
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.head not in ("v2", "v3plus"):
            raise UserError(f"model.generator.head={self.head}: give v2 or v3plus.")
        if not 0 <= self.dropout < 1:
            raise UserError(f"model.generator.dropout={self.dropout}: give a share in [0, 1).")
        if self.width is not None and self.width < 8:
            raise UserError(f"model.generator.width={self.width}: give at least 8 channels, or null.")

    @property
    def head_width(self) -> int:
        """Channels of the v3plus head."""
        return self.width or (64 if self.backbone == backbones.SMALL else 256)


class Generator(nn.Module):
    """Images [B, 3, H, W] -> logits [B, C, H, W]."""

    def __init__(self, spec: GeneratorSpec, backbone: Backbone, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head: nn.Module
        if spec.head == "v2":
            self.head = AsppV2(backbone, classes, spec.dropout)
        else:
            self.head = DecoderV3Plus(backbone, classes, spec.head_width, spec.dropout, spec.norm)

    def forward(self, images: Tensor) -> Tensor:
        """Logits at the resolution of the input."""
        fine, deep = self.backbone(images)
        logits = self.head(fine, deep)
        return F.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)


def build(spec: GeneratorSpec, backbone: Backbone, classes: int, seed: int) -> Generator:
    """The generator over a loaded backbone; the head's weights are drawn from ``seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Generator(spec, backbone, classes)


class AsppV2(nn.Module):
    """Sum of four dilated classifiers on the deep features (Chen et al., 2018a)."""

    def __init__(self, backbone: Backbone, classes: int, dropout: float) -> None:
        super().__init__()
        rates = [max(1, 8 * rate // backbone.stride) for rate in (6, 12, 18, 24)]  # given for stride 8
        self.dropout = nn.Dropout2d(dropout)
        branches = [
            nn.Conv2d(backbone.channels[1], classes, 3, padding=rate, dilation=rate) for rate in rates
        ]
        for branch in branches:
            nn.init.normal_(branch.weight, std=0.01)
            assert branch.bias is not None
            nn.init.zeros_(branch.bias)
        self.branches = nn.ModuleList(branches)

    def forward(self, fine: Tensor, deep: Tensor) -> Tensor:
        deep = self.dropout(deep)
        return torch.stack([branch(deep) for branch in self.branches]).sum(0)


class DecoderV3Plus(nn.Module):
    """ASPP with image pooling, then fine features and two separable convolutions (Chen et al., 2018b)."""

    def __init__(self, backbone: Backbone, classes: int, width: int, dropout: float, norm: Norm) -> None:
        super().__init__()
        fine, deep = backbone.channels
        rates = [max(1, 16 * rate // backbone.stride) for rate in (6, 12, 18)]  # given for stride 16
        self.branches = nn.ModuleList(
            [_block(deep, width, norm), *(_separable(deep, width, norm, rate) for rate in rates)]
        )
        # One pixel per image: a BatchNorm here could not be trained with a batch of one.
        self.pooled = nn.Sequential(nn.Conv2d(deep, width, 1), nn.ReLU())
        self.project = _block(5 * width, width, norm)
        self.reduce = _block(fine, max(8, width * 3 // 16), norm)
        self.refine = nn.Sequential(
            _separable(width + max(8, width * 3 // 16), width, norm, 1), _separable(width, width, norm, 1)
        )
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, classes, 1)

    def forward(self, fine: Tensor, deep: Tensor) -> Tensor:
        context = self.pooled(deep.mean((2, 3), keepdim=True)).expand(-1, -1, *deep.shape[-2:])
        deep = self.project(torch.cat([*(branch(deep) for branch in self.branches), context], dim=1))
        deep = F.interpolate(deep, size=fine.shape[-2:], mode="bilinear", align_corners=False)
        return self.classifier(self.dropout(self.refine(torch.cat([deep, self.reduce(fine)], dim=1))))


def _norm(channels: int, norm: Norm) -> nn.Module:
    # Statistics of fresh layers cannot be frozen: beside a frozen backbone the head has GroupNorm.
    return nn.BatchNorm2d(channels) if norm == "batch" else backbones.group_norm(channels)


def _block(before: int, after: int, norm: Norm) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 1, bias=False), _norm(after, norm), nn.ReLU())


def _separable(before: int, after: int, norm: Norm, rate: int) -> nn.Sequential:
    depthwise = nn.Conv2d(before, before, 3, padding=rate, dilation=rate, groups=before, bias=False)
    return nn.Sequential(depthwise, _norm(before, norm), nn.ReLU(), *_block(before, after, norm))
