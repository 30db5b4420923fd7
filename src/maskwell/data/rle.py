"""Run-length masks without planes: runs of many objects at once, in COCO's column-major order.

Decoding each object to a plane of its own costs height x width per object; nuclei images hold
hundreds. Here the cost is the number of object pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from maskwell.data.instances import InstanceMasks
from maskwell.data.sample import Rle

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Runs:
    """Foreground runs of ``count`` masks of one ``size`` (height, width).

    ``start`` and ``length`` int64 [R] in column-major pixels, ``owner`` int64 [R] the mask's index;
    sorted by owner, then start.
    """

    count: int
    size: tuple[int, int]
    start: Ints
    length: Ints
    owner: Ints

    def pixels(self) -> tuple[Ints, Ints, Ints]:
        """(x, y, owner) of every foreground pixel, int64 [P] each."""
        total = int(self.length.sum())
        before = np.cumsum(self.length) - self.length
        index = np.arange(total) + np.repeat(self.start - before, self.length)
        x, y = np.divmod(index, self.size[0])
        return x, y, np.repeat(self.owner, self.length)


def decode(rles: Sequence[Rle]) -> Runs:
    """Runs of compressed RLEs, all of one size.

    Raises:
        ValueError: a string is cut off, or its runs do not cover the size.
    """
    size = (int(rles[0]["size"][0]), int(rles[0]["size"][1])) if rles else (0, 0)
    values, per_mask = _values(rles)
    ends = np.cumsum(per_mask)
    starts = ends - per_mask
    position = np.arange(len(values)) - np.repeat(starts, per_mask)
    counts = _undo_differences(values, starts, position)
    reached = np.cumsum(counts)
    base = np.concatenate([[0], reached])[starts]
    total = np.concatenate([[0], reached])[ends] - base
    pixels = size[0] * size[1]
    if (counts < 0).any() or (counts > pixels).any() or (total != pixels).any():
        raise ValueError("the runs do not cover the image")
    foreground = (position % 2 == 1) & (counts > 0)
    owner = np.repeat(np.arange(len(rles)), per_mask)
    begin = reached - counts - np.repeat(base, per_mask)
    return Runs(len(rles), size, begin[foreground], counts[foreground], owner[foreground])


def _values(rles: Sequence[Rle]) -> tuple[Ints, Ints]:
    """The numbers in the strings of all masks, and how many each mask has.

    COCO writes a number as base-32 digits, lowest first, plus 48; bit 32 says that another digit
    follows, bit 16 of the last digit is the sign.
    """
    strings = [rle["counts"] for rle in rles]
    digits = np.frombuffer(b"".join(strings), np.uint8).astype(np.int64) - 48
    lengths = np.array([len(string) for string in strings], np.int64)
    last = (digits & 32) == 0
    string_ends = np.cumsum(lengths) - 1
    if (lengths == 0).any() or not last[string_ends].all() or ((digits < 0) | (digits > 63)).any():
        raise ValueError("a mask's string is cut off or no run-length code")
    number = np.cumsum(last) - last
    first = np.flatnonzero(np.concatenate([[True], last[:-1]])) if len(digits) else np.zeros(0, np.int64)
    place = np.arange(len(digits)) - first[number]
    if (place > 11).any():
        raise ValueError("a run is longer than any image")
    values = np.zeros(len(first), np.int64)
    np.add.at(values, number, (digits & 31) << (5 * place))
    negative = last & ((digits & 16) > 0)
    values[number[negative]] -= np.int64(1) << (5 * (place[negative] + 1))
    return values, np.diff(np.concatenate([[0], np.cumsum(last)[string_ends]]))


def _undo_differences(values: Ints, starts: Ints, position: Ints) -> Ints:
    """From the fourth on, each number is stored as the difference to the one two before it."""
    counts = np.empty_like(values)
    for parity in (0, 1):
        chosen = np.flatnonzero(position % 2 == parity)
        if len(chosen) == 0:
            continue
        at = position[chosen]
        # The first number of a chain is its base: position 1 for the odd ones, 2 for the even ones,
        # and position 0, which no other one refers to.
        is_base = at <= 2
        running = np.cumsum(values[chosen])
        base_index = np.maximum.accumulate(np.where(is_base, np.arange(len(chosen)), 0))
        counts[chosen] = running - (running[base_index] - values[chosen][base_index])
    return counts


def encode(masks: InstanceMasks) -> list[Rle]:
    """Compressed COCO RLEs of masks."""
    height, width = masks.size
    if masks.flat is None:
        assert masks.planes is not None
        planes = np.asfortranarray(masks.planes.transpose(1, 2, 0))
        return [Rle(size=[height, width], counts=r["counts"]) for r in coco_mask.encode(planes)]
    column_major = masks.flat.T.ravel()
    index = np.flatnonzero(column_major)
    owner = column_major[index]
    order = np.argsort(owner, kind="stable")
    index, owner = index[order], owner[order]
    begins = np.flatnonzero(
        np.concatenate([[True], (np.diff(index) != 1) | (np.diff(owner) != 0)])[: len(index)]
    )
    ends = np.concatenate([begins[1:], [len(index)]])[: len(begins)]
    start, stop, run_owner = index[begins], index[ends - 1] + 1, owner[begins]
    split = np.searchsorted(run_owner, np.arange(1, masks.count + 2))
    rles = []
    for row in range(masks.count):
        chosen = slice(split[row], split[row + 1])
        edges = np.stack([start[chosen], stop[chosen]], 1).ravel()
        counts = np.diff(np.concatenate([[0], edges, [height * width]]))
        if counts[-1] == 0:  # COCO's own encoder ends with the last run
            counts = counts[:-1]
        rles.append({"size": [height, width], "counts": counts.tolist()})
    if not rles:
        return []
    return [Rle(size=[height, width], counts=r["counts"]) for r in coco_mask.frPyObjects(rles, height, width)]


def crop(runs: Runs, window: tuple[int, int, int, int]) -> tuple[InstanceMasks, NDArray[np.float32]]:
    """The masks inside ``window`` (x, y, width, height), which lies in the image, and their pixels [N]."""
    left, top, width, height = window
    x, y, owner = runs.pixels()
    if runs.count and (left, top, height, width) != (0, 0, *runs.size):
        inside = (x >= left) & (x < left + width) & (y >= top) & (y < top + height)
        x, y, owner = x[inside] - left, y[inside] - top, owner[inside]
    area = np.bincount(owner, minlength=runs.count).astype(np.float32)
    place = y * width + x
    if runs.count < np.iinfo(np.int16).max:
        flat = np.zeros(height * width, np.int16)
        flat[place] = owner + 1
        if np.count_nonzero(flat) == len(place):  # no pixel was written twice
            return InstanceMasks(runs.count, flat=flat.reshape(height, width)), area
    planes = np.zeros((runs.count, height * width), np.uint8)
    planes[owner, place] = 1
    return InstanceMasks(runs.count, planes=planes.reshape(-1, height, width)), area
