"""From the last layer to detections in the window frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from maskwell.data.sample import Prediction, Sample
from maskwell.ops import boxes as box_ops
from maskwell.ops.suppression import greedy


@dataclass(frozen=True)
class Detection:
    """What is kept of an answer.

    ``min_score`` of a detection (low, so that mAP sees the whole curve); ``max_per_image``; ``nms``: of
    two detections of a class that overlap by more than this IoU the better stays (None: both, as in all
    DETR kinds, whose matching teaches them to name an object once).
    """

    min_score: float = 0.01
    max_per_image: int = 300
    nms: float | None = None


def predictions(
    logits: Tensor, boxes: Tensor, samples: Sequence[Sample], detection: Detection, *, softmax: bool
) -> list[Prediction]:
    """One prediction per sample.

    Args:
        logits: [B, Q, C], with ``softmax`` the last class is "nothing".
        boxes: [B, Q, 4] xyxy in [0, 1] of the network input.
        samples: B in all.
    """
    scores = logits.float().softmax(-1)[..., :-1] if softmax else logits.float().sigmoid()
    return [
        _prediction(scores[place], boxes[place].float(), sample, detection)
        for place, sample in enumerate(samples)
    ]


def _prediction(scores: Tensor, boxes: Tensor, sample: Sample, detection: Detection) -> Prediction:
    count = min(detection.max_per_image, scores.numel())
    best, place = scores.flatten().topk(
        count
    )  # a query may answer for two classes, as in evaluation elsewhere
    kept = best >= detection.min_score
    best, place = best[kept], place[kept]
    query, label = place // scores.shape[1], place % scores.shape[1]
    found = sample.geometry.boxes_to_window(boxes[query])
    if detection.nms is not None:
        same = label[:, None] == label[None]
        single = greedy(box_ops.iou(*box_ops.pairwise(found, found)) * same, detection.nms)
        best, label, found = best[single], label[single], found[single]
    return Prediction(
        size=sample.geometry.window_size,
        boxes=found.cpu(),
        scores=best.cpu(),
        labels=label.cpu().to(torch.int64),
    )
