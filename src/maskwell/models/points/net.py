"""The network: an encoder that runs once per image, and a decoder that is cheap enough to run per mark."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskwell.errors import UserError
from maskwell.models import backbone as backbones
from maskwell.models.backbone import Backbone, Norm
from maskwell.models.points.heads import (
    Coordinates,
    OneShotHead,
    PointerHead,
    Pointing,
    Proposals,
    XYHead,
)
from maskwell.models.points.memory import Canvas

Head = Literal["pointer", "xy", "one_shot"]
HEADS: dict[Head, type[PointerHead | XYHead | OneShotHead]] = {
    "pointer": PointerHead,
    "xy": XYHead,
    "one_shot": OneShotHead,
}
STRIDE = 8
"""Pixels of the network input per cell of the grid."""


@dataclass(frozen=True)
class EncoderSpec:
    """Architecture of the encoder.

    Args:
        backbone: ``small``, a directory in Hub layout or a Hub name; see :func:`.backbone.load`.
        norm: ``batch``, ``group`` or ``frozen_batch``; None: group with ``small``, else batch.
        output_stride: 8, 16 or 32; None: 16 where it can be chosen.
        width: channels of a cell.
    """

    backbone: str = backbones.SMALL
    norm: Norm | None = None
    output_stride: int | None = None
    width: int = 96

    def __post_init__(self) -> None:
        if self.width < 8:
            raise UserError(f"model.encoder.width={self.width}: give at least 8 channels.")

    @property
    def chosen_norm(self) -> Norm:
        """``norm``, or the backbone's own."""
        return self.norm or ("group" if self.backbone == backbones.SMALL else "batch")


@dataclass(frozen=True)
class Grid:
    """Images as cells: ``keys`` [B, P, H]; ``valid`` bool [B, P], shows image; ``size`` (height, width).

    ``objectness`` float32 [B, P]: logit of showing an object, of the pointer.
    """

    keys: Tensor
    valid: Tensor
    size: tuple[int, int]
    objectness: Tensor | None = None

    def detached(self) -> Grid:
        """The same without gradient."""
        objectness = None if self.objectness is None else self.objectness.detach()
        return Grid(self.keys.detach(), self.valid, self.size, objectness)


class Encoder(nn.Module):
    """Fine and deep features of a backbone on one grid of stride 8."""

    def __init__(self, spec: EncoderSpec, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        fine, deep = backbone.channels
        width, norm = spec.width, spec.chosen_norm
        step = 2 if backbone.fine_stride * 2 <= STRIDE else 1
        self.fine = _block(fine, width // 2, 3, norm, step)
        self.deep = _block(deep, width // 2, 1, norm)
        self.fuse = _block(2 * (width // 2), width, 3, norm)
        self.refine = _block(width, width, 3, norm)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [B, 3, H, W], sides multiples of 8 -> [B, width, H / 8, W / 8]."""
        size = (images.shape[-2] // STRIDE, images.shape[-1] // STRIDE)
        fine, deep = self.backbone(images)
        fused = self.fuse(torch.cat([_at(self.fine(fine), size), _at(self.deep(deep), size)], dim=1))
        return fused + self.refine(fused)


class Decoder(nn.Module):
    """Hidden state of every cell given the marks; two layers per cell and nothing between cells."""

    def __init__(self, canvas: Canvas, hidden: int) -> None:
        super().__init__()
        self.canvas = canvas
        self.see = nn.Linear(canvas.channels, hidden)
        self.mix = nn.Linear(hidden, hidden)

    def forward(self, keys: Tensor, marks: Tensor, counts: Tensor, size: tuple[int, int]) -> Tensor:
        """``keys`` [S, P, H] of the states' images and their marks -> [S, P, H]."""
        seen = self.see(self.canvas(marks, counts, size).to(keys.dtype))
        return F.relu(self.mix(F.relu(keys + seen)))


class PointNet(nn.Module):
    """Encoder, decoder and head."""

    def __init__(
        self, spec: EncoderSpec, backbone: Backbone, head: Head, canvas: Canvas, hidden: int
    ) -> None:
        super().__init__()
        self.encoder = Encoder(spec, backbone)
        self.keys = nn.Linear(spec.width, hidden)
        self.decoder = Decoder(canvas, hidden)
        self.head = HEADS[head](hidden)

    def encode(self, images: Tensor, pixel_mask: Tensor) -> Grid:
        """Once per image: ``images`` [B, 3, H, W], ``pixel_mask`` bool [B, H, W]."""
        features = self.encoder(images)
        keys = self.keys(features.flatten(2).transpose(1, 2))
        valid = F.max_pool2d(pixel_mask[:, None].float(), STRIDE).flatten(1) > 0
        objectness = self.head.objectness(keys) if isinstance(self.head, PointerHead) else None
        return Grid(keys, valid, (features.shape[-2], features.shape[-1]), objectness)

    def decode(
        self, grid: Grid, image: Tensor, marks: Tensor, counts: Tensor
    ) -> Pointing | Coordinates | Proposals:
        """Once per state.

        Args:
            grid: of the images.
            image: int64 [S], which of them each state belongs to.
            marks: float [S, M, 2] in [0, 1]; ``counts``: int64 [S], how many rows of it count.
        """
        hidden = self.decoder(grid.keys[image], marks, counts, grid.size)
        valid = grid.valid[image]
        if isinstance(self.head, PointerHead):
            assert grid.objectness is not None
            pointing: Pointing = self.head(hidden, valid, grid.size, grid.objectness[image], marks, counts)
            return pointing
        found: Coordinates | Proposals = self.head(hidden, valid, grid.size)
        return found

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters of each part of the head, of the decoder and of the encoder, those that are trained."""
        head = self.head
        groups = {
            name: list(part.parameters()) for name, part in head.named_children() if name.endswith("_head")
        }
        decoder = [*self.keys.parameters(), *self.decoder.parameters()]
        if isinstance(head, PointerHead):
            groups["point_head"] += [head.marked, head.done_head]
        elif isinstance(head, XYHead):
            decoder += head.attention.parameters()
        encoder = [p for p in self.encoder.parameters() if p.requires_grad]
        return {**groups, "decoder": decoder, "encoder": encoder}


def build(spec: EncoderSpec, head: Head, canvas: Canvas, hidden: int, seed: int) -> PointNet:
    """The network; fresh weights are drawn from ``seed``.

    Raises:
        UserError: no such head, or a backbone that cannot be had.
    """
    if head not in HEADS:
        raise UserError(f"model.head={head}: give one of {', '.join(HEADS)}.")
    backbone = backbones.load(
        spec.backbone,
        norm=spec.chosen_norm,
        output_stride=spec.output_stride,
        seed=seed,
        key="model.encoder",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        return PointNet(spec, backbone, head, canvas, hidden)


def _block(before: int, after: int, kernel: int, norm: Norm, step: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(before, after, kernel, stride=step, padding=kernel // 2, bias=False)
    # Statistics of fresh layers cannot be frozen: beside a frozen backbone they have GroupNorm.
    layer = nn.BatchNorm2d(after) if norm == "batch" else backbones.group_norm(after)
    return nn.Sequential(conv, layer, nn.ReLU())


def _at(maps: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(maps.shape[-2:]) == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
