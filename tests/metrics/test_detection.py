"""Detection at one threshold against counts by hand and a search over all thresholds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from maskwell.data.sample import Prediction, Truth
from maskwell.metrics.detection import DetectionScores, Image, best_threshold, confusion, hits
from maskwell.ops import boxes as box_ops

A, B, C = [0, 0, 10, 10], [20, 20, 40, 40], [60, 60, 70, 70]


def image(
    boxes: list[list[float]],
    scores: list[float],
    labels: list[int],
    true_boxes: list[list[float]],
    true_labels: list[int],
    crowd: list[bool] | None = None,
) -> Image:
    return Image(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(labels, np.int64),
        np.array(true_boxes, np.float32).reshape(-1, 4),
        np.array(true_labels, np.int64),
        np.array(crowd or [False] * len(true_boxes), bool),
    )


def test_the_better_of_two_detections_of_an_object_hits() -> None:
    hit, counts = hits(image([A, A, B], [0.5, 0.9, 0.8], [0, 0, 1], [A, B], [0, 0]))
    assert hit.tolist() == [False, True, False] and counts.all()


def test_a_crowd_takes_any_number_and_counts_nothing() -> None:
    found = image([A, [1, 1, 5, 5], C], [0.9, 0.8, 0.7], [0, 0, 0], [[0, 0, 50, 50]], [0], [True])
    hit, counts = hits(found)
    assert not hit.any() and counts.tolist() == [False, False, True]
    assert confusion(found, 0.1, 1).tolist() == [[0, 0], [1, 0]]


def test_confusion_pairs_by_overlap_whatever_the_class() -> None:
    matrix = confusion(
        image([A, B, C], [0.9, 0.9, 0.9], [1, 1, 0], [A, B, [80, 80, 90, 90]], [0, 1, 1]), 0.5, 2
    )
    assert matrix.tolist() == [[0, 1, 0], [0, 1, 1], [1, 0, 0]]
    assert confusion(image([A], [0.4], [0], [A], [0]), 0.5, 1).tolist() == [[0, 1], [0, 0]]


def random_images(seed: int, count: int = 12) -> list[Image]:
    random = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        n, k = random.integers(0, 6), random.integers(0, 9)
        low = random.uniform(0, 60, (n, 2))
        true = np.concatenate([low, low + random.uniform(8, 30, (n, 2))], 1)
        base = (
            true[random.integers(0, n, k)] if n else random.uniform(0, 20, (k, 4)) + np.array([0, 0, 30, 30])
        )
        images.append(
            image(
                (base + random.normal(0, 3, (k, 4))).tolist(),
                random.uniform(0, 1, k).round(1).tolist(),
                random.integers(0, 2, k).tolist(),
                true.tolist(),
                random.integers(0, 2, n).tolist(),
            )
        )
    return images


def f1_by_hand(images: list[Image], threshold: float) -> float:
    """Each threshold matched anew: detections below it do not exist."""
    right = said = objects = 0
    for entry in images:
        keep = entry.scores >= threshold
        only = replace(entry, boxes=entry.boxes[keep], scores=entry.scores[keep], labels=entry.labels[keep])
        taken: set[int] = set()
        for index in np.argsort(-only.scores, kind="stable"):
            best, place = 0.0, -1
            for n in range(len(only.true_boxes)):
                pair = torch.tensor(only.boxes[index]), torch.tensor(only.true_boxes[n])
                overlap = float(box_ops.iou(*pair))
                if n not in taken and only.true_labels[n] == only.labels[index] and overlap > best:
                    best, place = overlap, n
            if best >= 0.5:
                taken.add(place)
        right, said, objects = right + len(taken), said + int(keep.sum()), objects + len(entry.true_boxes)
    return 2 * right / max(1, said + objects)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_threshold_is_the_best_of_all(seed: int) -> None:
    images = random_images(seed)
    found = [hits(entry) for entry in images]
    scores = np.concatenate([entry.scores for entry in images])
    chosen = best_threshold(
        scores, np.concatenate([hit for hit, _ in found]), sum(len(entry.true_boxes) for entry in images)
    )
    assert chosen is not None
    every = max(f1_by_hand(images, value) for value in np.unique(scores))
    assert f1_by_hand(images, chosen) == pytest.approx(every)


def test_nothing_right_chooses_no_threshold() -> None:
    assert best_threshold(np.array([0.9], np.float32), np.array([False]), 3) is None


def pair(entry: Image) -> tuple[Prediction, Truth]:
    count = len(entry.true_labels)
    prediction = Prediction(
        (100, 100), torch.tensor(entry.boxes), torch.tensor(entry.scores), torch.tensor(entry.labels)
    )
    truth = Truth(
        (100, 100),
        torch.tensor(entry.true_boxes),
        torch.tensor(entry.true_labels),
        torch.tensor(entry.crowd),
        torch.full((count,), 100.0),
    )
    return prediction, truth


def test_the_metric_gives_the_figures_of_its_functions_and_those_of_coco() -> None:
    images = random_images(3)
    scores = DetectionScores(("a", "b"))
    for entry in images:
        prediction, truth = pair(entry)
        scores.update([prediction], [truth])
    figures = {name: float(value) for name, value in scores.compute().items()}
    assert figures["f1"] == pytest.approx(f1_by_hand(images, figures["threshold"]))
    harmonic = 2 * figures["precision"] * figures["recall"] / (figures["precision"] + figures["recall"])
    assert (
        figures["f1"] == pytest.approx(harmonic) and {"map", "map_50", "ap/a", "map_small"} <= figures.keys()
    )
    assert scores.confusion is not None
    said = sum(int((entry.scores >= figures["threshold"]).sum()) for entry in images)
    objects = sum(len(entry.true_labels) for entry in images)
    assert int(scores.confusion[:, :-1].sum()) == said and int(scores.confusion[:-1].sum()) == objects
    assert figures["detections_per_image"] == pytest.approx(said / len(images))


def test_no_image_and_no_detection_are_no_errors() -> None:
    scores = DetectionScores(("a",))
    assert "threshold" not in scores.compute()
    scores = DetectionScores(("a",))
    scores.given = 0.5
    prediction, truth = pair(image([], [], [], [A], [0]))
    scores.update([prediction], [truth])
    assert float(scores.compute()["recall"]) == 0 and scores.confusion is not None
    assert scores.confusion.tolist() == [[0, 1], [0, 0]]
