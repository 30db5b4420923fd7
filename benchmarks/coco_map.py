"""Speed of :class:`maskwell.metrics.coco_map.CocoMap` against pycocotools, and whether the figures agree.

Both start from the same predictions and end with the same figures, for masks and boxes. The
predictions are the true objects of dsb2018's validation images, moved, dropped, doubled and joined
by false ones; without ``MASKWELL_DATA`` the scenes are drawn.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks import harness
from maskwell.data.sample import Prediction, Truth
from maskwell.metrics.coco_map import CocoMap
from maskwell.ops import masks
from maskwell.ops.masks import Rle

Scene = tuple[Prediction, Truth]
SEED = 0
MAX_DETS = (1, 10, 400)


def dsb2018_truths(folder: Path, split: str) -> list[Truth]:
    """Ground truth of one split; its single category has label 0."""
    data = json.loads((folder / f"{split}.json").read_text())
    found: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in data["images"]}
    for annotation in data["annotations"]:
        found[annotation["image_id"]].append(annotation)
    return [_truth(image, found[image["id"]]) for image in data["images"]]


def _truth(image: dict[str, Any], annotations: Sequence[dict[str, Any]]) -> Truth:
    rles: list[Rle] = [
        {"size": a["segmentation"]["size"], "counts": a["segmentation"]["counts"].encode()}
        for a in annotations
    ]
    return Truth(
        (image["height"], image["width"]),
        masks.boxes(rles),
        torch.zeros(len(rles), dtype=torch.int64),
        torch.tensor([bool(a.get("iscrowd", 0)) for a in annotations], dtype=torch.bool),
        torch.tensor([a["area"] for a in annotations], dtype=torch.float32),
        rles,
    )


def drawn_truth(rng: np.random.Generator, categories: int = 1) -> Truth:
    """A frame of up to 60 random ellipses, the first one a crowd."""
    height, width = (int(side) for side in rng.integers(200, 400, 2))
    y, x = np.mgrid[:height, :width]
    count = int(rng.integers(5, 60))
    centre = rng.uniform(0, 1, (count, 2, 1, 1)) * np.array([height, width]).reshape(1, 2, 1, 1)
    radius = np.exp(rng.uniform(np.log(3), np.log(70), (count, 2, 1, 1)))
    inside = ((y - centre[:, 0]) / radius[:, 0]) ** 2 + ((x - centre[:, 1]) / radius[:, 1]) ** 2 <= 1
    rles = masks.encode(inside[inside.any((1, 2))])
    labels = torch.from_numpy(rng.integers(0, categories, len(rles)))
    iscrowd = torch.arange(len(rles)) == 0
    return Truth((height, width), masks.boxes(rles), labels, iscrowd, masks.area(rles).float(), rles)


def perturbed(truth: Truth, rng: np.random.Generator, categories: int = 1) -> Prediction:
    """The truth as a fair detector would see it: a tenth missed, a fifth doubled, a fifth false."""
    rles: list[Rle] = []
    labels: list[int] = []
    for rle, label in zip(truth.rles or [], truth.labels.tolist(), strict=True):
        for reach, share in ((3, 0.9), (5, 0.2), (40, 0.2)):  # pixels it is moved by, how often
            if rng.random() < share:
                x, y = (int(step) for step in rng.integers(-reach, reach + 1, 2))
                rles += masks.shift([rle], (x, y), truth.size)
                labels.append(label if rng.random() < 0.95 else int(rng.integers(0, categories)))
    filled = (masks.area(rles) > 0).tolist()
    rles = [rle for rle, keep in zip(rles, filled, strict=True) if keep]
    kept = torch.tensor(
        [label for label, keep in zip(labels, filled, strict=True) if keep], dtype=torch.int64
    )
    scores = torch.from_numpy(np.round(rng.random(len(rles)), 3)).float()  # rounded: ties occur
    return Prediction(truth.size, masks.boxes(rles), scores, kept, rles)


def pycocotools_figures(
    scenes: Sequence[Scene], kind: str, max_dets: Sequence[int], categories: Sequence[str]
) -> dict[str, float]:
    """The figures of ``CocoMap.compute`` by pycocotools alone; NaN where undefined."""
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image_id, (prediction, truth) in enumerate(scenes, start=1):
        images.append({"id": image_id, "height": truth.size[0], "width": truth.size[1]})
        objects += _coco_objects(truth, image_id, first=len(objects) + 1)
        results += _coco_results(prediction, image_id, kind)
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = {
            "info": {},
            "images": images,
            "annotations": objects,
            "categories": [{"id": i, "name": name} for i, name in enumerate(categories)],
        }
        reference.createIndex()
        evaluation = COCOeval(reference, reference.loadRes(results), kind)
        evaluation.params.maxDets = list(max_dets)
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., -1]
    figures = {"map": precision[..., 0], "map_50": precision[0, ..., 0], "map_75": precision[5, ..., 0]}
    figures |= {
        f"map_{size}": precision[..., i] for i, size in enumerate(("small", "medium", "large"), start=1)
    }
    figures |= {f"ap/{name}": precision[:, :, i, 0] for i, name in enumerate(categories)}
    return {
        name: float(part[part > -1].mean()) if (part > -1).any() else math.nan
        for name, part in figures.items()
    }


def _coco_objects(truth: Truth, image_id: int, first: int) -> list[dict[str, Any]]:
    boxes = _xywh(truth.boxes)
    rles: Sequence[Rle | None] = truth.rles or [None] * len(truth.labels)
    columns = zip(
        truth.labels.tolist(), boxes, truth.area.tolist(), truth.iscrowd.tolist(), rles, strict=True
    )
    return [
        {
            "id": first + i,
            "image_id": image_id,
            "category_id": label,
            "bbox": box,
            "area": area,
            "iscrowd": int(crowd),
            **({} if rle is None else {"segmentation": rle}),
        }
        for i, (label, box, area, crowd, rle) in enumerate(columns)
    ]


def _coco_results(prediction: Prediction, image_id: int, kind: str) -> list[dict[str, Any]]:
    shapes: Sequence[Any] = _xywh(prediction.boxes) if kind == "bbox" else prediction.rles or []
    columns = zip(prediction.labels.tolist(), prediction.scores.tolist(), shapes, strict=True)
    key = "bbox" if kind == "bbox" else "segmentation"
    return [
        {"image_id": image_id, "category_id": label, "score": score, key: shape}
        for label, score, shape in columns
    ]


def _xywh(boxes: torch.Tensor) -> list[list[float]]:
    xywh: list[list[float]] = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).tolist()
    return xywh


def ours(scenes: Sequence[Scene]) -> dict[str, float]:
    metric = CocoMap(("nucleus",), max_dets=MAX_DETS)
    for prediction, truth in scenes:
        metric.update([prediction], [truth])
    return {name: float(value) for name, value in metric.compute().items()}


def theirs(scenes: Sequence[Scene]) -> dict[str, float]:
    segm = pycocotools_figures(scenes, "segm", MAX_DETS, ("nucleus",))
    bbox = pycocotools_figures(scenes, "bbox", MAX_DETS, ("nucleus",))
    return segm | {f"bbox_{name}": value for name, value in bbox.items() if not name.startswith("ap/")}


def main() -> None:
    args = harness.arguments(__doc__ or "").parse_args()
    start = time.perf_counter()
    harness.use_cores(1)
    rng = np.random.default_rng(SEED)
    folder = harness.real_data("dsb2018")
    truths = dsb2018_truths(folder, "val") if folder else [drawn_truth(rng) for _ in range(84)]
    if args.quick:
        truths = truths[:20]
    scenes = [(perturbed(truth, rng), truth) for truth in truths]
    mine, reference = ours(scenes), theirs(scenes)
    timing = harness.paired(lambda: theirs(scenes), lambda: ours(scenes), repeats=2 if args.quick else 5)
    figures = {
        "speedup": timing.ratio,
        "speedup.std": timing.spread,
        "max_abs_diff": max(abs(mine[name] - reference[name]) for name in mine),
        "seconds": {
            "pycocotools": float(np.median(timing.first)),
            "maskwell": float(np.median(timing.second)),
        },
        "map": mine["map"],
        "images": len(scenes),
        "objects": sum(len(truth.labels) for truth in truths),
        "detections": sum(len(prediction.labels) for prediction, _ in scenes),
    }
    harness.publish(
        args,
        "coco_map",
        figures,
        command="python -m benchmarks.coco_map",
        seeds=[SEED],
        minutes=(time.perf_counter() - start) / 60,
        notes=(
            f"{'dsb2018 val' if folder else 'Drawn scenes'}, predictions made from the truth; masks and "
            f"boxes, max_dets {list(MAX_DETS)}; from predictions to figures on one core, paired runs. "
            "max_abs_diff is over all figures; ours are float32."
        ),
    )


if __name__ == "__main__":
    main()
