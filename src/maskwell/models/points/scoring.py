"""Figures of an evaluation: rollouts against the truth, the next mark after true ones, and where to stop."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from maskwell.data.sample import Geometry, MarkedState, Prediction, Sample, Truth
from maskwell.metrics.point_stop import StopChoice
from maskwell.metrics.points import PointScores, TeacherForced
from maskwell.models.points.objective import Look
from maskwell.models.points.rollout import Rollout
from maskwell.models.points.states import State


class Scoring(nn.Module):
    """Metrics of the task.

    Args:
        image_size: longer side of the network input, px.
    """

    def __init__(self, image_size: int) -> None:
        super().__init__()
        self.scores = PointScores()
        self.forced = TeacherForced()
        self.forced_hits = MeanMetric()
        self.stops = StopChoice(self.scores.radii[0], self.scores.reference)
        self.radius = self.scores.radii[0] * image_size / self.scores.reference
        """The smallest radius of the scores, in px of the network input."""
        self._awaiting: list[tuple[Geometry, Truth, Rollout]] = []

    def update(self, samples: Sequence[Sample], made: Sequence[Rollout], *, choose: bool) -> None:
        """Add the rollouts of images; to ``choose`` the stop they go on until the latest one."""
        for sample, rolled in zip(samples, made, strict=True):
            if sample.truth is None:
                raise ValueError(f"{sample.file_name} has no truth to score against.")
            found = [prediction(sample.geometry, rolled)]
            if choose:
                self.stops.update(found, [sample.truth])
                self._awaiting.append((sample.geometry, sample.truth, rolled))
            else:
                self.scores.update(found, [sample.truth])

    def update_forced(self, states: Sequence[State], look: Look) -> None:
        """Add what comes next after true marks."""
        marked = torch.tensor([state.marked for state in states])
        finished = torch.tensor([state.finished for state in states])
        self.forced.update(marked, look.error.cpu(), look.done.cpu(), finished)
        error = look.error[look.error.isfinite()]
        if len(error):
            self.forced_hits.update((error <= self.radius).float())

    def choose(self) -> Tensor:
        """The stop with the best F1, float32, at which rollouts that were kept for it are scored now."""
        stop = self.stops.compute()
        for place, truth, rolled in self._awaiting:
            self.scores.update([prediction(place, rolled.until(float(stop)))], [truth])
        return stop

    def compute(self) -> dict[str, Tensor]:
        """All figures by name, and reset.

        ``precision_9_6_gap``: next marks after true ones, minus rollouts.
        """
        figures: dict[str, Tensor] = dict(self.scores.compute())
        forced = self.forced.compute()
        if forced and "precision_9_6" in figures:
            forced["precision_9_6_gap"] = self.forced_hits.compute() - figures["precision_9_6"]
        self.reset()
        return figures | forced

    def reset(self) -> None:
        """Forget all images."""
        self._awaiting = []
        for metric in (self.stops, self.scores, self.forced, self.forced_hits):
            metric.reset()


def prediction(place: Geometry, made: Rollout) -> Prediction:
    """A rollout in window pixels."""
    return Prediction.of_points(
        place.window_size,
        place.points_to_window(made.points),
        made.scores,
        stopped=made.stopped,
        done=made.done,
    )


def examples(samples: Sequence[Sample], states: Sequence[State], look: Look) -> list[MarkedState]:
    """The first state of each sample and what comes next in it, in window pixels."""
    found = []
    for row, sample in enumerate(samples):
        place = next(i for i, state in enumerate(states) if state.image == row)
        state, to_window = states[place], sample.geometry.points_to_window
        found.append(
            MarkedState(
                marks=to_window(state.marks),
                predicted=to_window(look.point[place].detach().float().cpu()),
                done=float(look.done[place]),
                target=None if state.finished else to_window(look.target[place].float().cpu()),
                finished=state.finished,
            )
        )
    return found
