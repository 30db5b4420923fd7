"""Checks of the points that stand for the objects of one COCO file, for models that mark them."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

from maskwell.data.check_annotations import LARGEST, AnnotationFile, is_box, is_number, short
from maskwell.data.coco_index import first_keypoint
from maskwell.data.findings import Findings


def check_points(file: AnnotationFile, found: Findings) -> None:
    """Form and place of keypoints, and objects that share a pixel: a mark cannot tell them apart."""
    taken: defaultdict[tuple[Any, int, int], int] = defaultdict(int)
    for annotation in file.objects():
        try:
            point = first_keypoint(annotation)
        except ValueError:
            found.add("keypoints-invalid", f"{file.place(annotation)}: {short(annotation['keypoints'])}")
            continue
        size = file.size_of(annotation)
        if point is not None and size is not None and not _inside(point, size):
            found.add("point-outside", f"{file.place(annotation)}: {short(list(point))}")
            point = None
        place = point or _centre(annotation.get("bbox"))
        if place is None:
            continue
        pixel = (annotation["image_id"], math.floor(place[0]), math.floor(place[1]))
        taken[pixel] += 1
        if taken[pixel] > 1:
            found.add("point-shared", f"{file.place(annotation)}: {short(list(place))}")


def _inside(point: tuple[float, float], size: tuple[int, int]) -> bool:
    return 0 <= point[0] < size[1] and 0 <= point[1] < size[0]


def _centre(box: Any) -> tuple[float, float] | None:
    """The middle of a box that can be used."""
    if not is_box(box) or not all(is_number(v) and abs(v) < LARGEST for v in box) or min(box[2:]) <= 0:
        return None
    return box[0] + box[2] / 2, box[1] + box[3] / 2
