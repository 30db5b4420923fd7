"""How good the prediction of one image is, as one number, whatever the task."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from maskwell.data.sample import IGNORE, Prediction, Truth
from maskwell.metrics.detection import Floats, Image, paired
from maskwell.metrics.points import PointScores
from maskwell.metrics.segmentation import class_ious, confusion_matrix
from maskwell.ops import masks


@dataclass(frozen=True)
class Quality:
    """``score`` in [0, 1] and what it is; how many ``objects`` there are, and how many were ``found``.

    ``pq``: panoptic quality at one score threshold, of masks where both sides have them, else of boxes;
    ``f1``: of marks within 9.6 px of an image whose longer side has 384; ``miou``: over the classes that
    the image or its prediction has. An image without anything, of which nothing is said, has 1.
    """

    score: float
    name: str
    objects: int
    found: int


@dataclass(frozen=True)
class Pairs:
    """The detections of one image beside its objects, best score first matched.

    ``iou`` float32 [K], 0 where a detection found nothing; ``counts`` bool [K]; ``scores`` [K] and
    ``labels`` [K]; ``true_labels`` of the objects that are no crowds.
    """

    iou: Floats
    counts: npt.NDArray[np.bool_]
    scores: Floats
    labels: npt.NDArray[np.int64]
    true_labels: npt.NDArray[np.int64]


def pair(prediction: Prediction, truth: Truth) -> Pairs:
    """Detections and objects of one image, matched class by class; negative labels are left out."""
    keep = prediction.labels >= 0
    image = Image(
        prediction.boxes[keep].cpu().float().numpy(),
        prediction.scores[keep].cpu().float().numpy(),
        prediction.labels[keep].cpu().numpy(),
        truth.boxes.float().numpy(),
        truth.labels.numpy(),
        truth.iscrowd.numpy(),
    )
    overlaps = image.overlaps()
    if prediction.rles is not None and truth.rles is not None:
        chosen = [rle for rle, kept in zip(prediction.rles, keep.tolist(), strict=True) if kept]
        shape = (len(chosen), len(truth.rles))
        found = masks.iou(chosen, truth.rles, truth.iscrowd.tolist()).numpy().reshape(shape)
        overlaps = found.astype(np.float32)
    overlaps = overlaps * (image.labels[:, None] == image.true_labels[None])
    iou, counts = paired(overlaps, image.scores, image.crowd)
    return Pairs(iou, counts, image.scores, image.labels, image.true_labels[~image.crowd])


def quality(prediction: Prediction, truth: Truth, threshold: float) -> Quality:
    """Score one image.

    Args:
        prediction: of a semantic, point or object task, in the window frame.
        truth: in the same frame.
        threshold: score from which a detection counts; marks and class maps have none.
    """
    if truth.semantic is not None and prediction.semantic is not None:
        return _mean_iou(prediction.semantic.cpu(), truth.semantic)
    if prediction.points is not None and truth.points is not None:
        scores = PointScores()
        scores.update([prediction], [truth])
        score = float(scores.compute()["f1_9_6"])
        return Quality(score, "f1", len(truth.points), len(prediction.points))
    return _panoptic(pair(prediction, truth), threshold)


def _mean_iou(predicted: Tensor, truth: Tensor) -> Quality:
    labels = torch.cat([predicted.flatten(), truth[truth != IGNORE]])
    matrix = confusion_matrix(predicted, truth, int(labels.max()) + 1)
    known = class_ious(matrix)
    known = known[~known.isnan()]
    return Quality(float(known.mean()) if len(known) else 1.0, "miou", 0, 0)


def _panoptic(pairs: Pairs, threshold: float) -> Quality:
    kept = (pairs.scores >= threshold) & pairs.counts
    iou = pairs.iou[kept]
    objects, found, hits = len(pairs.true_labels), int(kept.sum()), int((iou > 0).sum())
    weight = hits + (found - hits) / 2 + (objects - hits) / 2
    return Quality(float(iou.sum()) / weight if weight else 1.0, "pq", objects, found)
