"""Windows of large images: seeded random ones for training, a grid that covers for evaluation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from maskwell.data.source import Window


def tiles(size: tuple[int, int], side: int, overlap: int = 0) -> list[Window]:
    """Windows of at most ``side`` pixels that cover an image of (height, width), row by row.

    The windows are spread evenly, so that neighbours overlap by ``overlap`` pixels or more.
    """
    height, width = size
    return [
        (x, y, min(side, width), min(side, height))
        for y in _starts(height, side, overlap)
        for x in _starts(width, side, overlap)
    ]


def _starts(length: int, side: int, overlap: int) -> list[int]:
    if length <= side:
        return [0]
    count = -(-(length - overlap) // (side - overlap))
    return [round(i * (length - side) / (count - 1)) for i in range(count)]


def random_window(
    size: tuple[int, int],
    boxes: NDArray[np.float32],
    side: int,
    rng: np.random.Generator,
    object_share: float = 0.9,
) -> Window:
    """A window of at most ``side`` pixels; with probability ``object_share`` it holds an object.

    Args:
        size: (height, width) of the image; ``boxes``: xyxy [N, 4] in its pixels.
    """
    height, width = min(side, size[0]), min(side, size[1])
    x = int(rng.integers(size[1] - width + 1))
    y = int(rng.integers(size[0] - height + 1))
    if len(boxes) and rng.random() < object_share:
        box = boxes[int(rng.integers(len(boxes)))]
        x = _around(float(box[0] + box[2]) / 2, width, size[1], rng)
        y = _around(float(box[1] + box[3]) / 2, height, size[0], rng)
    return x, y, width, height


def _around(centre: float, side: int, length: int, rng: np.random.Generator) -> int:
    """Start of a window that holds ``centre`` away from its outer eighths, where the image allows."""
    start = centre - side * rng.uniform(0.125, 0.875)
    return int(np.clip(round(start), 0, length - side))
