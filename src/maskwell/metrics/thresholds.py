"""What a score threshold trades: precision against recall, or accuracy against how much is answered."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from maskwell.data.sample import IGNORE, Prediction, Truth
from maskwell.metrics.points import PointScores
from maskwell.metrics.quality import pair

THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))
ALL = "all"
"""Of all categories together."""

Row = dict[str, str | float]


class DetectionCurve:
    """Precision, recall and F1 of detections at IoU 0.5, by category and score threshold.

    Where nothing is said there is no precision: NaN.
    """

    columns = ("category", "threshold", "precision", "recall", "f1")

    def __init__(self, categories: Sequence[str]) -> None:
        self.categories = tuple(categories)
        self._found: list[tuple[int, float, bool]] = []
        self._objects = np.zeros(len(self.categories), np.int64)

    def update(self, prediction: Prediction, truth: Truth) -> None:
        """Add one image."""
        pairs = pair(prediction, truth)
        kept = pairs.counts & (pairs.labels < len(self.categories))
        rows = zip(pairs.labels[kept], pairs.scores[kept], pairs.iou[kept] > 0, strict=True)
        self._found += [(int(label), float(score), bool(right)) for label, score, right in rows]
        known = pairs.true_labels[pairs.true_labels < len(self.categories)]
        self._objects += np.bincount(known, minlength=len(self.categories))

    def rows(self) -> list[Row]:
        """One row per category (and ``all``) and threshold; categories without an object are left out."""
        groups = [(ALL, self._found, int(self._objects.sum()))]
        if len(self.categories) > 1:
            for label, name in enumerate(self.categories):
                own = [entry for entry in self._found if entry[0] == label]
                groups.append((name, own, int(self._objects[label])))
        return [
            _trade(name, threshold, [right for _, score, right in found if score >= threshold], objects)
            for name, found, objects in groups
            if objects
            for threshold in THRESHOLDS
        ]


def _trade(name: str, threshold: float, right: Sequence[bool], objects: int) -> Row:
    hits = sum(right)
    return {
        "category": name,
        "threshold": threshold,
        "precision": hits / len(right) if right else math.nan,
        "recall": hits / objects,
        "f1": 2 * hits / (len(right) + objects),
    }


class PointCurve:
    """Precision, recall and F1 within the smaller radius of marks whose score is above a threshold.

    The model itself stops at the end of its marks; a threshold drops the unsure ones of them.
    """

    columns = DetectionCurve.columns

    def __init__(self) -> None:
        self._scores = {threshold: PointScores() for threshold in (0.0, *THRESHOLDS)}

    def update(self, prediction: Prediction, truth: Truth) -> None:
        """Add one image."""
        assert prediction.points is not None
        for threshold, scores in self._scores.items():
            kept = prediction.scores >= threshold
            less = Prediction.of_points(prediction.size, prediction.points[kept], prediction.scores[kept])
            scores.update([less], [truth])

    def rows(self) -> list[Row]:
        """One row per threshold."""
        rows: list[Row] = []
        for threshold, scores in self._scores.items():
            figures = {name: float(value) for name, value in scores.compute().items()}
            if "recall_9_6" in figures:
                precision = figures.get("precision_9_6", math.nan)
                recall, f1 = figures["recall_9_6"], figures["f1_9_6"]
                rows.append(dict(zip(self.columns, (ALL, threshold, precision, recall, f1), strict=True)))
        return rows


class ConfidenceCurve:
    """Accuracy over the pixels whose class has at least some probability, and how many pixels these are."""

    columns = ("category", "threshold", "accuracy", "share")

    def __init__(self) -> None:
        self._pixels = torch.zeros(2, len(THRESHOLDS) + 1, dtype=torch.int64)  # all and right, by interval

    def update(self, prediction: Prediction, truth: Truth) -> None:
        """Add one image whose prediction has a confidence."""
        assert prediction.semantic is not None and truth.semantic is not None
        assert prediction.confidence is not None
        counted = truth.semantic != IGNORE
        edges = torch.tensor(THRESHOLDS)
        interval = torch.bucketize(prediction.confidence[counted], edges, right=True)
        right = prediction.semantic[counted] == truth.semantic[counted]
        for row, chosen in enumerate((interval, interval[right])):
            self._pixels[row] += torch.bincount(chosen, minlength=len(THRESHOLDS) + 1)

    def rows(self) -> list[Row]:
        """One row per threshold with a pixel above it."""
        above = self._pixels.flip(1).cumsum(1).flip(1)  # at least the lower end of each interval
        total = int(above[0, 0])
        return [
            {
                "category": ALL,
                "threshold": threshold,
                "accuracy": int(above[1, index]) / int(above[0, index]),
                "share": int(above[0, index]) / total,
            }
            for index, threshold in enumerate(THRESHOLDS, 1)
            if int(above[0, index])
        ]
