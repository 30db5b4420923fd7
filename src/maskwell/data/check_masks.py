"""Checks of the masks of one COCO file: whether they decode, and whether the boxes fit them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_api

from maskwell.data import rle
from maskwell.data.check_annotations import SLACK, AnnotationFile, is_box, is_finite, is_number, short
from maskwell.data.findings import Findings
from maskwell.data.sample import Rle

_Encoded = tuple[dict[str, Any], Rle]


def check_masks(file: AnnotationFile, found: Findings) -> None:
    """Polygons and run lengths: whether they are usable, and whether the boxes fit them."""
    without = [a for a in file.annotations if not a.get("segmentation")]
    if 0 < len(without) < len(file.annotations):
        for annotation in without:
            found.add("mask-missing", file.place(annotation))
    encoded: list[_Encoded] = []
    for annotation in file.annotations:
        segmentation = annotation.get("segmentation")
        if not segmentation:
            continue
        if isinstance(segmentation, dict):
            mask = _usable_rle(annotation, segmentation, file, found)
            if mask is not None:
                encoded.append((annotation, mask))
        elif (points := _usable_polygons(annotation, segmentation, file, found)) is not None:
            _compare(annotation, (*points.min(0), *points.max(0)), file, found)
    for (annotation, _), area, box in _decoded(encoded, file, found):
        if area == 0:
            found.add("mask-empty", file.place(annotation))
        else:
            _compare(annotation, box, file, found)


def _usable_polygons(
    annotation: dict[str, Any], segmentation: Any, file: AnnotationFile, found: Findings
) -> NDArray[np.float64] | None:
    """All points (x, y) of an object's polygons, float64 [K, 2]."""
    polygons = segmentation if isinstance(segmentation, list) else [segmentation]
    for polygon in polygons:
        numbers = isinstance(polygon, list) and all(map(is_number, polygon))
        if not numbers or len(polygon) < 6 or len(polygon) % 2 or not is_finite(polygon):
            found.add("polygon-invalid", f"{file.place(annotation)}: {short(polygon)}")
            return None
    return np.concatenate([np.reshape(np.asarray(p, np.float64), (-1, 2)) for p in polygons])


def _usable_rle(
    annotation: dict[str, Any], segmentation: dict[str, Any], file: AnnotationFile, found: Findings
) -> Rle | None:
    """The mask as a compressed RLE of the image's size; its string is not looked into yet."""
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not all(map(_is_side, size)):
        found.add("rle-invalid", f"{file.place(annotation)}: size {short(size)}")
        return None
    height, width = size
    stated = file.size_of(annotation)
    if stated is not None and (height, width) != stated:
        found.add("rle-size", f"{file.place(annotation)}: {size}, the image is {list(stated)}")
        return None
    if isinstance(counts, str) and counts.isascii():
        return Rle(size=size, counts=counts.encode())
    runs = counts if isinstance(counts, list) else []
    if all(isinstance(v, int) and 0 <= v < 2**31 for v in runs) and sum(runs) == height * width:
        compressed = mask_api.frPyObjects({"size": size, "counts": counts}, height, width)
        return Rle(size=size, counts=compressed["counts"])
    found.add("rle-invalid", f"{file.place(annotation)}: counts {short(counts)}")
    return None


def _is_side(value: Any) -> bool:
    return isinstance(value, int) and 0 < value < 2**31


def _decoded(
    encoded: list[_Encoded], file: AnnotationFile, found: Findings
) -> Iterator[tuple[_Encoded, int, tuple[float, ...]]]:
    """(object, area in pixels, xyxy box) of every mask that decodes, all of one size at once.

    pycocotools reads a broken string past its end, so nothing unchecked may reach it.
    """
    by_size: defaultdict[tuple[int, ...], list[_Encoded]] = defaultdict(list)
    for pair in encoded:
        by_size[tuple(pair[1]["size"])].append(pair)
    for pairs in by_size.values():
        try:
            parts = [(pairs, rle.decode([mask for _, mask in pairs]))]
        except ValueError:
            parts = [([pair], runs) for pair in pairs if (runs := _decode_one(pair, file, found)) is not None]
        for objects, runs in parts:
            yield from zip(objects, *_extents(runs), strict=True)


def _decode_one(pair: _Encoded, file: AnnotationFile, found: Findings) -> rle.Runs | None:
    try:
        return rle.decode([pair[1]])
    except ValueError as error:
        found.add("rle-invalid", f"{file.place(pair[0])}: {error}")
        return None


def _extents(runs: rle.Runs) -> tuple[list[int], list[tuple[float, ...]]]:
    """Area and xyxy box of each mask; an empty one has a senseless box."""
    height, width = runs.size
    last = runs.start + runs.length - 1
    spanning = runs.start // height != last // height  # goes on at the top of the next column
    boxes = np.tile(np.array([width, height, 0, 0], np.int64), (runs.count, 1))
    np.minimum.at(boxes[:, 0], runs.owner, runs.start // height)
    np.minimum.at(boxes[:, 1], runs.owner, np.where(spanning, 0, runs.start % height))
    np.maximum.at(boxes[:, 2], runs.owner, last // height + 1)
    np.maximum.at(boxes[:, 3], runs.owner, np.where(spanning, height, last % height + 1))
    areas = np.bincount(runs.owner, runs.length, minlength=runs.count).astype(np.int64)
    return areas.tolist(), [tuple(map(float, box)) for box in boxes.tolist()]


def _compare(
    annotation: dict[str, Any], mask_box: tuple[float, ...], file: AnnotationFile, found: Findings
) -> None:
    """Report a box that overlaps the box around its mask by less than half and is not just rounded."""
    box: Any = annotation.get("bbox")
    if not is_box(box) or not is_finite(box) or min(box[2:]) < 0:
        return
    x0, y0, x1, y1 = box[0], box[1], box[0] + box[2], box[1] + box[3]
    if max(abs(a - b) for a, b in zip((x0, y0, x1, y1), mask_box, strict=True)) <= 2 * SLACK:
        return
    across = min(x1, mask_box[2]) - max(x0, mask_box[0])
    down = min(y1, mask_box[3]) - max(y0, mask_box[1])
    shared = max(across, 0.0) * max(down, 0.0)
    union = box[2] * box[3] + (mask_box[2] - mask_box[0]) * (mask_box[3] - mask_box[1]) - shared
    if shared < 0.5 * union:
        around = [
            round(float(v), 1) for v in (*mask_box[:2], mask_box[2] - mask_box[0], mask_box[3] - mask_box[1])
        ]
        found.add("mask-box-disagree", f"{file.place(annotation)}: box {box}, around the mask {around}")
