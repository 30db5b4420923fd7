"""Instance masks of one image in the cheapest form: one label map where no two objects overlap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Planes = NDArray[np.uint8]
Flat = NDArray[np.int16]

_MOST_FLAT = np.iinfo(np.int16).max


@dataclass(frozen=True)
class InstanceMasks:
    """``count`` masks of one size, in one of two forms.

    ``flat`` int16 [H, W]: object i is i + 1, 0 is background; exact where no two masks overlap and
    many times cheaper to augment and resize. ``planes`` uint8 [N, H, W] of 0 and 1 otherwise.
    """

    count: int
    flat: Flat | None = None
    planes: Planes | None = None

    @classmethod
    def from_planes(cls, planes: NDArray[np.uint8] | NDArray[np.bool_]) -> InstanceMasks:
        """From masks [N, H, W], as a label map where that loses nothing."""
        count = len(planes)
        planes = planes.astype(np.uint8, copy=False)
        if count > _MOST_FLAT or (count > 1 and int(planes.sum(0, dtype=np.int32).max(initial=0)) > 1):
            return cls(count, planes=planes)
        flat = np.zeros(planes.shape[1:], np.int16)
        for row, plane in enumerate(planes):
            flat[plane > 0] = row + 1
        return cls(count, flat=flat)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        if self.flat is not None:
            return self.flat.shape[0], self.flat.shape[1]
        assert self.planes is not None
        return self.planes.shape[1], self.planes.shape[2]

    def to_planes(self) -> NDArray[np.bool_]:
        """bool [N, H, W]."""
        if self.flat is not None:
            rows = np.arange(1, self.count + 1, dtype=np.int16)
            return np.asarray(self.flat[None] == rows[:, None, None])
        assert self.planes is not None
        return self.planes.astype(bool)

    def areas(self) -> NDArray[np.float32]:
        """Pixels of each mask, float32 [N]."""
        if self.flat is not None:
            return np.bincount(self.flat.ravel(), minlength=self.count + 1)[1:].astype(np.float32)
        assert self.planes is not None
        return np.asarray(self.planes.sum((1, 2), dtype=np.int64), np.float32)

    def centroids(self) -> NDArray[np.float32]:
        """Mean place (x, y) of each mask's pixels, float32 [N, 2]; pixel i spans i to i + 1.

        An empty mask gives zeros.
        """
        if self.flat is not None:
            rows, columns = np.nonzero(self.flat)
            owner = self.flat[rows, columns].astype(np.int64) - 1
        else:
            assert self.planes is not None
            owner, rows, columns = np.nonzero(self.planes)
        sums = [np.bincount(owner, at + 0.5, self.count) for at in (columns, rows)]
        pixels = np.maximum(np.bincount(owner, minlength=self.count), 1)
        return np.asarray(np.stack(sums, 1) / pixels[:, None], np.float32)

    def boxes(self) -> NDArray[np.float32]:
        """Tight xyxy boxes [N, 4] in pixels; an empty mask gives zeros."""
        boxes = np.zeros((self.count, 4), np.float32)
        if self.flat is not None:
            for row, place in enumerate(ndimage.find_objects(self.flat, self.count)):
                if place is not None:
                    boxes[row] = place[1].start, place[0].start, place[1].stop, place[0].stop
            return boxes
        assert self.planes is not None
        for row, plane in enumerate(self.planes):
            columns, rows = np.flatnonzero(plane.any(0)), np.flatnonzero(plane.any(1))
            if len(rows):
                boxes[row] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        return boxes

    def select(self, keep: NDArray[np.bool_]) -> InstanceMasks:
        """The masks where ``keep`` (bool [N]) is True, in the same order."""
        if keep.all():
            return self
        kept = int(keep.sum())
        if self.flat is not None:
            table = np.zeros(self.count + 1, np.int16)
            table[1:][keep] = np.arange(1, kept + 1)
            return InstanceMasks(kept, flat=table[self.flat])
        assert self.planes is not None
        if kept == 0:  # no planes to stack or to augment
            return InstanceMasks(0, flat=np.zeros(self.size, np.int16))
        return InstanceMasks(kept, planes=self.planes[keep])

    def map(self, change: Callable[[NDArray[np.generic]], NDArray[np.generic]]) -> InstanceMasks:
        """Apply a pure rearrangement of pixels (a crop, a nearest resize) to every map [H, W]."""
        if self.flat is not None:
            return InstanceMasks(self.count, flat=np.ascontiguousarray(change(self.flat)).astype(np.int16))
        assert self.planes is not None
        return InstanceMasks(self.count, planes=np.stack([change(p) for p in self.planes]).astype(np.uint8))
