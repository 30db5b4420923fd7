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


class StopChoice(Metric):
    """Which probability of "no more" should end the marking: the one with the best F1.

    Predictions are those of the latest stop; what an earlier one leaves of them is their beginning.

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
        """The stop, float32; of equal ones that with the smaller count error, then that nearest to 0.5."""
        scores = f1(self.hits, self.marked, self.objects.expand(len(STOPS)))
        ranked = zip(scores.tolist(), (-self.error).tolist(), STOPS, strict=True)
        return torch.tensor(max(ranked, key=lambda row: (row[0], row[1], -abs(row[2] - 0.5)))[2])
