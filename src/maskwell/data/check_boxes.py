"""Checks of the boxes of one COCO file."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskwell.data.check_annotations import LARGEST, SLACK, AnnotationFile, is_box, short
from maskwell.data.findings import Findings


def check_boxes(file: AnnotationFile, found: Findings) -> None:
    """Form, finiteness, area, position and repetition of all boxes of a file."""
    rows = [a for a in file.annotations if _has_box(a, file, found)]
    if not rows:
        return
    boxes = np.array([a["bbox"] for a in rows], np.float64)
    sizes = np.array([file.size_of(a) or (np.nan, np.nan) for a in rows], np.float64)
    invalid = ~(np.abs(boxes) < LARGEST).all(1)
    stuck_out, form = _form(boxes[~invalid], sizes[~invalid])
    if form is not None:
        for i in np.flatnonzero(~invalid)[stuck_out]:
            found.add("box-format", f"{file.place(rows[i])}: {short(rows[i]['bbox'])} looks like {form}")
        return
    invalid |= (boxes[:, 2:] < 0).any(1)
    _report(file, rows, invalid, "box-invalid", found)
    _report(file, rows, ~invalid & (boxes[:, 2:] == 0).any(1), "box-zero-area", found)
    ends = boxes[:, :2] + boxes[:, 2:]
    outside = (boxes[:, :2] < -SLACK).any(1) | (ends > sizes[:, ::-1] + SLACK).any(1)
    _report(file, rows, ~invalid & outside, "box-outside", found)
    seen: set[tuple[Any, ...]] = set()
    for i in np.flatnonzero(~invalid):
        annotation, box = rows[i], boxes[i].round(2).tolist()
        key = (annotation["image_id"], annotation["category_id"], *box)
        if key in seen:
            found.add("box-duplicate", f"{file.place(annotation)}: {box}")
        seen.add(key)


def _has_box(annotation: dict[str, Any], file: AnnotationFile, found: Findings) -> bool:
    box = annotation.get("bbox")
    if box is None and annotation.get("segmentation"):
        return False  # the mask says where it is
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
    sticking = (ends > sizes[:, ::-1] + SLACK).any(1)
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
