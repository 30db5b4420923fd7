"""Concept metrics of promptable segmentation: pmF1, IL_MCC, cgF1, and plain detection statistics.

Defined in the SAM 3 paper (arXiv:2511.16719, section E.3) per (image, phrase); the evaluation only
means something where phrases are put that are *not* in the image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchmetrics import Metric

from maskwell.data.sample import Prediction, Prompt, Truth
from maskwell.ops import boxes, masks
from maskwell.ops.masks import Rle

IOU_THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))
"""Overlaps at which a match counts; F1 is averaged over them."""


@dataclass(frozen=True)
class PromptResult:
    """What a model found for one phrase on one image, beside what the phrase names there.

    ``scores`` [K]; ``boxes`` [K, 4] and ``true_boxes`` [N, 4] xyxy in the same pixels; ``rles`` and
    ``true_rles`` the masks, None where there are boxes only. No true object makes it a negative.
    """

    scores: Tensor
    boxes: Tensor
    true_boxes: Tensor
    rles: Sequence[Rle] | None = None
    true_rles: Sequence[Rle] | None = None


def prompt_results(prediction: Prediction, truth: Truth, labels: Iterable[int]) -> list[PromptResult]:
    """One result for every label that was put to the model as a phrase on this image.

    ``labels``: category indices, and -1, -2, ... for words that are no category; detections carry
    the label of their phrase. A phrase that names only a crowd there is left out: neither finding
    nor missing it can be judged.
    """
    results = []
    for label in labels:
        found = (prediction.labels == label).nonzero().flatten().tolist()
        named = truth.labels == label
        true = (named & ~truth.iscrowd).nonzero().flatten().tolist()
        if named.any() and not true:
            continue
        results.append(
            PromptResult(
                prediction.scores[found],
                prediction.boxes[found],
                truth.boxes[true],
                None if prediction.rles is None else [prediction.rles[i] for i in found],
                None if truth.rles is None else [truth.rles[i] for i in true],
            )
        )
    return results


def named_by(prompt: Prompt, truth: Truth, label: int = 0) -> Truth | None:
    """The part of a truth that one prompt names, as objects of category ``label``.

    A category's prompt names the objects of its label; a free phrase names ``prompt.objects``. None
    where only a crowd answers the prompt: neither finding nor missing it can be judged.
    """
    if prompt.label >= 0:
        named = truth.labels == prompt.label
        index = (named & ~truth.iscrowd).nonzero()[:, 0]
        if named.any() and not len(index):
            return None
    else:
        index = torch.tensor(prompt.objects, dtype=torch.int64)
    return Truth(
        size=truth.size,
        boxes=truth.boxes[index],
        labels=torch.full((len(index),), label, dtype=torch.int64),
        iscrowd=truth.iscrowd[index],
        area=truth.area[index],
        rles=None if truth.rles is None else [truth.rles[i] for i in index.tolist()],
    )


def match_counts(result: PromptResult, threshold: float) -> Tensor:
    """(true positives, false positives, false negatives) at each overlap, int64 [3, 10].

    Detections with a score of at least ``threshold`` are matched one to one with the objects so
    that the sum of overlaps is largest (masks where both sides have them, else boxes).
    """
    kept = (result.scores >= threshold).nonzero().flatten().tolist()
    if result.rles is not None and result.true_rles is not None:
        overlaps = masks.iou([result.rles[i] for i in kept], result.true_rles)
    else:
        overlaps = boxes.iou(
            *boxes.pairwise(result.boxes[kept].cpu().double(), result.true_boxes.cpu().double())
        )
    rows, columns = linear_sum_assignment(overlaps.numpy(), maximize=True)
    matched = overlaps[torch.from_numpy(rows), torch.from_numpy(columns)]
    hits = (matched.unsqueeze(1) >= torch.tensor(IOU_THRESHOLDS, dtype=torch.float64)).sum(0)
    return torch.stack([hits, len(kept) - hits, len(result.true_boxes) - hits])


class ConceptF1(Metric):
    """pmF1, IL_MCC and cgF1 as fractions.

    ``pmf1``: micro F1 of the objects over the phrases that are present, averaged over IoU .50:.05:.95.
    ``il_mcc``: Matthews correlation of "anything found?" with "phrase present?".
    ``cgf1``: their product. ``il_mcc`` and ``cgf1`` need phrases of both kinds and ``pmf1`` needs a
    present one; what is undefined is left out and not 0.

    Args:
        threshold: score from which a detection counts.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True
    matches: Tensor
    answers: Tensor

    def __init__(self, threshold: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = threshold
        counts = torch.zeros(3, len(IOU_THRESHOLDS), dtype=torch.int64)
        self.add_state("matches", default=counts, dist_reduce_fx="sum")
        # answers[present, found]: phrases by whether they are in the image and whether anything was found
        self.add_state("answers", default=torch.zeros(2, 2, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, results: Sequence[PromptResult]) -> None:
        """Add phrases; see :func:`prompt_results`."""
        for result in results:
            present = int(len(result.true_boxes) > 0)
            found = int((result.scores >= self.threshold).any())
            self.answers[present, found] += 1
            if present:
                self.matches += match_counts(result, self.threshold).to(self.matches.device)

    def compute(self) -> dict[str, Tensor]:
        """Figures over all ranks, float32 scalars: ``pmf1``, ``il_mcc``, ``cgf1`` where defined."""
        negatives, positives = self.answers.sum(1).tolist()
        figures: dict[str, Tensor] = {}
        if positives:
            hits, false_positives, misses = self.matches.cpu().double()
            figures["pmf1"] = (2 * hits / (2 * hits + false_positives + misses)).mean().float()
        if positives and negatives:
            figures["il_mcc"] = matthews(self.answers).float()
            figures["cgf1"] = figures["pmf1"] * figures["il_mcc"]
        return figures


def matthews(confusion: Tensor) -> Tensor:
    """Matthews correlation coefficient of a 2x2 table [truth, answer]; 0 where one answer is never given."""
    table = confusion.cpu().double()
    scale = (table.sum(0).prod() * table.sum(1).prod()).sqrt().clamp(min=1.0)
    return (table[1, 1] * table[0, 0] - table[0, 1] * table[1, 0]) / scale


class DetectionStats(Metric):
    """How much a model says, whether right or wrong.

    ``detections_per_image``: detections of categories with a score of at least ``threshold``;
    ``max_confidence``: the best score of an image, averaged over images (0 for one without any).
    """

    full_state_update = False
    is_differentiable = False
    detections: Tensor
    confidence: Tensor
    images: Tensor

    def __init__(self, threshold: float = 0.3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = threshold
        self.add_state("detections", default=torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("confidence", default=torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("images", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, predictions: Sequence[Prediction]) -> None:
        """Add images; detections with a negative label (no category) do not count."""
        for prediction in predictions:
            scores = prediction.scores[prediction.labels >= 0]
            self.detections += (scores >= self.threshold).sum()
            self.confidence += scores.max() if len(scores) else 0.0
        self.images += len(predictions)

    def compute(self) -> dict[str, Tensor]:
        """Means over the images of all ranks; nothing where there was no image."""
        if not self.images:
            return {}
        return {
            "detections_per_image": self.detections / self.images,
            "max_confidence": self.confidence / self.images,
        }
