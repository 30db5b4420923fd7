"""Run-length masks: encode, decode, measure, compare and move them between frames.

Masks stay compressed COCO RLE from file to metric; only what a network needs is ever decoded.
COCO run lengths go down the columns, so that pixel (x, y) of a frame of height h is number
``x * h + y``. All functions are pure; pixels are those of the mask's own frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from pycocotools import mask as coco_mask
from torch import Tensor


class Rle(TypedDict):
    """A compressed COCO run-length mask: ``size`` is [height, width]."""

    size: list[int]
    counts: bytes


def encode(masks: Tensor | npt.NDArray[Any]) -> list[Rle]:
    """Masks [N, H, W] (bool, or anything that is non-zero inside) -> N compressed RLEs."""
    array = masks.detach().cpu().numpy() if isinstance(masks, Tensor) else np.asarray(masks)
    if array.ndim != 3:
        raise ValueError(f"Masks to encode must be [N, H, W], not {list(array.shape)}.")
    if array.shape[0] == 0:
        return []
    binary = array if array.dtype == bool else array != 0
    return list(coco_mask.encode(np.asfortranarray(binary.view(np.uint8).transpose(1, 2, 0))))


def decode(rles: Sequence[Rle], size: tuple[int, int]) -> Tensor:
    """RLEs of one frame of ``size`` (height, width) -> bool [N, H, W], also for no RLE at all.

    Raises:
        ValueError: where an RLE has another size.
    """
    _check_size(rles, size)
    if not rles:
        return torch.zeros(0, *size, dtype=torch.bool)
    stacked = coco_mask.decode(list(rles)).transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(stacked)).bool()


def area(rles: Sequence[Rle]) -> Tensor:
    """Pixels inside each mask, int64 [N]."""
    # One by one: pycocotools 2.0.11 under NumPy 2 overflows on more than 255 masks at once.
    return torch.tensor([int(coco_mask.area(rle)) for rle in rles], dtype=torch.int64)


def boxes(rles: Sequence[Rle]) -> Tensor:
    """Tight boxes float32 [N, 4], xyxy pixels with exclusive far edges; zeros for an empty mask."""
    if not rles:
        return torch.zeros(0, 4)
    xywh = torch.from_numpy(np.asarray(coco_mask.toBbox(list(rles)), dtype=np.float32))
    return torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], dim=1)


def iou(first: Sequence[Rle], second: Sequence[Rle], iscrowd: Sequence[bool] | None = None) -> Tensor:
    """Pairwise intersection over union, float64 [A, B].

    ``iscrowd`` [B]: for a crowd in ``second`` the union is the mask of ``first`` alone, as in COCO.
    """
    if not first or not second:
        return torch.zeros(len(first), len(second), dtype=torch.float64)
    crowd = [0] * len(second) if iscrowd is None else [int(flag) for flag in iscrowd]
    return torch.from_numpy(np.asarray(coco_mask.iou(list(first), list(second), crowd)))


def shift(rles: Sequence[Rle], offset: tuple[int, int], size: tuple[int, int]) -> list[Rle]:
    """Move masks by ``offset`` (x, y) pixels into a frame of ``size`` (height, width).

    Pixels that fall outside the new frame are dropped. Works on the runs, nothing is decoded: the
    cost follows the length of the outlines and not the size of the frames.
    """
    return [_shift(rle, offset, size) for rle in rles]


def crop(rles: Sequence[Rle], window: tuple[int, int, int, int]) -> list[Rle]:
    """Masks as seen in ``window`` (x, y, width, height), which may reach beyond their frame."""
    x, y, width, height = window
    return shift(rles, (-x, -y), (height, width))


def _check_size(rles: Sequence[Rle], size: tuple[int, int]) -> None:
    for rle in rles:
        if tuple(rle["size"]) != tuple(size):
            raise ValueError(f"A mask of size {tuple(rle['size'])} does not fit a frame of {tuple(size)}.")


def _shift(rle: Rle, offset: tuple[int, int], size: tuple[int, int]) -> Rle:
    (height, width), (dx, dy) = size, offset
    source_height = rle["size"][0]
    starts, ends = _foreground_runs(rle["counts"])
    # Cut the runs at the column borders: in the new frame a column may have another height.
    first, last = starts // source_height, (ends - 1) // source_height
    pieces = last - first + 1
    run = np.repeat(np.arange(len(starts)), pieces)
    column = first[run] + np.arange(len(run)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    top = np.maximum(starts[run] - column * source_height, 0) + dy
    bottom = np.minimum(ends[run] - column * source_height, source_height) + dy
    column, top, bottom = column + dx, np.clip(top, 0, height), np.clip(bottom, 0, height)
    keep = (bottom > top) & (column >= 0) & (column < width)
    origin = column[keep] * height
    return _from_runs(origin + top[keep], origin + bottom[keep], size)


def _foreground_runs(counts: bytes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Starts and exclusive ends of the foreground runs.

    A count is written in characters of 5 bits each, lowest first; 32 marks "more follows", bit 16
    of the last character the sign. From the fourth count on it is the difference to the last but one.
    """
    chars = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - 48
    is_last = (chars & 32) == 0
    stops = np.flatnonzero(is_last)
    begins = np.concatenate([[0], stops[:-1] + 1])
    place = np.arange(len(chars)) - np.repeat(begins, stops - begins + 1)
    values = np.add.reduceat((chars & 31) << (5 * place), begins)
    negative = (chars[stops] & 16) != 0
    values = values - (negative.astype(np.int64) << (5 * (place[stops] + 1)))
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    edges = np.cumsum(values)
    starts = edges[0 : len(edges) - 1 : 2]
    ends = edges[1::2]
    filled = ends > starts
    return starts[filled], ends[filled]


def _from_runs(starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], size: tuple[int, int]) -> Rle:
    """Ordered, disjoint foreground runs -> RLE; runs that touch are joined."""
    height, width = size
    joined = starts[1:] == ends[:-1]
    starts = starts[np.concatenate([[True], ~joined])] if len(starts) else starts
    ends = ends[np.concatenate([~joined, [True]])] if len(ends) else ends
    edges = np.stack([starts, ends], axis=1).reshape(-1)
    if not len(edges) or edges[-1] < height * width:
        edges = np.append(edges, height * width)
    counts = np.diff(edges, prepend=0)
    rle: Rle = coco_mask.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return rle
