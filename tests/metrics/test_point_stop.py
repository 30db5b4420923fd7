"""The stop that validation chooses: against a plain search, ties, crowds, and what has no points."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from maskwell.data.sample import Prediction, Truth
from maskwell.metrics.point_stop import AS_GOOD, STOPS, StopChoice
from maskwell.metrics.points import PointScores


def truth(points: Tensor, crowd: list[float] | None = None) -> Truth:
    boxes = torch.cat([points - 4, points + 4], dim=1)
    iscrowd = torch.zeros(len(points), dtype=torch.bool)
    if crowd is not None:
        boxes = torch.cat([boxes, torch.tensor([crowd])])
        iscrowd = torch.cat([iscrowd, torch.tensor([True])])
    labels = torch.zeros(len(boxes), dtype=torch.int64)
    return Truth((384, 384), boxes, labels, iscrowd, torch.full((len(boxes),), 64.0), points=points)


def marks(points: Tensor, scores: Tensor) -> Prediction:
    return Prediction.of_points((384, 384), points, scores, stopped=True, done=0.9)


def test_it_is_the_best_of_a_plain_search() -> None:
    generator = torch.Generator().manual_seed(0)
    images = []
    for _ in range(6):
        objects = torch.rand(12, 2, generator=generator) * 384
        near = objects[:10] + torch.randn(10, 2, generator=generator) * 3
        points = torch.cat([near, torch.rand(8, 2, generator=generator) * 384])
        scores = torch.cat([torch.linspace(0.95, 0.5, 10), torch.linspace(0.6, 0.05, 8)])
        images.append((marks(points, scores), truth(objects)))
    choice = StopChoice()
    choice.update(*map(list, zip(*images, strict=True)))  # type: ignore[arg-type]
    found = {}
    for stop in STOPS:
        plain = PointScores()
        for made, true in images:
            assert made.points is not None
            ends = (1 - made.scores > stop).nonzero().flatten().tolist()
            kept = ends[0] if ends else len(made.scores)
            plain.update([marks(made.points[:kept], made.scores[:kept])], [true])
        figures = plain.compute()
        found[stop] = (float(figures["count_mae"]), -float(figures["f1_9_6"]), abs(stop - 0.5))
    highest = max(-score for _, score, _ in found.values())
    as_good = [stop for stop in STOPS if -found[stop][1] >= highest - AS_GOOD]
    best = min(as_good, key=lambda stop: found[stop])
    assert float(choice.compute()) == pytest.approx(best)
    assert 0.3 < best < 0.7


def test_where_f1_hardly_changes_the_count_decides() -> None:
    def chosen(doubtful: int) -> float:
        objects = torch.stack([torch.arange(200.0) * 30, torch.full((200,), 50.0)], dim=1)
        false = torch.tensor([[50.0, 300.0], [250.0, 300.0]])[:doubtful]
        points = torch.cat([objects[:198], false])
        scores = torch.cat([torch.full((198,), 0.9), torch.full((doubtful,), 0.4)])
        choice = StopChoice()
        choice.update([marks(points, scores)], [truth(objects)])
        return float(choice.compute())

    assert chosen(2) == pytest.approx(0.6)  # F1 .990 instead of .995, and the right count
    assert chosen(0) == pytest.approx(0.5)


def test_of_equal_stops_the_one_nearest_to_half_is_taken() -> None:
    objects = torch.tensor([[50.0, 50.0]])
    choice = StopChoice()
    choice.update([marks(objects, torch.tensor([0.99]))], [truth(objects)])
    assert float(choice.compute()) == pytest.approx(0.5)


def test_a_doubtful_mark_before_sure_ones_ends_them_too() -> None:
    objects = torch.tensor([[50.0, 50.0], [150.0, 50.0], [250.0, 50.0]])
    choice = StopChoice()
    choice.update([marks(objects, torch.tensor([0.9, 0.3, 0.9]))], [truth(objects)])
    assert float(choice.compute()) == pytest.approx(0.7)  # the first that reaches all three


def test_marks_in_a_crowd_count_nowhere() -> None:
    objects = torch.tensor([[50.0, 50.0]])
    points = torch.tensor([[50.0, 50.0], [300.0, 300.0]])
    scores = torch.tensor([0.9, 0.6])
    in_crowd, outside = StopChoice(), StopChoice()
    in_crowd.update([marks(points, scores)], [truth(objects, [280.0, 280.0, 320.0, 320.0])])
    outside.update([marks(points, scores)], [truth(objects)])
    assert float(in_crowd.compute()) == pytest.approx(0.5)
    assert float(outside.compute()) == pytest.approx(0.35)  # the nearest to half without the second
    assert in_crowd.marked.max() == 1 and outside.marked.max() == 2


def test_what_has_no_points_is_refused() -> None:
    made = marks(torch.zeros(0, 2), torch.zeros(0))
    made.points = None
    with pytest.raises(ValueError, match="scored on points"):
        StopChoice().update([made], [truth(torch.zeros(0, 2))])
