"""Class probabilities of semantic models: back to the pixels of the image, and averaged over windows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def to_window(probabilities: Tensor, content: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Probabilities in the frame of the network input -> in pixels of its window, without the padding.

    Args:
        probabilities: float [C, H, W].
        content: (height, width) of the window in the network input, top left.
        size: (height, width) of the window in file pixels.

    Returns:
        float [C, h, w], bilinear where the two scales differ.
    """
    inside = probabilities[:, : content[0], : content[1]]
    if content == size:
        return inside
    return interpolate(inside[None], size=size, mode="bilinear", align_corners=False)[0]


class Average:
    """The mean of class probabilities over windows that overlap.

    A window's say grows with the distance from its edge, where it sees least of what lies around a
    pixel; its borders then leave no seams. Sums lie on the CPU: classes x height x width x 4 bytes.

    Args:
        size: (height, width) of the image.
        classes: C.
    """

    def __init__(self, size: tuple[int, int], classes: int) -> None:
        self._sum = torch.zeros(classes, *size)
        self._weight = torch.zeros(size)

    def add(self, probabilities: Tensor, window: tuple[int, int, int, int]) -> None:
        """Add float [C, h, w] at ``window`` (x, y, width, height)."""
        x, y, width, height = window
        weight = _from_edge(height)[:, None] * _from_edge(width)
        self._sum[:, y : y + height, x : x + width] += probabilities.to(self._sum) * weight
        self._weight[y : y + height, x : x + width] += weight

    def probabilities(self) -> Tensor:
        """float32 [C, H, W]; nan where no window was."""
        return self._sum / self._weight


def _from_edge(length: int) -> Tensor:
    """Distance of each pixel's centre from the nearer end, as a share of the half: float32 [length]."""
    centres = torch.arange(length) + 0.5
    return torch.minimum(centres, length - centres) / (length / 2)
