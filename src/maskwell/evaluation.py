"""``python evaluate.py``: all metrics of a model on the whole images of a split, tiled where asked."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track

from maskwell import build, coco_results, point_results, restore, results, runs, semantic_results
from maskwell.data.datamodule import DataModule
from maskwell.data.dataset import truth_of
from maskwell.data.prompts import phrase_prompts
from maskwell.data.sample import Prediction, Prompt
from maskwell.data.source import SPLITS, Record, Split
from maskwell.errors import UserError, nearest
from maskwell.image_results import ImageResults
from maskwell.inference import Request, predict_images
from maskwell.metrics.detection import DetectionScores
from maskwell.metrics.points import PointScores
from maskwell.metrics.prompted import PromptedScores
from maskwell.metrics.segmentation import SegmentationScores
from maskwell.models.base import BaseTask
from maskwell.tiling import OVERLAP

MIN_SCORE = 0.05
"""Detections below it are neither merged nor scored, which bounds the work on crowded images; the bound of
the family holds where it has one."""


def evaluate(cfg: DictConfig, origin: runs.Origin | None = None) -> dict[str, float]:
    """Score a checkpoint, or a base alone, on the whole images of ``cfg.split``; print and write the figures.

    Returns:
        The metrics by name.

    Raises:
        UserError: no such model, data or split.
    """
    if cfg.split not in SPLITS:
        raise UserError(f"split={cfg.split} is none of {', '.join(SPLITS)}.{nearest(str(cfg.split), SPLITS)}")
    task, used, path = _task(cfg, origin or runs.Origin())
    data = build.datamodule(used, task)
    task = task.to(restore.best_device())
    measure = _measure_classes if task.semantic else _measure_objects
    if task.threshold is not None:
        measure = _measure_boxes
    if task.pointwise:
        measure = _measure_points
    measured = measure(cfg, task, data)
    folder = Path(cfg.output) if cfg.output else _folder(path)
    content = {
        "model": str(path) if path else str(used.model.get("base", used.model._target_)),
        "split": cfg.split,
        "images": data.source.size(cfg.split),
        "tile": cfg.tile,
        "overlap": cfg.overlap,
        **measured.settings,
        "metrics": measured.figures,
    }
    coco_results.write(content, folder / "metrics.json")
    _show(content, {"metrics": folder / "metrics.json", **measured.write(folder)})
    return measured.figures


@dataclass(frozen=True)
class _Measured:
    """``figures`` by name; ``settings`` they depend on; ``write`` puts what is behind them into a folder."""

    figures: dict[str, float]
    settings: dict[str, Any]
    write: Callable[[Path], dict[str, Path]]


def _measure_objects(cfg: DictConfig, task: BaseTask, data: DataModule) -> _Measured:
    annotations: list[dict[str, Any]] = []
    images = ImageResults(data.categories)

    def keep(record: Record, prompts: tuple[Prompt, ...], prediction: Prediction) -> None:
        annotations.extend(coco_results.entries(prediction, record.image_id, data.category_ids))
        images.add(record.file_name, prediction, truth_of(record), prompts)

    def write(folder: Path) -> dict[str, Path]:
        coco_results.write(annotations, folder / "predictions.json")
        return {"predictions": folder / "predictions.json", **images.write(folder)}

    windows = {"tile": cfg.tile, "overlap": cfg.overlap}
    figures = evaluate_task(task, data, cfg.split, max_dets=cfg.max_dets, on_image=keep, **windows)
    return _Measured(figures, {"max_dets": list(cfg.max_dets), "min_score": MIN_SCORE}, write)


def _measure_boxes(cfg: DictConfig, task: BaseTask, data: DataModule) -> _Measured:
    """Of a detector with classes: also what is found and confused at its score threshold."""
    scores = DetectionScores(data.categories, max_dets=cfg.max_dets)
    scores.given = task.threshold
    annotations: list[dict[str, Any]] = []
    images = ImageResults(data.categories, task.threshold)
    for record, _, prediction in _answered(task, data, cfg.split, cfg.tile, cfg.overlap, None):
        truth = truth_of(record)
        scores.update([prediction], [truth])
        images.add(record.file_name, prediction, truth)
        annotations.extend(coco_results.entries(prediction, record.image_id, data.category_ids))

    def write(folder: Path) -> dict[str, Path]:
        coco_results.write(annotations, folder / "predictions.json")
        files = {"predictions": folder / "predictions.json", **images.write(folder)}
        if scores.confusion is not None:
            files |= semantic_results.write_confusion(
                scores.confusion, task.confusion_names, folder, unit="objects"
            )
        return files

    figures = {name: float(value) for name, value in scores.compute().items()}
    figures = {name: value for name, value in figures.items() if not math.isnan(value)}
    return _Measured(figures, {"max_dets": list(cfg.max_dets), "min_score": _least(task)}, write)


def _measure_classes(cfg: DictConfig, task: BaseTask, data: DataModule) -> _Measured:
    images = ImageResults(data.categories)

    def keep(record: Record, prediction: Prediction) -> None:
        images.add(record.file_name, prediction, truth_of(record))

    windows = {"tile": cfg.tile, "overlap": cfg.overlap}
    scores = evaluate_classes(task, data, cfg.split, on_image=keep, **windows)
    figures = {name: float(value) for name, value in scores.compute().items()}
    confusion = scores.confusion
    assert confusion is not None

    def write(folder: Path) -> dict[str, Path]:
        drawn = semantic_results.write_confusion(confusion, scores.categories, folder)
        return {
            "confusion": drawn["confusion"],
            "confusion picture": drawn["picture"],
            **images.write(folder),
        }

    return _Measured(figures, {"background": scores.background}, write)


def _measure_points(cfg: DictConfig, task: BaseTask, data: DataModule) -> _Measured:
    annotations: list[dict[str, Any]] = []
    marked: list[point_results.Marked] = []
    scores = PointScores()
    images = ImageResults(data.categories)
    category = data.category_ids[0] if len(data.categories) == 1 else 0  # marks tell no categories apart
    for record, _, prediction in _answered(task, data, cfg.split, cfg.tile, cfg.overlap, None):
        truth = truth_of(record, pointwise=True)
        scores.update([prediction], [truth])
        images.add(record.file_name, prediction, truth)
        annotations.extend(point_results.entries(prediction, record.image_id, category))
        marked.append(point_results.Marked(record.file_name, prediction))

    def write(folder: Path) -> dict[str, Path]:
        files = {
            "predictions": folder / "predictions.json",
            "points": folder / "points.csv",
            "counts": folder / "counts.csv",
        }
        coco_results.write(annotations, files["predictions"])
        point_results.write_points(marked, files["points"])
        point_results.write_counts(marked, files["counts"])
        return {**files, **images.write(folder)}

    figures = {name: float(value) for name, value in scores.compute().items()}
    return _Measured(figures, {"radii": list(scores.radii), "reference": scores.reference}, write)


def evaluate_task(
    task: BaseTask,
    data: DataModule,
    split: Split = "test",
    *,
    tile: int | None = None,
    overlap: float = OVERLAP,
    max_dets: Sequence[int] = (1, 10, 100),
    batch_size: int | None = None,
    on_image: Callable[[Record, tuple[Prompt, ...], Prediction], None] | None = None,
) -> dict[str, float]:
    """All metrics of a task on the whole images of a split.

    Every category is asked on every image, with words that are in none of them where the data has
    one category only; data that brings its own phrases is asked those, as in validation.

    Args:
        task: on the device where it shall run.
        data: set up.
        split: which images.
        tile: side of the windows in px; None for whole images at once.
        overlap: least share of a tile that its neighbour sees too.
        max_dets: detections per image and category that COCO mAP counts.
        batch_size: windows that go through the network at once; None: as in validation.
        on_image: gets each image's record, what was asked about it, and its prediction.

    Returns:
        ``map``, ``map_50``, ..., ``ap/<category>``, ``bbox_map``, ..., ``pmf1``, ``il_mcc``, ``cgf1``,
        ``detections_per_image``, ``max_confidence``: what is defined on this data.
    """
    metrics = PromptedScores(data.categories, max_dets)
    for record, prompts, prediction in _answered(task, data, split, tile, overlap, batch_size):
        metrics.update(prediction, truth_of(record), prompts)
        if on_image is not None:
            on_image(record, prompts, prediction)
    return metrics.compute()


def evaluate_classes(
    task: BaseTask,
    data: DataModule,
    split: Split = "test",
    *,
    tile: int | None = None,
    overlap: float = OVERLAP,
    batch_size: int | None = None,
    on_image: Callable[[Record, Prediction], None] | None = None,
) -> SegmentationScores:
    """Confusion matrix, mean IoU and class IoUs of a semantic task on the whole images of a split.

    Args as those of :func:`evaluate_task`; class probabilities are averaged where windows overlap.

    Raises:
        UserError: the data has no class maps, or no images in ``split``.
    """
    scores = SegmentationScores(data.categories, task.background)
    for record, _, prediction in _answered(task, data, split, tile, overlap, batch_size):
        if record.semantic is None:
            raise UserError(
                f"{record.file_name}: the data has objects and no class maps; use data=semantic, or "
                "data=semi with the folder."
            )
        scores.update([prediction], [truth_of(record)])
        if on_image is not None:
            on_image(record, prediction)
    return scores


def _answered(
    task: BaseTask, data: DataModule, split: Split, tile: int | None, overlap: float, batch_size: int | None
) -> Iterator[tuple[Record, tuple[Prompt, ...], Prediction]]:
    """Every image of a split with what was asked about it and what the task says."""
    if not data.source.size(split):
        raise UserError(f"The data has no images in the split '{split}'.")
    waiting: deque[tuple[Record, tuple[Prompt, ...]]] = deque()

    def requests() -> Iterator[Request]:
        for record in track(_records(data, split), f"evaluating {split}", total=data.source.size(split)):
            prompts = _prompts(record, data)
            waiting.append((record, prompts))
            yield Request(record.image, prompts)

    size = batch_size or data.eval_batch_size
    for prediction in predict_images(
        task, requests(), tile=tile, overlap=overlap, batch_size=size, min_score=_least(task)
    ):
        yield *waiting.popleft(), prediction


def _least(task: BaseTask) -> float:
    return MIN_SCORE if task.min_score is None else task.min_score


def _records(data: DataModule, split: Split) -> Iterator[Record]:
    for index in range(data.source.size(split)):
        yield data.source.read(split, index, 0, None)


def _prompts(record: Record, data: DataModule) -> tuple[Prompt, ...]:
    """What is asked about an image."""
    if record.phrases is not None:
        return phrase_prompts(record.phrases)
    if data.prompts is None:
        return ()
    labels = [int(label) for label in record.labels[~record.iscrowd]]
    return data.prompts.evaluation(labels, data.categories)


def _task(cfg: DictConfig, origin: runs.Origin) -> tuple[BaseTask, DictConfig, Path | None]:
    """The task, the configuration of its model and data, and its checkpoint."""
    if not cfg.ckpt:
        return build.task(cfg), cfg, None
    path = restore.find(cfg.ckpt, Path(cfg.paths.runs), build.family(cfg))
    print(f"checkpoint: {path}")
    restored = restore.restore(
        path, lambda stored: restore.with_overrides(stored, cfg, origin, path, ("model", "data"))
    )
    return restored.task, restored.cfg, path


def _folder(path: Path | None) -> Path:
    run = runs.folder_of(path) if path else None
    return runs.create(run or Path(), "evaluations", datetime.now())


def _show(content: dict[str, Any], files: dict[str, Path]) -> None:
    column = {"trained": content["metrics"], "labels": {"trained": "value"}}
    Console().print(results.table({"split": content["split"], "images": content["images"], **column}))
    for name, value in content["metrics"].items():
        if name.startswith(("ap/", "iou/")):
            print(f"{name:<24}{value:.4f}")
    for name, path in files.items():
        print(f"{name + ':':<19}{path}")
