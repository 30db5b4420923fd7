"""Checks of the annotations of one COCO file, however broken it is: they report and do not raise."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_api

from maskwell.data import rle
from maskwell.data.findings import Findings
from maskwell.data.sample import Rle

_Encoded = tuple[dict[str, Any], Rle]

_SLACK = 1.0  # pixels that a box may stick out, or differ from its mask, by rounding
_LARGEST = 1e9  # coordinates beyond this are no pixels


@dataclass
class AnnotationFile:
    """What is usable of one annotation file: entries with the right keys and references."""

    split: str
    path: Path
    images: dict[Any, dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: dict[Any, str]

    def place(self, annotation: dict[str, Any]) -> str:
        """Where an annotation is to be found, for messages."""
        image = self.images[annotation["image_id"]]["file_name"]
        return f"{self.path.name}: annotation {annotation.get('id', '?')} in {image}"

    def size_of(self, annotation: dict[str, Any]) -> tuple[int, int]:
        """(height, width) of the annotation's image as the file states it."""
        image = self.images[annotation["image_id"]]
        return image["height"], image["width"]


def load(split: str, path: Path, found: Findings) -> AnnotationFile | None:
    """Read one file; what cannot be used is reported and left out. None where it is no COCO file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        found.add("json-unreadable", f"{path}: {error}")
        return None
    lists = ("images", "annotations", "categories")
    missing = [k for k in lists if not isinstance(content, dict) or not isinstance(content.get(k), list)]
    if missing:
        found.add("json-unreadable", f"{path}: no list {missing[0]!r}")
        return None
    images = _by_id(content["images"], path, "image", _is_image, found)
    categories = _by_id(
        content["categories"], path, "category", lambda c: isinstance(c.get("name"), str), found
    )
    file = AnnotationFile(split, path, images, [], {key: c["name"] for key, c in categories.items()})
    file.annotations = [a for a in content["annotations"] if _refers(a, file, found)]
    ids = Counter(a["id"] for a in file.annotations if isinstance(a.get("id"), int | str))
    for key, times in ids.items():
        if times > 1:
            found.add("id-duplicate", f"{path.name}: annotation id {key}, {times} times")
    return file


def _is_image(entry: dict[str, Any]) -> bool:
    sides = (entry.get("height"), entry.get("width"))
    return isinstance(entry.get("file_name"), str) and all(
        isinstance(s, int) and 0 < s < 2**31 for s in sides
    )


def _by_id(
    entries: list[Any], path: Path, what: str, usable: Any, found: Findings
) -> dict[Any, dict[str, Any]]:
    kept: dict[Any, dict[str, Any]] = {}
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), int | str) or not usable(entry):
            found.add("entry-malformed", f"{path.name}: {what} number {number}: {_short(entry)}")
        elif entry["id"] in kept:
            found.add("id-duplicate", f"{path.name}: {what} id {entry['id']}")
        else:
            kept[entry["id"]] = entry
    return kept


def _refers(annotation: Any, file: AnnotationFile, found: Findings) -> bool:
    """Whether an annotation's image and category exist."""
    if not isinstance(annotation, dict) or not {"image_id", "category_id"} <= annotation.keys():
        found.add("entry-malformed", f"{file.path.name}: annotation {_short(annotation)}")
        return False
    name = f"{file.path.name}: annotation {annotation.get('id', '?')}"
    for key, known, code in (
        ("image_id", file.images, "image-unknown"),
        ("category_id", file.categories, "category-unknown"),
    ):
        value = annotation[key]
        if not isinstance(value, int | str) or value not in known:
            found.add(code, f"{name}: {key} {_short(value)}")
            return False
    return True


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


# Boxes ------------------------------------------------------------------------------------------


