from __future__ import annotations

import numpy as np
import pytest
import torch

from maskwell.data import select
from maskwell.data.sample import Prediction
from maskwell.metrics.quality import quality
from maskwell.ops import masks


def _objects(scores: list[float]) -> Prediction:
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]]).repeat(len(scores), 1)
    return Prediction((8, 10), boxes, torch.tensor(scores), torch.zeros(len(scores), dtype=torch.int64))


def test_uncertainty_is_entropy_by_hand() -> None:
    assert select.uncertainty(_objects([0.5])) == pytest.approx(1.0)
    assert select.uncertainty(_objects([0.9])) == pytest.approx(0.469, abs=1e-3)
    assert select.uncertainty(_objects([0.9, 0.01])) == pytest.approx(0.469, abs=1e-3)  # not heard
    assert select.uncertainty(_objects([])) == 0.0
    marks = Prediction.of_points((8, 8), torch.zeros(1, 2), torch.tensor([1.0]), True, 0.5)
    assert select.uncertainty(marks) == pytest.approx(0.5, abs=1e-4)
    classes = Prediction.of_classes(
        torch.zeros(2, 2, dtype=torch.int64), torch.tensor([[1.0, 0.6], [0.8, 1.0]])
    )
    assert select.uncertainty(classes) == pytest.approx(0.15)


def test_mirroring_twice_changes_nothing_and_once_moves_everything() -> None:
    mask = torch.zeros(1, 8, 10, dtype=torch.bool)
    mask[0, 1:5, 2:5] = True
    found = Prediction(
        (8, 10),
        masks.boxes(masks.encode(mask)),
        torch.tensor([0.9]),
        torch.tensor([0]),
        rles=masks.encode(mask),
    )
    once = select.mirrored(found)
    assert once.boxes.tolist() == [[5.0, 1.0, 8.0, 5.0]]
    assert torch.equal(masks.decode(once.rles or [], (8, 10)), mask.flip(-1))
    twice = select.mirrored(once)
    assert torch.equal(twice.boxes, found.boxes)
    assert quality(twice, select.as_truth(found, 0.3), 0.3).score == 1.0
    assert quality(once, select.as_truth(found, 0.3), 0.3).score == 0.0


def test_scores_are_mean_ranks() -> None:
    judged = [
        select.Judged("a", 0.9, 0.1, 1),
        select.Judged("b", 0.5, 0.8, 1),
        select.Judged("c", 0.1, 0.0, 1),
    ]
    assert select.scores(judged).tolist() == [0.75, 0.75, 0.0]
    assert select.scores(judged[:1]).tolist() == [1.0]


def test_of_images_alike_only_the_best_is_chosen() -> None:
    score = np.array([0.2, 0.9, 0.8, 0.5])
    assert select.choose(score, [(1, 2)], 2) == [1, 3]
    assert select.choose(score, [], 10) == [1, 2, 3, 0]
