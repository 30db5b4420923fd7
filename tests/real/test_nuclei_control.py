"""The classical control and the COCO figures on real nuclei."""

from __future__ import annotations

import pytest
import torch

from benchmarks import classical, harness
from benchmarks.coco_map import dsb2018_truths
from maskwell.data.sample import Prediction
from maskwell.metrics.coco_map import CocoMap

DATA = harness.real_data("dsb2018")
pytestmark = pytest.mark.skipif(not DATA, reason="MASKWELL_DATA is not set")


def test_otsu_and_split_is_a_strong_control() -> None:
    figures = classical.evaluate("val", limit=12)
    assert figures["map_50"] > 0.45


def test_the_truth_itself_scores_one_only_with_enough_detections() -> None:
    assert DATA is not None
    truths = dsb2018_truths(DATA, "test")
    crowded = max(truths, key=lambda truth: len(truth.labels))
    count = len(crowded.labels)
    assert count > 100
    perfect = Prediction(crowded.size, crowded.boxes, torch.ones(count), crowded.labels, crowded.rles)
    for limit, least, most in ((400, 1.0, 1.0), (100, 0.0, 101 / count)):
        metric = CocoMap(("nucleus",), max_dets=(1, 10, limit))
        metric.update([perfect], [crowded])
        assert least <= float(metric.compute()["map"]) <= most + 0.01