def check_boxes(file: AnnotationFile, found: Findings) -> None:
    """Form, finiteness, area, position and repetition of all boxes of a file."""
    rows = [a for a in file.annotations if _has_box(a, file, found)]
    if not rows:
        return
    boxes = np.array([a["bbox"] for a in rows], np.float64)
    sizes = np.array([file.size_of(a) for a in rows], np.float64)
    invalid = ~(np.abs(boxes) < _LARGEST).all(1)
    stuck_out, form = _form(boxes[~invalid], sizes[~invalid])
    if form is not None:
        for i in np.flatnonzero(~invalid)[stuck_out]:
            found.add("box-format", f"{file.place(rows[i])}: {boxes[i].tolist()} looks like {form}")
        return
    invalid |= (boxes[:, 2:] < 0).any(1)
    _report(file, rows, boxes, invalid, "box-invalid", found)
    _report(file, rows, boxes, ~invalid & (boxes[:, 2:] == 0).any(1), "box-zero-area", found)
    ends = boxes[:, :2] + boxes[:, 2:]
    outside = (boxes[:, :2] < -_SLACK).any(1) | (ends > sizes[:, ::-1] + _SLACK).any(1)
    _report(file, rows, boxes, ~invalid & outside, "box-outside", found)
    seen: set[tuple[Any, ...]] = set()
    for annotation, box in zip(rows, boxes.round(2).tolist(), strict=True):
        key = (annotation["image_id"], annotation["category_id"], *box)
        if key in seen:
            found.add("box-duplicate", f"{file.place(annotation)}: {box}")
        seen.add(key)


def _has_box(annotation: dict[str, Any], file: AnnotationFile, found: Findings) -> bool:
    box = annotation.get("bbox")
    if box is None and annotation.get("segmentation"):
        return False  # the mask says where it is
    if _is_box(box):
        return True
    found.add("box-invalid", f"{file.place(annotation)}: bbox {_short(box)}")
    return False


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


def _is_number(value: Any) -> bool:
    """A JSON number that fits a float; JSON's whole numbers know no bound."""
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**53)


def _finite(values: list[float]) -> bool:
    return all(abs(v) < _LARGEST for v in values)


def _form(boxes: NDArray[np.float64], sizes: NDArray[np.float64]) -> tuple[NDArray[np.bool_], str | None]:
    """Another form that all boxes of the file seem to have, and the boxes that show it."""
    none = np.zeros(len(boxes), bool)
    if len(boxes) < 3:
        return none, None
    if (boxes >= 0).all() and boxes.max() <= 1:
        return ~none, "shares of the image's sides"
    ends = boxes[:, :2] + boxes[:, 2:]
    sticking = (ends > sizes[:, ::-1] + _SLACK).any(1)
    as_corners = (boxes[:, 2:] > boxes[:, :2]).all(1) & (boxes[:, 2:] <= sizes[:, ::-1] + _SLACK).all(1)
    if sticking.mean() > 0.2 and as_corners.mean() > 0.95:
        return sticking, "corners [x0, y0, x1, y1]"
    return none, None


def _report(
    file: AnnotationFile,
    rows: list[dict[str, Any]],
    boxes: NDArray[np.float64],
    chosen: NDArray[np.bool_],
    code: str,
    found: Findings,
) -> None:
    for i in np.flatnonzero(chosen):
        found.add(code, f"{file.place(rows[i])}: {boxes[i].round(2).tolist()}")


# Masks ------------------------------------------------------------------------------------------


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
        numbers = isinstance(polygon, list) and all(map(_is_number, polygon))
        if not numbers or len(polygon) < 6 or len(polygon) % 2 or not _finite(polygon):
            found.add("polygon-invalid", f"{file.place(annotation)}: {_short(polygon)}")
            return None
    return np.concatenate([np.reshape(np.asarray(p, np.float64), (-1, 2)) for p in polygons])


def _usable_rle(
    annotation: dict[str, Any], segmentation: dict[str, Any], file: AnnotationFile, found: Findings
) -> Rle | None:
    """The mask as a compressed RLE of the image's size; its string is not looked into yet."""
    height, width = file.size_of(annotation)
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
        found.add("rle-size", f"{file.place(annotation)}: {_short(size)}, the image is {[height, width]}")
        return None
    if isinstance(counts, str) and counts.isascii():
        return Rle(size=size, counts=counts.encode())
    runs = isinstance(counts, list) and all(isinstance(v, int) and 0 <= v < 2**31 for v in counts)
    if runs and sum(counts) == height * width:
        compressed = mask_api.frPyObjects({"size": size, "counts": counts}, height, width)
        return Rle(size=size, counts=compressed["counts"])
    found.add("rle-invalid", f"{file.place(annotation)}: counts {_short(counts)}")
    return None


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
    box = annotation.get("bbox")
    if not _is_box(box) or not _finite(box) or min(box[2:]) < 0:
        return
    x0, y0, x1, y1 = box[0], box[1], box[0] + box[2], box[1] + box[3]
    if max(abs(a - b) for a, b in zip((x0, y0, x1, y1), mask_box, strict=True)) <= 2 * _SLACK:
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
