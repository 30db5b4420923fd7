"""Detection at one score threshold: which threshold is best, what is found at it, what is confused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from maskwell.metrics.coco_map import CocoMap, Figures
from maskwell.ops import boxes as box_ops

IOU = 0.5
"""Overlap from which a detection has found an object."""

BACKGROUND = "background"
"""Last row (detections of nothing) and last column (objects that were missed) of the confusion."""

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Image:
    """Detections and objects of one image.

    ``boxes`` [K, 4] and ``true_boxes`` [N, 4] xyxy in the same pixels; ``scores`` [K]; ``labels`` [K] and
    ``true_labels`` [N]; ``crowd`` bool [N]: objects that may be found or not.
    """

    boxes: Floats
    scores: Floats
    labels: Ints
    true_boxes: Floats
    true_labels: Ints
    crowd: npt.NDArray[np.bool_]

    def overlaps(self) -> Floats:
        """IoU [K, N]; with a crowd, the share of the detection that lies in it, as COCO has it."""
        found, true = torch.from_numpy(self.boxes), torch.from_numpy(self.true_boxes)
        pairs = box_ops.pairwise(found, true)
        values: Floats = box_ops.iou(*pairs).numpy().copy()
        if self.crowd.any():
            low, high = torch.maximum(pairs[0], pairs[1])[..., :2], torch.minimum(*pairs)[..., 2:]
            inside = (high - low).clamp(min=0).prod(-1) / box_ops.area(found)[:, None].clamp(min=1e-9)
            values[:, self.crowd] = inside.numpy()[:, self.crowd]
        return values


def hits(image: Image) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Per detection: whether it found an object of its class, and whether it counts at all."""
    overlaps = image.overlaps() * (image.labels[:, None] == image.true_labels[None])
    found, counts = paired(overlaps, image.scores, image.crowd)
    return found > 0, counts


