"""CutMix (Yun et al., 2019; French et al., 2020, for segmentation): a rectangle of one image in another."""

from __future__ import annotations

import math

import torch
from torch import Tensor

AREA = (0.02, 0.4)
"""Least and greatest share of the image that a rectangle covers (UniMatch's)."""

ASPECT = (0.3, 1 / 0.3)
"""Least and greatest height / width of a rectangle, relative to the image's own."""


def rectangles(
    count: int, size: tuple[int, int], probability: float, device: torch.device | str = "cpu"
) -> Tensor:
    """One random rectangle per image, bool [count, H, W], True inside; empty with 1 - ``probability``.

    Random from torch's global generator.

    Args:
        count: images.
        size: (height, width) in pixels.
        probability: that an image gets a rectangle.
    """
    height, width = size
    used, area, aspect, top, left = torch.rand(5, count, device=device)
    share = AREA[0] + (AREA[1] - AREA[0]) * area
    ratio = torch.exp(math.log(ASPECT[0]) + (math.log(ASPECT[1]) - math.log(ASPECT[0])) * aspect)
    tall, wide = (share * ratio).sqrt().clamp(max=1.0), (share / ratio).sqrt().clamp(max=1.0)
    y0, x0 = top * (1 - tall) * height, left * (1 - wide) * width
    rows = torch.arange(height, device=device) + 0.5
    columns = torch.arange(width, device=device) + 0.5
    in_rows = (rows >= y0[:, None]) & (rows < (y0 + tall * height)[:, None])
    in_columns = (columns >= x0[:, None]) & (columns < (x0 + wide * width)[:, None])
    inside: Tensor = in_rows[:, :, None] & in_columns[:, None, :] & (used < probability)[:, None, None]
    return inside


def mix(inside: Tensor, maps: Tensor) -> Tensor:
    """Replace the pixels ``inside`` [B, H, W] of each image by those of its neighbour in the batch.

    Args:
        inside: bool [B, H, W].
        maps: [B, H, W] or [B, C, H, W]; the same rectangles serve images, labels and masks.
    """
    chosen = inside if maps.ndim == inside.ndim else inside[:, None]
    return torch.where(chosen, maps.roll(1, 0), maps)
