"""At which verdict the marking of points should stop, as validation images say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from maskwell.data.sample import Prediction, Truth
from maskwell.metrics.points import both_points, crowded, f1
from maskwell.ops.points import match_points

STOPS = tuple(step / 20 for step in range(1, 20))
"""Probabilities of "no more" between which :class:`StopChoice` chooses."""

AS_GOOD = 0.005
"""F1 that is lower by no more is as good: over many stops it hardly changes, and the count does."""


class StopChoice(Metric):
    """Which probability of "no more" should end the marking.

    Of those whose F1 is as good as the best, the one that counts best. Predictions are those of the
    latest stop; what an earlier one leaves of them is their beginning.

    Args:
        radius: of F1, in px of an image whose longer side has ``reference`` px.
        reference: see there.
    """

    full_state_update = False
    is_differentiable = False
    hits: Tensor
    marked: Tensor
    error: Tensor
    objects: Tensor

    def __init__(self, radius: float = 9.6, reference: float = 384.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.radius, self.reference = radius, reference
        for name in ("hits", "marked", "error"):
            default = torch.zeros(len(STOPS), dtype=torch.int64)
            self.add_state(name, default=default, dist_reduce_fx="sum")
        self.add_state("objects", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predictions: Sequence[Prediction], truths: Sequence[Truth]) -> None:
        """Add images, in the window frame; marks inside a crowd that match no object count nowhere."""
        for prediction, truth in zip(predictions, truths, strict=True):
            points, objects = both_points(prediction, truth)
            radius = self.radius * max(truth.size) / self.reference
            outside = ~crowded(points, objects, truth, radius)
            least = prediction.scores.detach().cpu().cummin(0).values
            at: dict[int, tuple[int, int]] = {}  # number of marks -> those outside crowds, hits
            for row, stop in enumerate(STOPS):
                length = int((1 - least <= stop).sum())
                if length not in at:
                    kept = points[:length][outside[:length]]
                    at[length] = len(kept), len(match_points(kept, objects, radius)[0])
                marked, hits = at[length]
                self.hits[row] += hits
                self.marked[row] += marked
                self.error[row] += abs(marked - len(objects))
            self.objects += len(objects)

    def compute(self) -> Tensor:
        """The stop, float32; of equally good ones that with the higher F1, then that nearest to 0.5."""
        scores = f1(self.hits, self.marked, self.objects.expand(len(STOPS))).tolist()
        ranked = [
            (error, -score, abs(stop - 0.5), stop)
            for error, score, stop in zip(self.error.tolist(), scores, STOPS, strict=True)
            if score >= max(scores) - AS_GOOD
        ]
        return torch.tensor(min(ranked)[-1])