def paired(
    overlaps: Floats, scores: Floats, crowd: npt.NDArray[np.bool_]
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Per detection: its IoU with the object that it found, 0 where it found none, and whether it counts.

    Better scores choose first, each the object that it overlaps most (COCO's rule at one IoU). What a
    lower score does changes nothing for a higher one, so the result holds for every score threshold.

    Args:
        overlaps: IoU [K, N], 0 where a detection and an object may not be paired.
        scores: [K].
        crowd: bool [N]; what overlaps only a crowd neither counts for nor against.
    """
    found, counts = np.zeros(len(scores), np.float32), np.ones(len(scores), bool)
    free: npt.NDArray[np.bool_] = ~crowd
    near: npt.NDArray[np.bool_] = overlaps.max(1, initial=0) >= IOU
    for index in np.argsort(-scores, kind="stable"):
        if not near[index]:
            continue
        open_ = np.where(free, overlaps[index], 0)
        if open_.max() >= IOU:
            chosen = int(open_.argmax())
            found[index], free[chosen] = open_[chosen], False
        elif (overlaps[index, crowd] >= IOU).any():
            counts[index] = False
    return found, counts


def best_threshold(scores: Floats, hit: npt.NDArray[np.bool_], objects: int) -> float | None:
    """The score threshold with the best F1 over all detections; None where nothing is ever right.

    Args:
        scores: [K] of the detections that count.
        hit: bool [K], whether each found an object.
        objects: how many there are.
    """
    if not hit.any():
        return None
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    f1 = 2 * hit[order].cumsum() / (np.arange(1, len(order) + 1) + objects)
    last = np.append(ranked[1:] < ranked[:-1], True)  # equal scores stand or fall together
    best = int(np.where(last, f1, 0).argmax())
    lower = float(ranked[best + 1]) if best + 1 < len(ranked) else 0.0
    return (float(ranked[best]) + lower) / 2


def confusion(image: Image, threshold: float, classes: int) -> Ints:
    """Objects (rows) by what they were taken for (columns) at ``threshold``, int64 [C + 1, C + 1].

    Pairs are made by overlap, whatever the classes; the last row and column stand for background.
    """
    kept = image.scores >= threshold
    overlaps, scores, labels = image.overlaps()[kept], image.scores[kept], image.labels[kept]
    matrix: Ints = np.zeros((classes + 1, classes + 1), np.int64)
    detection, truth = np.nonzero((overlaps >= IOU) & ~image.crowd[None])
    taken, found = np.zeros(len(labels), bool), image.crowd.copy()
    for pair in np.lexsort((-scores[detection], -overlaps[detection, truth])):
        index, true = detection[pair], truth[pair]
        if not taken[index] and not found[true]:
            taken[index] = found[true] = True
            matrix[image.true_labels[true], labels[index]] += 1
    ignored = (overlaps[:, image.crowd] >= IOU).any(1)
    np.add.at(matrix[classes], labels[~taken & ~ignored], 1)
    np.add.at(matrix[:, classes], image.true_labels[~found], 1)
    return matrix


class DetectionScores(CocoMap):
    """:class:`CocoMap`, and what the model does at one score threshold.

    Adds ``threshold`` (that of the best F1, or the one given), ``f1``, ``precision`` and ``recall`` at it
    over all classes at IoU 0.5, ``detections_per_image`` at it, and ``max_confidence``, the best score of
    an image on average.

    Attributes:
        given: the threshold to use; None chooses the best.
        confusion: int64 [C + 1, C + 1] over all ranks, as of the last :meth:`compute`; None where that had
            no threshold.
    """

    def __init__(
        self, categories: Sequence[str], max_dets: Sequence[int] = (1, 10, 100), **kwargs: Any
    ) -> None:
        super().__init__(categories, max_dets=max_dets, **kwargs)
        self.given: float | None = None
        self.confusion: Tensor | None = None

    def compute(self) -> Figures:
        """Figures over all ranks, float32 scalars."""
        self.confusion = None
        images = list(self._images())
        found = [hits(image) for image in images]
        kept = [image.scores[counts] for image, (_, counts) in zip(images, found, strict=True)]
        scores = np.concatenate([np.zeros(0, np.float32), *kept])
        hit = np.concatenate([np.zeros(0, bool), *(hit[counts] for hit, counts in found)])
        objects = sum(int((~image.crowd).sum()) for image in images)
        figures = super().compute()
        threshold = best_threshold(scores, hit, objects) if self.given is None else self.given
        if threshold is not None and images:
            figures |= self._at(threshold, images, scores, hit, objects)
        return figures

    def _at(
        self, threshold: float, images: list[Image], scores: Floats, hit: npt.NDArray[np.bool_], objects: int
    ) -> Figures:
        classes = len(self.categories)
        matrices = [confusion(image, threshold, classes) for image in images]
        self.confusion = torch.from_numpy(np.sum(matrices, axis=0))
        kept = scores >= threshold
        right, said = int(hit[kept].sum()), int(kept.sum())
        figures = {
            "threshold": threshold,
            "f1": 2 * right / max(1, said + objects),
            "precision": right / max(1, said),
            "recall": right / max(1, objects),
            "detections_per_image": sum(int((i.scores >= threshold).sum()) for i in images) / len(images),
            "max_confidence": sum(float(i.scores.max(initial=0)) for i in images) / len(images),
        }
        return {name: torch.tensor(value, dtype=torch.float32) for name, value in figures.items()}

    def _images(self) -> Iterator[Image]:
        state = self.arrays()
        detections = np.cumsum(state["image_rows"][:, 2])[:-1]
        objects = np.cumsum(state["image_rows"][:, 3])[:-1]
        parts = (
            *(np.split(state[name], detections) for name in ("detection_rows", "detection_values")),
            *(np.split(state[name], objects) for name in ("object_rows", "object_values")),
        )
        if not len(state["image_rows"]):
            return
        for rows, values, true_rows, true_values in zip(*parts, strict=True):
            yield Image(
                np.ascontiguousarray(values[:, :4]),
                values[:, 4],
                rows[:, 0],
                np.ascontiguousarray(true_values[:, :4]),
                true_rows[:, 0],
                true_rows[:, 2].astype(bool),
            )
