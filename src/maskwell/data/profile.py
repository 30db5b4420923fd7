"""What a dataset looks like in figures: how many images and objects, how large, of which categories."""

from __future__ import annotations

from typing import Any

import numpy as np

from maskwell.data.source import SPLITS, Source, Split

LOOKED_AT = 500
"""Images of a split whose sizes are read, evenly spaced over it."""


def profile(source: Source) -> dict[str, Any]:
    """Figures for the run's record and its report.

    Returns:
        ``splits``: split -> ``objects``, ``objects_per_image``, ``object_size`` (square root of the box's
        area, px) and ``image_size`` (longer side, px), the last three as 10th, 50th and 90th percentile in
        words; objects are left out where they are not counted beforehand. ``objects_by_category`` of the
        training images where the source knows them.
    """
    splits = {split: _split(source, split) for split in SPLITS if source.size(split)}
    found: dict[str, Any] = {"splits": splits}
    counts = getattr(source, "objects_by_category", None)
    if counts is not None:
        found["objects_by_category"] = counts("train")
    return found


def _split(source: Source, split: Split) -> dict[str, Any]:
    size = source.size(split)
    chosen = np.unique(np.linspace(0, size - 1, min(size, LOOKED_AT)).round().astype(int)).tolist()
    found: dict[str, Any] = {"image_size": _spread([max(source.image_size(split, i)) for i in chosen])}
    objects = source.num_objects(split)
    if objects:
        boxes = [source.objects(split, index) for index in chosen]
        sides = [np.sqrt(np.prod(np.maximum(b[:, 2:] - b[:, :2], 0), axis=1)) for b in boxes]
        found["objects"] = objects
        found["objects_per_image"] = _spread([len(b) for b in boxes])
        found["object_size"] = _spread(np.concatenate(sides).tolist())
    return found


def _spread(values: list[float]) -> str:
    """``4 / 12 / 40``, or one number where all are the same."""
    if not values:
        return ""
    low, middle, high = np.percentile(values, (10, 50, 90)).round().astype(int).tolist()
    return str(middle) if low == high else f"{low} / {middle} / {high}"
