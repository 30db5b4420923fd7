"""Checks of the boxes of one COCO file."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskwell.data.check_annotations import LARGEST, SLACK, AnnotationFile, is_box, short
from maskwell.data.findings import Findings

_SAME = 0.9  # overlap (IoU) from which two boxes are meant for one object


def check_boxes(file: AnnotationFile, found: Findings) -> None:
    """Form, finiteness, area, position and repetition of all boxes of a file."""
    rows = [a for a in file.annotations if _has_box(a, file, found)]
    if not rows:
        return
    boxes = np.array([a["bbox"] for a in rows], np.float64)
    sizes = np.array([file.size_of(a) or (np.nan, np.nan) for a in rows], np.float64)
    invalid = np.asarray(~(np.abs(boxes) < LARGEST).all(1))
    stuck_out, form = _form(boxes[~invalid], sizes[~invalid])
    if form is not None:
        for i in np.flatnonzero(~invalid)[stuck_out]:
            found.add("box-format", f"{file.place(rows[i])}: {short(rows[i]['bbox'])} looks like {form}")
        return
    invalid |= (boxes[:, 2:] < 0).any(1)
    _report(file, rows, invalid, "box-invalid", found)
    points = np.array([bool(a.get("keypoints")) for a in rows])  # they say where, not how large
    _report(file, rows, ~invalid & ~points & (boxes[:, 2:] == 0).any(1), "box-zero-area", found)
    ends = boxes[:, :2] + boxes[:, 2:]
    outside = (boxes[:, :2] < -SLACK).any(1) | (ends > sizes[:, ::-1] + SLACK).any(1)
    _report(file, rows, ~invalid & outside, "box-outside", found)
    _report(file, rows, _repeated(rows, boxes, ~invalid), "box-duplicate", found)


def _repeated(
    rows: list[dict[str, Any]], boxes: NDArray[np.float64], usable: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Boxes [N] that overlap an earlier one of the same image and category almost wholly."""
    groups: defaultdict[tuple[Any, Any], list[int]] = defaultdict(list)
    for i in np.flatnonzero(usable):
        groups[rows[i]["image_id"], rows[i]["category_id"]].append(int(i))
    repeated = np.zeros(len(rows), bool)
    for members in groups.values():
        low, size = boxes[members, :2], boxes[members, 2:]
        area = size.prod(1)
        for k in range(1, len(members)):
            top = np.minimum(low[:k] + size[:k], low[k] + size[k])
            shared = np.clip(top - np.maximum(low[:k], low[k]), 0, None).prod(1)
            repeated[members[k]] = (shared > _SAME * (area[:k] + area[k] - shared)).any()
    return repeated


def _has_box(annotation: dict[str, Any], file: AnnotationFile, found: Findings) -> bool:
    box = annotation.get("bbox")
    if box is None and (annotation.get("segmentation") or annotation.get("keypoints")):
        return False  # the mask or the point says where it is
    if is_box(box):
        return True
    found.add("box-invalid", f"{file.place(annotation)}: bbox {short(box)}")
    return False


def _form(boxes: NDArray[np.float64], sizes: NDArray[np.float64]) -> tuple[NDArray[np.bool_], str | None]:
    """Another form that all boxes of the file seem to have, and the boxes that show it."""
    none = np.zeros(len(boxes), bool)
    if len(boxes) < 3:
        return none, None
    if (boxes >= 0).all() and boxes.max() <= 1:
        return ~none, "shares of the image's sides"
    ends = boxes[:, :2] + boxes[:, 2:]
    sticking = np.asarray((ends > sizes[:, ::-1] + SLACK).any(1))
    as_corners = (boxes[:, 2:] > boxes[:, :2]).all(1) & (boxes[:, 2:] <= sizes[:, ::-1] + SLACK).all(1)
    if sticking.mean() > 0.2 and as_corners.mean() > 0.95:
        return sticking, "corners [x0, y0, x1, y1]"
    return none, None


def _report(
    file: AnnotationFile,
    rows: list[dict[str, Any]],
    chosen: NDArray[np.bool_],
    code: str,
    found: Findings,
) -> None:
    for i in np.flatnonzero(chosen):
        found.add(code, f"{file.place(rows[i])}: {short(rows[i]['bbox'])}")
