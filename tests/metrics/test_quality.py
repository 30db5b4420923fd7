from __future__ import annotations

import math

import pytest
import torch

from maskwell.data.sample import Prediction, Truth
from maskwell.metrics.quality import quality
from maskwell.metrics.thresholds import ConfidenceCurve, DetectionCurve, PointCurve
from maskwell.ops import masks


def _truth(
    boxes: list[list[float]], labels: list[int], crowd: list[bool] | None = None, **more: object
) -> Truth:
    flags = torch.tensor(crowd or [False] * len(boxes), dtype=torch.bool)
    rows = torch.tensor(boxes).reshape(-1, 4)
    return Truth(
        (40, 40), rows, torch.tensor(labels, dtype=torch.int64), flags, torch.ones(len(boxes)), **more
    )  # type: ignore[arg-type]


def _found(boxes: list[list[float]], labels: list[int], scores: list[float]) -> Prediction:
    rows = torch.tensor(boxes).reshape(-1, 4)
    return Prediction((40, 40), rows, torch.tensor(scores), torch.tensor(labels, dtype=torch.int64))


A, B, C = [0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0], [20.0, 20.0, 30.0, 28.0]


def test_panoptic_quality_by_hand() -> None:
    truth = _truth([A, B], [0, 1])
    # A exactly; B at IoU .8; one false alarm: (1 + .8) / (2 + .5)
    found = _found([A, C, [0, 20, 5, 25]], [0, 1, 0], [0.9, 0.8, 0.7])
    assert quality(found, truth, 0.3).score == pytest.approx(1.8 / 2.5)
    assert quality(found, truth, 0.75).score == pytest.approx(0.9)
    assert quality(found, truth, 0.85).score == pytest.approx(1 / 1.5)
    wrong_class = _found([A, C], [1, 1], [0.9, 0.8])
    assert quality(wrong_class, truth, 0.3).score == pytest.approx(0.8 / 2)


def test_nothing_found_where_nothing_is_is_right() -> None:
    assert quality(_found([], [], []), _truth([], []), 0.3).score == 1.0
    assert quality(_found([A], [0], [0.9]), _truth([], []), 0.3).score == 0.0
    assert quality(_found([], [], []), _truth([A], [0]), 0.3).score == 0.0


def test_a_crowd_counts_nowhere() -> None:
    truth = _truth([A, B], [0, 0], [False, True])
    found = _found([A, [21, 21, 24, 24]], [0, 0], [0.9, 0.8])
    assert quality(found, truth, 0.3).score == 1.0
    assert quality(found, truth, 0.3).objects == 1


def test_masks_are_compared_where_both_sides_have_them() -> None:
    half = torch.zeros(1, 40, 40, dtype=torch.bool)
    whole = half.clone()
    whole[:, :10, :10] = True
    half[:, :10, :6] = True
    truth = _truth([A], [0], rles=masks.encode(whole))
    found = _found([A], [0], [0.9])
    found.rles = masks.encode(half)
    assert quality(found, truth, 0.3).score == pytest.approx(0.6)


def test_class_maps_and_marks_have_their_own_measure() -> None:
    semantic = torch.zeros(4, 4, dtype=torch.int64)
    semantic[:2] = 1
    truth = _truth([], [], semantic=torch.where(torch.arange(4)[:, None] == 3, 255, semantic))
    predicted = torch.zeros(4, 4, dtype=torch.int64)
    predicted[:1] = 1
    of = quality(Prediction.of_classes(predicted), truth, 0.3)
    assert of.name == "miou" and of.score == pytest.approx((1 / 2 + 1 / 2) / 2)  # 4 of 8 pixels each

    marked = _truth([A, B], [0, 0], points=torch.tensor([[5.0, 5.0], [25.0, 25.0]]))
    one = Prediction.of_points((40, 40), torch.tensor([[5.0, 5.0]]), torch.tensor([0.9]))
    of = quality(one, marked, 0.3)
    assert of.name == "f1" and of.score == pytest.approx(2 / 3) and (of.objects, of.found) == (2, 1)


def test_detection_curve_by_hand() -> None:
    curve = DetectionCurve(("red", "blue"))
    curve.update(_found([A, C, [0, 20, 5, 25]], [0, 1, 0], [0.9, 0.4, 0.6]), _truth([A, B], [0, 1]))
    rows = {(row["category"], row["threshold"]): row for row in curve.rows()}
    at = rows["all", 0.5]
    assert (at["precision"], at["recall"], at["f1"]) == (0.5, 0.5, 0.5)
    assert rows["all", 0.3]["recall"] == 1.0 and rows["red", 0.3]["precision"] == 0.5
    assert rows["blue", 0.5]["recall"] == 0.0 and math.isnan(rows["blue", 0.5]["precision"])


def test_point_curve_drops_unsure_marks() -> None:
    curve = PointCurve()
    truth = _truth([A, B], [0, 0], points=torch.tensor([[5.0, 5.0], [25.0, 25.0]]))
    marks = torch.tensor([[5.0, 5.0], [25.0, 25.0], [15.0, 38.0]])
    curve.update(Prediction.of_points((40, 40), marks, torch.tensor([0.9, 0.6, 0.3])), truth)
    rows = {row["threshold"]: row for row in curve.rows()}
    assert (rows[0.0]["precision"], rows[0.0]["recall"]) == (pytest.approx(2 / 3), 1.0)
    assert rows[0.5]["f1"] == 1.0 and rows[0.7]["recall"] == 0.5


def test_confidence_curve_by_hand() -> None:
    curve = ConfidenceCurve()
    semantic = torch.tensor([[0, 0, 1, 255]])
    predicted = Prediction.of_classes(torch.tensor([[0, 1, 1, 1]]), torch.tensor([[0.9, 0.4, 0.75, 0.99]]))
    curve.update(predicted, _truth([], [], semantic=semantic))
    rows = {row["threshold"]: row for row in curve.rows()}
    assert rows[0.1]["accuracy"] == pytest.approx(2 / 3) and rows[0.1]["share"] == 1.0
    assert rows[0.5]["accuracy"] == 1.0 and rows[0.5]["share"] == pytest.approx(2 / 3)
    assert rows[0.9]["share"] == pytest.approx(1 / 3) and 0.95 not in rows
