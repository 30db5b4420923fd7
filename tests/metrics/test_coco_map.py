"""CocoMap against pycocotools, on random scenes, alone and over two ranks."""

from __future__ import annotations

import contextlib
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskwell.data.sample import Prediction, Truth
from maskwell.metrics.coco_map import CocoMap
from maskwell.ops import masks

CATEGORIES = ("cell", "nucleus", "debris")


def random_scene(seed: int, *, objects: int = 12, crowd: bool = True) -> tuple[Prediction, Truth]:
    """A frame of random ellipses, and a prediction that moves, drops, repeats and invents some."""
    rng = np.random.default_rng(seed)
    size = (int(rng.integers(90, 220)), int(rng.integers(90, 220)))
    shapes = [_ellipse(rng, size) for _ in range(objects)]
    labels = rng.integers(0, len(CATEGORIES), objects)
    found = [
        (np.roll(shape, tuple(rng.integers(-3, 4, 2)), (0, 1)), label)
        for shape, label in zip(shapes, labels, strict=True)
        for _ in range(int(rng.integers(0, 3)))
    ]
    found += [(_ellipse(rng, size), int(rng.integers(0, len(CATEGORIES)))) for _ in range(4)]
    truth_rles = masks.encode(np.array(shapes).reshape(-1, *size))
    found_rles = masks.encode(np.array([shape for shape, _ in found]).reshape(-1, *size))
    scores = np.round(rng.random(len(found)), 2)  # rounded: ties occur
    iscrowd = torch.zeros(objects, dtype=torch.bool)
    iscrowd[:1] = crowd
    truth = Truth(
        size,
        masks.boxes(truth_rles),
        torch.tensor(labels, dtype=torch.int64),
        iscrowd,
        masks.area(truth_rles).float(),
        truth_rles,
    )
    found_labels = torch.tensor([int(label) for _, label in found], dtype=torch.int64)
    prediction = Prediction(
        size, masks.boxes(found_rles), torch.tensor(scores, dtype=torch.float32), found_labels, found_rles
    )
    return prediction, truth


def _ellipse(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    y, x = np.mgrid[: size[0], : size[1]]
    (cy, cx), (ry, rx) = rng.random(2) * size, rng.uniform(3, 60, 2)
    inside: np.ndarray = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1
    inside[int(cy), int(cx)] = True
    return inside


def reference(scenes: list[tuple[Prediction, Truth]], kind: str, max_dets: list[int]) -> dict[str, float]:
    """The same figures by pycocotools alone."""
    images, objects, results = [], [], []
    for image_id, (prediction, truth) in enumerate(scenes, start=1):
        images.append({"id": image_id, "height": truth.size[0], "width": truth.size[1]})
        for i in range(len(truth.labels)):
            objects.append(
                {
                    "id": len(objects) + 1,
                    "image_id": image_id,
                    "category_id": int(truth.labels[i]),
                    "bbox": _xywh(truth.boxes[i]),
                    "area": float(truth.area[i]),
                    "iscrowd": int(truth.iscrowd[i]),
                    **({"segmentation": truth.rles[i]} if truth.rles else {}),
                }
            )
        for i in range(len(prediction.labels)):
            result: dict[str, Any] = {
                "image_id": image_id,
                "category_id": int(prediction.labels[i]),
                "score": float(prediction.scores[i]),
            }
            if kind == "bbox":
                result["bbox"] = _xywh(prediction.boxes[i])
            else:
                assert prediction.rles is not None
                result["segmentation"] = prediction.rles[i]
            results.append(result)
    with contextlib.redirect_stdout(io.StringIO()):
        truth_set = COCO()
        truth_set.dataset = {
            "info": {},
            "images": images,
            "annotations": objects,
            "categories": [{"id": i, "name": name} for i, name in enumerate(CATEGORIES)],
        }
        truth_set.createIndex()
        evaluation = COCOeval(truth_set, truth_set.loadRes(results), kind)
        evaluation.params.maxDets = max_dets
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., -1]

    def mean(part: np.ndarray) -> float:
        return float(part[part > -1].mean()) if (part > -1).any() else math.nan

    figures = {
        "map": mean(precision[..., 0]),
        "map_50": mean(precision[0, ..., 0]),
        "map_75": mean(precision[5, ..., 0]),
        "map_small": mean(precision[..., 1]),
        "map_medium": mean(precision[..., 2]),
        "map_large": mean(precision[..., 3]),
    }
    figures |= {f"ap/{name}": mean(precision[:, :, i, 0]) for i, name in enumerate(CATEGORIES)}
    return figures


def _xywh(box: torch.Tensor) -> list[float]:
    x1, y1, x2, y2 = box.tolist()
    return [x1, y1, x2 - x1, y2 - y1]


def run(scenes: list[tuple[Prediction, Truth]], **kwargs: Any) -> dict[str, float]:
    metric = CocoMap(CATEGORIES, **kwargs)
    for prediction, truth in scenes:
        metric.update([prediction], [truth])
    return {name: float(value) for name, value in metric.compute().items()}


@pytest.mark.parametrize("max_dets", [[1, 10, 100], [1, 2, 3], [1, 10, 400]])
def test_equals_pycocotools(max_dets: list[int]) -> None:
    scenes = [random_scene(seed, objects=20) for seed in range(8)]
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
    expected = reference(scenes, "bbox", [1, 10, 100])
    for prediction, truth in scenes:
        prediction.rles = truth.rles = None
    ours = run(scenes)
    assert ours == pytest.approx(expected, abs=1e-6)


def test_only_the_asked_type_is_computed() -> None:
    scenes = [random_scene(seed) for seed in range(4)]
    ours = run(scenes, iou_types=("bbox",))
    assert ours == pytest.approx(reference(scenes, "bbox", [1, 10, 100]), abs=1e-6)


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
    nothing = random_scene(7, objects=0)  # detections, no object
    quiet = (empty_prediction(nothing[1]), nothing[1])
    silent = (empty_prediction(scenes[0][1]), scenes[0][1])
    silent[0].rles = None
    mixed = [scenes[0], nothing, quiet, scenes[1], silent, scenes[2]]
    ours = run(mixed)
    expected = reference(mixed, "segm", [1, 10, 100])
    assert ours["map"] == pytest.approx(expected["map"], abs=1e-6)
    assert ours["bbox_map"] == pytest.approx(reference(mixed, "bbox", [1, 10, 100])["map"], abs=1e-6)
    assert ours["map"] < run(scenes)["map"]


def test_no_object_anywhere_is_undefined() -> None:
    ours = run([random_scene(1, objects=0)])
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
