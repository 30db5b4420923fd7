"""``python evaluate.py``: all metrics of a model on the whole images of a split, tiled where asked."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track

from maskwell import build, coco_results, point_results, restore, results, runs, semantic_results
from maskwell.data.datamodule import DataModule
from maskwell.data.dataset import truth_of
from maskwell.data.prompts import phrase_prompts
from maskwell.data.sample import Prediction, Prompt, Truth
from maskwell.data.source import SPLITS, Record, Split
from maskwell.errors import UserError, nearest
from maskwell.inference import Request, predict_images
from maskwell.metrics.coco_map import PHRASES, CocoMap
from maskwell.metrics.concept import ConceptF1, DetectionStats, named_by, prompt_results
from maskwell.metrics.detection import DetectionScores
from maskwell.metrics.points import PointScores
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

    def keep(record: Record, prediction: Prediction) -> None:
        annotations.extend(coco_results.entries(prediction, record.image_id, data.category_ids))

    def write(folder: Path) -> dict[str, Path]:
        coco_results.write(annotations, folder / "predictions.json")
        return {"predictions": folder / "predictions.json"}

    windows = {"tile": cfg.tile, "overlap": cfg.overlap}
    figures = evaluate_task(task, data, cfg.split, max_dets=cfg.max_dets, on_image=keep, **windows)
    return _Measured(figures, {"max_dets": list(cfg.max_dets), "min_score": MIN_SCORE}, write)


def _measure_boxes(cfg: DictConfig, task: BaseTask, data: DataModule) -> _Measured:
    """Of a detector with classes: also what is found and confused at its score threshold."""
    scores = DetectionScores(data.categories, max_dets=cfg.max_dets)
    scores.given = task.threshold
    annotations: list[dict[str, Any]] = []
    for record, _, prediction in _answered(task, data, cfg.split, cfg.tile, cfg.overlap, None):
        scores.update([prediction], [truth_of(record)])
        annotations.extend(coco_results.entries(prediction, record.image_id, data.category_ids))

    def write(folder: Path) -> dict[str, Path]:
        coco_results.write(annotations, folder / "predictions.json")
        files = {"predictions": folder / "predictions.json"}
        if scores.confusion is not None:
            files |= semantic_results.write_confusion(
                scores.confusion, task.confusion_names, folder, unit="objects"
            )
        return files

    figures = {name: float(value) for name, value in scores.compute().items()}
    figures = {name: value for name, value in figures.items() if not math.isnan(value)}
    return _Measured(figures, {"max_dets": list(cfg.max_dets), "min_score": _least(task)}, write)


def _measure_classes(cfg: DictConfig, task: BaseTask, data: DataModule) -> _Measured:
    scores = evaluate_classes(task, data, cfg.split, tile=cfg.tile, overlap=cfg.overlap)
    figures = {name: float(value) for name, value in scores.compute().items()}
    confusion = scores.confusion
    assert confusion is not None
    return _Measured(
        figures,
        {"background": scores.background},
        lambda folder: semantic_results.write_confusion(confusion, scores.categories, folder),
    )


def _measure_points(cfg: DictConfig, task: BaseTask, data: DataModule) -> _Measured:
    annotations: list[dict[str, Any]] = []
    marked: list[point_results.Marked] = []
    scores = PointScores()
    category = data.category_ids[0] if len(data.categories) == 1 else 0  # marks tell no categories apart
    for record, _, prediction in _answered(task, data, cfg.split, cfg.tile, cfg.overlap, None):
        scores.update([prediction], [truth_of(record, pointwise=True)])
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
        return files

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
    on_image: Callable[[Record, Prediction], None] | None = None,
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
        on_image: gets each image's record and its prediction.

    Returns:
        ``map``, ``map_50``, ..., ``ap/<category>``, ``bbox_map``, ..., ``pmf1``, ``il_mcc``, ``cgf1``,
        ``detections_per_image``, ``max_confidence``: what is defined on this data.
    """
    metrics = _Metrics(data.categories, max_dets)
    for record, prompts, prediction in _answered(task, data, split, tile, overlap, batch_size):
        metrics.update(prediction, truth_of(record), prompts)
        if on_image is not None:
            on_image(record, prediction)
    return metrics.compute()


def evaluate_classes(
    task: BaseTask,
    data: DataModule,
    split: Split = "test",
    *,
    tile: int | None = None,
    overlap: float = OVERLAP,
    batch_size: int | None = None,
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


class _Metrics:
    """Everything that is measured, over whole images."""

    def __init__(self, categories: Sequence[str], max_dets: Sequence[int]) -> None:
        self.phrase_label = len(categories)
        self.coco = CocoMap((*categories, PHRASES), max_dets=max_dets)
        self.concept = ConceptF1()
        self.stats = DetectionStats()

    def update(self, prediction: Prediction, truth: Truth, prompts: Sequence[Prompt]) -> None:
        """Categories feed COCO mAP; every prompt feeds concept F1.

        A free phrase that names objects counts as an image of the category PHRASES, as in validation.
        """
        if not prompts or any(prompt.label >= 0 for prompt in prompts):
            self.stats.update([prediction])
            self.coco.update([prediction], [truth])
        for prompt in prompts:
            if prompt.label >= 0 or not prompt.objects:
                self.concept.update(prompt_results(prediction, truth, [prompt.label]))
                continue
            answer = _answer_to(prompt, prediction, self.phrase_label)
            named = named_by(prompt, truth, self.phrase_label)
            assert named is not None
            self.concept.update(prompt_results(answer, named, [self.phrase_label]))
            self.stats.update([answer])
            self.coco.update([answer], [named])

    def compute(self) -> dict[str, float]:
        measured = [metric for metric in (self.coco, self.concept, self.stats) if metric.update_called]
        figures = {name: float(value) for metric in measured for name, value in metric.compute().items()}
        return {name: value for name, value in figures.items() if not math.isnan(value)}


def _answer_to(prompt: Prompt, prediction: Prediction, label: int) -> Prediction:
    """The detections of one prompt, as those of category ``label``."""
    keep = prediction.labels == prompt.label
    rles = prediction.rles
    return Prediction(
        size=prediction.size,
        boxes=prediction.boxes[keep],
        scores=prediction.scores[keep],
        labels=torch.full((int(keep.sum()),), label, dtype=torch.int64),
        rles=None if rles is None else [rle for rle, kept in zip(rles, keep.tolist(), strict=True) if kept],
    )


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
        print(f"{name + ':':<13}{path}")
