"""From network outputs to predictions: scores, boxes and run-length masks in the window frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from maskwell.data.sample import Batch, Prediction, Prompt, Sample
from maskwell.models.sam_lora.net import PromptOutputs
from maskwell.ops import boxes as box_ops
from maskwell.ops import masks as mask_ops
from maskwell.ops.suppression import greedy

Row = tuple[int, Prompt]
"""Index of the image in its batch, and what is asked about it."""


@dataclass(frozen=True)
class Detection:
    """What is kept of an answer.

    ``min_score`` of a detection (low, so that mAP sees the whole curve); ``max_per_prompt``;
    ``mask_threshold`` probability above which a pixel belongs to the object; ``nms``: of two answers to
    one prompt that overlap by more than this IoU the better stays (None: both; a fully trained SAM 3
    names an object once, the small base often twice); ``masks``: False answers with boxes only, for
    models trained on data without masks.
    """

    min_score: float = 0.01
    max_per_prompt: int = 100
    mask_threshold: float = 0.5
    nms: float | None = 0.5
    masks: bool = True


@dataclass(frozen=True)
class Answers:
    """The answers to the rows of one batch; computed when asked for and kept."""

    rows: Sequence[Row]
    outputs: PromptOutputs
    batch: Batch
    detection: Detection

    def __call__(self) -> list[Prediction]:
        """One prediction per sample: all its prompts' detections together, best first."""
        return [
            _merge(sample, answers)
            for sample, answers in zip(self.batch.samples, self.by_prompt, strict=True)
        ]

    @cached_property
    def by_prompt(self) -> list[list[tuple[Prompt, Prediction]]]:
        """Per sample, each prompt with its own prediction."""
        per_sample: list[list[tuple[Prompt, Prediction]]] = [[] for _ in self.batch.samples]
        scores = self.outputs.scores()
        for row, (image, prompt) in enumerate(self.rows):
            prediction = self._answer(row, scores[row], self.batch.samples[image], prompt)
            per_sample[image].append((prompt, prediction))
        return per_sample

    def _answer(self, row: int, scores: Tensor, sample: Sample, prompt: Prompt) -> Prediction:
        count = min(self.detection.max_per_prompt, len(scores))
        best, query = scores.topk(count)
        kept = best >= self.detection.min_score
        best, query = best[kept], query[kept]
        size = sample.geometry.window_size
        rles = mask_ops.encode(self._masks(row, query, size)) if self.detection.masks else None
        boxes = sample.geometry.boxes_to_window(self.outputs.boxes[-1, row, query])
        if self.detection.nms is not None:
            overlaps = (
                box_ops.iou(*box_ops.pairwise(boxes, boxes)) if rles is None else mask_ops.iou(rles, rles)
            )
            single = greedy(overlaps, self.detection.nms)
            best, boxes = best[single], boxes[single]
            rles = None if rles is None else [rles[i] for i in single.tolist()]
        present = float(self.outputs.presence[-1, row].sigmoid())
        return Prediction(
            size=size,
            boxes=boxes.cpu(),
            scores=best.cpu(),
            labels=torch.full((len(best),), prompt.label, dtype=torch.int64),
            rles=rles,
            present={prompt.label: present},
        )

    def _masks(self, row: int, query: Tensor, size: tuple[int, int]) -> Tensor:
        """Boolean masks [K, height, width] of the window: logits are resized, then thresholded."""
        logits = self.outputs.masks[row, query]
        if not len(query):
            return torch.zeros(0, *size, dtype=torch.bool)
        resized = F.interpolate(logits[:, None], size, mode="bilinear", align_corners=False)[:, 0]
        return resized.sigmoid() > self.detection.mask_threshold


def _merge(sample: Sample, answers: Sequence[tuple[Prompt, Prediction]]) -> Prediction:
    predictions = [prediction for _, prediction in answers]
    scores = torch.cat([p.scores for p in predictions])
    order = scores.argsort(descending=True, stable=True)
    rles = [rle for p in predictions for rle in p.rles or []]
    has_masks = all(p.rles is not None for p in predictions)
    return Prediction(
        size=sample.geometry.window_size,
        boxes=torch.cat([p.boxes for p in predictions])[order],
        scores=scores[order],
        labels=torch.cat([p.labels for p in predictions])[order],
        rles=[rles[i] for i in order.tolist()] if has_masks else None,
        present={label: value for p in predictions for label, value in (p.present or {}).items()},
    )
