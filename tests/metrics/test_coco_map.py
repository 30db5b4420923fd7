"""CocoMap against pycocotools, on random scenes, alone and over two ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from benchmarks.coco_map import Scene, drawn_truth, perturbed, pycocotools_figures
from maskwell.data.sample import Prediction, Truth
from maskwell.metrics.coco_map import CocoMap
from maskwell.ops import masks

CATEGORIES = ("cell", "nucleus", "debris")


def random_scene(seed: int) -> Scene:
    """Ellipses of three categories, the first a crowd, and a prediction that errs in every way."""
    rng = np.random.default_rng(seed)
    truth = drawn_truth(rng, len(CATEGORIES))
    return perturbed(truth, rng, len(CATEGORIES)), truth


def no_objects(prediction: Prediction) -> Truth:
    none = torch.zeros(0)
    return Truth(prediction.size, torch.zeros(0, 4), none.long(), none.bool(), none, [])


def reference(scenes: Sequence[Scene], kind: str, max_dets: Sequence[int] = (1, 10, 100)) -> dict[str, float]:
    return pycocotools_figures(scenes, kind, max_dets, CATEGORIES)


def run(scenes: Sequence[Scene], **kwargs: Any) -> dict[str, float]:
    metric = CocoMap(CATEGORIES, **kwargs)
    for prediction, truth in scenes:
        metric.update([prediction], [truth])
    return {name: float(value) for name, value in metric.compute().items()}


@pytest.mark.parametrize("max_dets", [[1, 10, 100], [1, 2, 3], [1, 10, 400]])
def test_equals_pycocotools(max_dets: list[int]) -> None:
    scenes = [random_scene(seed) for seed in range(8)]
    ours = run(scenes, max_dets=max_dets)
    segm = reference(scenes, "segm", max_dets)
    bbox = {f"bbox_{name}": value for name, value in reference(scenes, "bbox", max_dets).items()}
    expected = segm | {name: value for name, value in bbox.items() if "ap/" not in name}
    assert set(ours) == set(expected)
    assert 0.05 < ours["map"] < 0.95
    for name, value in expected.items():
        assert ours[name] == pytest.approx(value, abs=1e-6), name


def test_boxes_alone_are_primary_where_there_are_no_masks() -> None:
    scenes = [random_scene(seed) for seed in range(4)]
    expected = reference(scenes, "bbox")
    for prediction, truth in scenes:
        prediction.rles = truth.rles = None
    ours = run(scenes)
    assert ours == pytest.approx(expected, abs=1e-6)


def test_only_the_asked_type_is_computed() -> None:
    scenes = [random_scene(seed) for seed in range(4)]
    ours = run(scenes, iou_types=("bbox",))
    assert ours == pytest.approx(reference(scenes, "bbox"), abs=1e-6)


def test_more_than_a_hundred_detections_need_larger_max_dets() -> None:
    size = (40, 400)
    dots = np.zeros((150, *size), dtype=bool)
    for i in range(150):
        dots[i, 10 * (i // 40) : 10 * (i // 40) + 5, 10 * (i % 40) : 10 * (i % 40) + 5] = True
    rles = masks.encode(dots)
    labels = torch.zeros(150, dtype=torch.int64)
    truth = Truth(size, masks.boxes(rles), labels, labels.bool(), masks.area(rles).float(), rles)
    prediction = Prediction(size, masks.boxes(rles), torch.linspace(1, 0.1, 150), labels, rles)
    assert run([(prediction, truth)])["map"] == pytest.approx(67 / 101)  # 100 of 150 found: recalls 0 to .66
    assert run([(prediction, truth)], max_dets=(1, 10, 400))["map"] == pytest.approx(1.0)


def empty_prediction(truth: Truth) -> Prediction:
    none = torch.zeros(0)
    return Prediction(truth.size, torch.zeros(0, 4), none, none.long(), [])


def test_no_detection_anywhere_is_zero_and_not_an_error() -> None:
    truths = [random_scene(seed)[1] for seed in range(3)]
    ours = run([(empty_prediction(truth), truth) for truth in truths])
    assert ours["map"] == ours["map_50"] == ours["bbox_map"] == 0.0


def test_empty_images_among_others() -> None:
    scenes = [random_scene(seed) for seed in range(3)]
    false_alarm = random_scene(7)[0]
    nothing = (false_alarm, no_objects(false_alarm))
    quiet = (empty_prediction(nothing[1]), nothing[1])
    silent = (empty_prediction(scenes[0][1]), scenes[0][1])
    silent[0].rles = None
    mixed = [scenes[0], nothing, quiet, scenes[1], silent, scenes[2]]
    ours = run(mixed)
    expected = reference(mixed, "segm")
    assert ours["map"] == pytest.approx(expected["map"], abs=1e-6)
    assert ours["bbox_map"] == pytest.approx(reference(mixed, "bbox")["map"], abs=1e-6)
    assert ours["map"] < run(scenes)["map"]


def test_no_object_anywhere_is_undefined() -> None:
    prediction = random_scene(1)[0]
    ours = run([(prediction, no_objects(prediction))])
    assert set(ours) == {"map", "map_50", "map_75", "bbox_map", "bbox_map_50", "bbox_map_75"}
    assert all(math.isnan(value) for value in ours.values())
    metric = CocoMap(CATEGORIES)
    metric.update([], [])
    assert math.isnan(float(metric.compute()["map"]))


def test_negative_labels_do_not_count() -> None:
    prediction, truth = random_scene(3)
    before = run([(prediction, truth)])
    extra = Prediction(
        prediction.size,
        torch.cat([prediction.boxes, prediction.boxes]),
        torch.cat([prediction.scores, torch.ones_like(prediction.scores)]),
        torch.cat([prediction.labels, torch.full_like(prediction.labels, -1)]),
        [*(prediction.rles or []), *(prediction.rles or [])],
    )
    assert run([(extra, truth)]) == before


def test_unpaired_input_is_refused() -> None:
    prediction, truth = random_scene(3)
    with pytest.raises(ValueError, match="do not pair"):
        CocoMap(CATEGORIES).update([prediction], [truth, truth])


def test_different_frames_are_refused() -> None:
    prediction, _ = random_scene(3)
    with pytest.raises(ValueError, match="different frames"):
        CocoMap(CATEGORIES).update([prediction], [random_scene(4)[1]])


def test_reset_forgets() -> None:
    metric = CocoMap(CATEGORIES)
    metric.update(*zip(random_scene(1), strict=True))
    metric.reset()
    metric.update(*zip(random_scene(2), strict=True))
    assert {k: float(v) for k, v in metric.compute().items()} == run([random_scene(2)])


SHARES = {"unequal": [[0, 1, 2], [3]], "second idle": [[0, 1, 2, 3], []], "first idle": [[], [0, 1, 2, 3]]}


def _rank(rank: int, rendezvous: str, out: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    figures = {}
    for name, shares in SHARES.items():
        metric = CocoMap(CATEGORIES)
        for seed in shares[rank]:
            prediction, truth = random_scene(seed)
            metric.update([prediction], [truth])
        figures[name] = {key: float(value) for key, value in metric.compute().items()}
    torch.save(figures, f"{out}/{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_with_unequal_counts(tmp_path: Path) -> None:
    mp.spawn(_rank, args=(str(tmp_path / "rendezvous"), str(tmp_path)), nprocs=2)
    expected = run([random_scene(seed) for seed in range(4)])
    for rank in range(2):
        figures = torch.load(tmp_path / f"{rank}.pt")
        assert set(figures) == set(SHARES)
        for name, values in figures.items():
            assert values == pytest.approx(expected, abs=1e-6), name
