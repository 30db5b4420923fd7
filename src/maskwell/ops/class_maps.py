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
    """The mean of class probabilities over windows that overlap, and the class that is likeliest.

    It lies on the CPU: large images need classes x height x width x 4 bytes.

    Args:
        size: (height, width) of the image.
        classes: C.
    """

    def __init__(self, size: tuple[int, int], classes: int) -> None:
        self._sum = torch.zeros(classes, *size)
        self._count = torch.zeros(size)

    def add(self, probabilities: Tensor, window: tuple[int, int, int, int]) -> None:
        """Add float [C, h, w] at ``window`` (x, y, width, height)."""
        x, y, width, height = window
        self._sum[:, y : y + height, x : x + width] += probabilities.to(self._sum)
        self._count[y : y + height, x : x + width] += 1

    def probabilities(self) -> Tensor:
        """float32 [C, H, W]; 0 where no window was."""
        return self._sum / self._count.clamp(min=1)

    def classes(self) -> Tensor:
        """int64 [H, W]."""
        return self._sum.argmax(0)
