"""All figures of a task that finds objects, over whole images and whatever was asked about them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from maskwell.data.sample import Prediction, Prompt, Truth
from maskwell.metrics.coco_map import PHRASES, CocoMap
from maskwell.metrics.concept import ConceptF1, DetectionStats, named_by, prompt_results


class PromptedScores:
    """COCO mAP, concept F1 and plain statistics together.

    Args:
        categories: names by label.
        max_dets: detections per image and category that COCO mAP counts.
    """

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
            answer = answer_to(prompt, prediction, self.phrase_label)
            named = named_by(prompt, truth, self.phrase_label)
            assert named is not None
            self.concept.update(prompt_results(answer, named, [self.phrase_label]))
            self.stats.update([answer])
            self.coco.update([answer], [named])

    def compute(self) -> dict[str, float]:
        """What is defined of them, by name."""
        measured = [metric for metric in (self.coco, self.concept, self.stats) if metric.update_called]
        figures = {name: float(value) for metric in measured for name, value in metric.compute().items()}
        return {name: value for name, value in figures.items() if not math.isnan(value)}


def answer_to(prompt: Prompt, prediction: Prediction, label: int = 0) -> Prediction:
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


def asked(prediction: Prediction, truth: Truth, prompts: Sequence[Prompt]) -> list[tuple[Prediction, Truth]]:
    """What is to be matched: the image at once, or phrase by phrase where free phrases name objects."""
    free = [prompt for prompt in prompts if prompt.label < 0 and prompt.objects]
    if not free:
        return [(prediction, truth)]
    named = [(answer_to(prompt, prediction), named_by(prompt, truth)) for prompt in free]
    return [(answer, objects) for answer, objects in named if objects is not None]
