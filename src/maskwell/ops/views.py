"""Strong photometric views of normalised images, as tensor operations on a whole batch.

Brightness, contrast, saturation, hue, grey and blur with the strengths that FixMatch-like methods use
for segmentation (UniMatch, Yang et al., 2023); geometry is left alone, so that labels stay valid.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

JITTER = 0.5
"""Brightness, contrast and saturation are multiplied by 1 +- this."""
HUE = 0.25
"""Hue is turned by up to this share of the circle, either way."""
P_JITTER, P_GREY, P_BLUR = 0.8, 0.2, 0.5
"""Shares of the images that each change meets."""
BLUR = 0.005
"""Greatest sigma of the blur, as a share of the image's shorter side."""

LUMA = (0.299, 0.587, 0.114)
_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


def strong_view(images: Tensor, mean: tuple[float, float, float], std: tuple[float, float, float]) -> Tensor:
    """Change colours and sharpness of each image at random, from torch's global generator.

    Args:
        images: float [B, 3, H, W], normalised with ``mean`` and ``std``.

    Returns:
        float [B, 3, H, W], normalised likewise; colours are clipped to what an image can hold.
    """
    centre = images.new_tensor(mean)[:, None, None]
    scale = images.new_tensor(std)[:, None, None]
    colours = (images * scale + centre).clamp(0, 1)
    met = torch.rand(3, len(images), device=images.device)
    colours = torch.where(_per_image(met[0] < P_JITTER), jitter(colours), colours)
    colours = torch.where(_per_image(met[1] < P_GREY), luma(colours).expand_as(colours), colours)
    sigma = torch.rand(len(images), device=images.device) * BLUR * min(images.shape[-2:])
    blurred = blur(colours, sigma, radius=max(1, math.ceil(3 * BLUR * min(images.shape[-2:]))))
    colours = torch.where(_per_image(met[2] < P_BLUR), blurred, colours)
    return (colours - centre) / scale


def jitter(colours: Tensor) -> Tensor:
    """Random brightness, contrast, saturation and hue of each image; RGB in [0, 1] in and out."""
    count = len(colours)
    brightness, contrast, saturation = 1 + JITTER * (2 * torch.rand(3, count, device=colours.device) - 1)
    turn = HUE * (2 * torch.rand(count, device=colours.device) - 1)
    colours = (colours * _per_image(brightness)).clamp(0, 1)
    grey = luma(colours).mean((1, 2, 3), keepdim=True)
    colours = (grey + (colours - grey) * _per_image(contrast)).clamp(0, 1)
    grey = luma(colours)
    colours = (grey + (colours - grey) * _per_image(saturation)).clamp(0, 1)
    return turn_hue(colours, turn)


def luma(colours: Tensor) -> Tensor:
    """Brightness as the eye sees it: RGB [B, 3, H, W] -> [B, 1, H, W]."""
    return torch.einsum("bchw,c->bhw", colours, colours.new_tensor(LUMA))[:, None]


def turn_hue(colours: Tensor, turn: Tensor) -> Tensor:
    """Rotate the chroma plane of YIQ by ``turn`` [B] circles; luma stays, before clipping to [0, 1]."""
    angle = 2 * math.pi * turn.to(colours)
    rotation = torch.zeros(len(colours), 3, 3, dtype=colours.dtype, device=colours.device)
    rotation[:, 0, 0] = 1
    rotation[:, 1, 1] = rotation[:, 2, 2] = angle.cos()
    rotation[:, 1, 2], rotation[:, 2, 1] = -angle.sin(), angle.sin()
    to_yiq = colours.new_tensor(_YIQ)
    matrix = torch.linalg.inv(to_yiq) @ rotation @ to_yiq
    return torch.einsum("bij,bjhw->bihw", matrix, colours).clamp(0, 1)


def blur(colours: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Gaussian blur with ``sigma`` [B] px per image, cut at ``radius`` px, edges repeated."""
    batch, channels, height, width = colours.shape
    offsets = torch.arange(-radius, radius + 1, device=colours.device, dtype=colours.dtype)
    weights = torch.exp(-0.5 * (offsets / sigma.to(colours).clamp(min=1e-3)[:, None]) ** 2)
    kernel = (weights / weights.sum(1, keepdim=True)).repeat_interleave(channels, 0)[:, None, None]
    flat = colours.reshape(1, batch * channels, height, width)
    flat = F.pad(flat, (radius, radius, radius, radius), mode="replicate")
    flat = F.conv2d(flat, kernel, groups=batch * channels)
    flat = F.conv2d(flat, kernel.transpose(2, 3), groups=batch * channels)
    return flat.reshape(colours.shape)


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]
