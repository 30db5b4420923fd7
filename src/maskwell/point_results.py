"""What is written of points: COCO keypoints, a line per point, a line per image."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskwell.data.sample import Prediction

POINT_COLUMNS = ("image", "number", "x", "y", "confidence")
COUNT_COLUMNS = ("image", "count", "stopped", "done")
KEYPOINT = "point"
"""Name of the one keypoint that each object has."""
UNNAMED = "object"
"""Name of the category where the data has several, which points do not tell apart."""

_LABELLED = 2  # COCO's flag of a keypoint that is labelled and visible


@dataclass(frozen=True)
class Marked:
    """The points of one image, with the name of its file."""

    name: str
    prediction: Prediction


def entries(prediction: Prediction, image_id: int, category_id: int) -> list[dict[str, Any]]:
    """One COCO keypoints result per point, in the order they were marked.

    The box is that of the point, without sides, since COCO annotations have one.
    """
    assert prediction.points is not None
    places = [[round(value, 2) for value in place] for place in prediction.points.tolist()]
    return [
        {
            "image_id": image_id,
            "category_id": category_id,
            "keypoints": [x, y, _LABELLED],
            "num_keypoints": 1,
            "bbox": [x, y, 0.0, 0.0],
            "area": 0.0,
            "score": round(score, 5),
        }
        for (x, y), score in zip(places, prediction.scores.tolist(), strict=True)
    ]


def dataset(marked: Sequence[Marked], categories: Sequence[str]) -> dict[str, Any]:
    """A COCO keypoints file of images and their points; ``categories``: those of the model's training."""
    name = categories[0] if len(categories) == 1 else UNNAMED
    images, annotations = [], []
    for image_id, one in enumerate(marked, 1):
        height, width = one.prediction.size
        images.append({"id": image_id, "file_name": one.name, "width": width, "height": height})
        annotations += entries(one.prediction, image_id, 1)
    return {
        "images": images,
        "annotations": [{"id": index, **entry, "iscrowd": 0} for index, entry in enumerate(annotations, 1)],
        "categories": [{"id": 1, "name": name, "keypoints": [KEYPOINT], "skeleton": []}],
    }


def write_points(marked: Iterable[Marked], path: Path) -> None:
    """A CSV with one line per point: its number in the order of marking, from 1, and its place in pixels."""
    rows: list[tuple[object, ...]] = []
    for one in marked:
        assert one.prediction.points is not None
        found = zip(one.prediction.points.tolist(), one.prediction.scores.tolist(), strict=True)
        rows += [
            (one.name, number, f"{x:.2f}", f"{y:.2f}", f"{score:.4f}")
            for number, ((x, y), score) in enumerate(found, 1)
        ]
    _write(POINT_COLUMNS, rows, path)


def write_counts(marked: Iterable[Marked], path: Path) -> None:
    """A CSV with one line per image: its count, whether the model ended the marking, and how surely."""
    rows: list[tuple[object, ...]] = []
    for one in marked:
        found = one.prediction
        stopped = "" if found.stopped is None else "yes" if found.stopped else "no"
        done = "" if found.done is None else f"{found.done:.4f}"
        rows.append((one.name, len(found.scores), stopped, done))
    _write(COUNT_COLUMNS, rows, path)


def _write(columns: Sequence[str], rows: Iterable[Sequence[object]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(columns)
        table.writerows(rows)
