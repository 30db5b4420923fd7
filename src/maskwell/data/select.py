"""Which images to label next: those of which a model is unsure, or which it answers otherwise when mirrored.

python -m maskwell.data.select runs/detr/2026-11-21_10-00-00 unlabelled/ --count 20 --output to_label/

Works for every family. The output folder holds the images, pre-labels to be corrected
(annotations/instances_default.json, COCO, for CVAT and Label Studio) and select.csv with every image's score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import rankdata
from torch import Tensor

from maskwell.data.sample import Prediction, Truth
from maskwell.ops import masks as mask_ops

Floats = npt.NDArray[np.float64]
HEARD = 0.1
"""Detections below this score say nothing about how sure a model is."""


@dataclass(frozen=True)
class Judged:
    """An image by name: ``uncertainty`` and ``disagreement`` in [0, 1], and how many objects were found."""

    name: str
    uncertainty: float
    disagreement: float
    found: int


def uncertainty(prediction: Prediction) -> float:
    """How unsure a model is of what it says, in [0, 1].

    The mean over pixels of one minus the probability of their class; else the mean binary entropy of the
    scores of objects or marks, and of the verdict that no more are left.
    """
    if prediction.confidence is not None:
        return float(1 - prediction.confidence.mean())
    scores = prediction.scores.double()
    if prediction.points is None:
        scores = scores[scores >= HEARD] if bool((scores >= HEARD).any()) else scores[:1]
    if prediction.done is not None:
        scores = torch.cat([scores, scores.new_tensor([prediction.done])])
    return float(_entropy(scores).mean()) if len(scores) else 0.0


def _entropy(probabilities: Tensor) -> Tensor:
    """In bits."""
    p = probabilities.clamp(1e-9, 1 - 1e-9)
    return -(p * p.log2() + (1 - p) * (1 - p).log2())


def mirrored(prediction: Prediction) -> Prediction:
    """The prediction of a mirrored image, back in the frame of the image itself."""
    width = prediction.size[1]
    boxes = prediction.boxes.clone()
    boxes[:, 0], boxes[:, 2] = width - prediction.boxes[:, 2], width - prediction.boxes[:, 0]
    rles = prediction.rles
    if rles is not None:
        rles = mask_ops.encode(mask_ops.decode(rles, prediction.size).flip(-1)) if rles else []
    points = prediction.points
    if points is not None:
        points = torch.stack([width - points[:, 0], points[:, 1]], 1)
    return replace(
        prediction,
        boxes=boxes,
        rles=rles,
        points=points,
        semantic=None if prediction.semantic is None else prediction.semantic.flip(-1),
        confidence=None if prediction.confidence is None else prediction.confidence.flip(-1),
    )


def as_truth(prediction: Prediction, threshold: float) -> Truth:
    """What a prediction says from ``threshold`` on, to hold another one against."""
    kept = (prediction.scores >= threshold).nonzero().flatten()
    rles = None if prediction.rles is None else [prediction.rles[i] for i in kept.tolist()]
    boxes = prediction.boxes[kept]
    return Truth(
        size=prediction.size,
        boxes=boxes,
        labels=prediction.labels[kept],
        iscrowd=torch.zeros(len(kept), dtype=torch.bool),
        area=(boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1),
        rles=rles,
        semantic=prediction.semantic,
        points=None if prediction.points is None else prediction.points[kept],
    )


def scores(judged: Sequence[Judged]) -> Floats:
    """One score per image in [0, 1]: the mean of its ranks in uncertainty and in disagreement."""
    if len(judged) < 2:
        return np.ones(len(judged))
    ranks = [rankdata([getattr(one, name) for one in judged]) for name in ("uncertainty", "disagreement")]
    mean: Floats = (np.mean(ranks, axis=0) - 1) / (len(judged) - 1)
    return mean


def choose(score: Floats, alike: Sequence[tuple[int, int]], count: int) -> list[int]:
    """Indices of the ``count`` highest scores, of images that show nearly the same the highest alone.

    Args:
        score: one per image; equal ones go by their index.
        alike: pairs of images that show nearly the same.
        count: fewer come back where there are fewer images that differ.
    """
    near: dict[int, set[int]] = {}
    for first, second in alike:
        near.setdefault(first, set()).add(second)
        near.setdefault(second, set()).add(first)
    chosen: list[int] = []
    for index in sorted(range(len(score)), key=lambda i: (-score[i], i)):
        if len(chosen) < count and not near.get(index, set()) & set(chosen):
            chosen.append(index)
    return chosen


if __name__ == "__main__":
    from maskwell.selection import main  # the command loads models, which this module does not know

    main()
