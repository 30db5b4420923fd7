"""Points: one object after another is marked, until the model says that no more are left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torchmetrics import MeanMetric

from maskwell.data.sample import Batch, InputSpec, MarkedState, Prediction, Sample
from maskwell.errors import UserError
from maskwell.metrics.points import PointScores, TeacherForced
from maskwell.models.base import BaseTask, Stage, StepOutput
from maskwell.models.points import net, rollout, states
from maskwell.models.points.heads import OneShotHead, PointerHead, Proposals, XYHead
from maskwell.models.points.loss import Distance
from maskwell.models.points.memory import Canvas, padded
from maskwell.models.points.net import STRIDE, EncoderSpec, Grid, Head
from maskwell.models.points.objective import Look, Objective
from maskwell.models.points.rollout import Rollout
from maskwell.models.points.states import ROW_HEIGHT, MarkNoise, Order, OwnMarks, Policy, State
from maskwell.ops.points import Mode, Sampling

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

NEVER = 2.0
"""A probability that is never reached."""
EXTRA = 3
"""Marks beyond the number of objects in rollouts of training, so that states with wrong marks occur."""


@dataclass
class PointOutput(StepOutput):
    """Also the states of the batch and what the model would mark next in each."""

    states: Sequence[State] = ()
    look: Look | None = None


class Points(BaseTask):
    """Trains a sequential pointer on images with points (box centres, centroids of masks).

    Args:
        encoder: architecture of the part that runs once per image.
        head: ``pointer`` (cells and "no more" in one softmax), ``xy`` (the field notes' three heads) or
            ``one_shot`` (the control, which marks nothing and judges all proposals at once).
        hidden: channels of the decoder.
        loss: distance of coordinates: ``huber``, ``funnel`` or ``mse``.
        threshold: of the distance, in coordinates of [-1, 1]; None: the head's own.
        spatial_weight: of the coordinates' loss; ``done_weight``: of that of "no more"; None: the head's.
        done_pos_weight: of finished states in the loss of "no more".
        order: which object comes next: ``reading``, ``nearest``, ``random`` or ``free``.
        sampling: of the number of marks: ``uniform``, ``balanced`` or ``mixed``.
        mode: which states occur and what is learnt: ``regression``, ``mixed`` or ``done``.
        states: states of an image that are decoded from one encoding.
        noise: of true marks in training.
        own_share: share of training states whose marks are the model's own.
        stop: probability of "no more", against the best object alone, above which an image is done.
        max_points: marks of an image, at most.
        min_distance: px of the network input between two marks.
        image_size: longer side of the network input, px.
        max_norm: bound of the gradient norm.
        seed: of fresh weights.
    """

    family = "points"
    monitor = "val/f1_9_6"
    pointwise = True

    def __init__(
        self,
        encoder: EncoderSpec | None = None,
        *,
        head: Head = "pointer",
        hidden: int = 64,
        loss: Distance = "huber",
        threshold: float | None = None,
        spatial_weight: float | None = None,
        done_weight: float | None = None,
        done_pos_weight: float = 1.0,
        order: Order = "random",
        sampling: Sampling = "mixed",
        mode: Mode = "mixed",
        states: int = 8,
        noise: MarkNoise | None = None,
        own_share: float = 0.0,
        stop: float = 0.5,
        max_points: int = 400,
        min_distance: float = 6.0,
        image_size: int = 384,
        max_norm: float = 20.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _check(stop, max_points, min_distance, image_size)
        self.head, self.stop, self.max_points, self.min_distance = head, stop, max_points, min_distance
        self.image_size, self.max_norm = image_size, max_norm
        self.policy = Policy(order, sampling, mode, states, noise or MarkNoise(), own_share)
        canvas = Canvas(
            places=head == "xy" or self.policy.sequential,
            last=self.policy.sequential,
            row_height=ROW_HEIGHT / STRIDE,
        )
        self.net = net.build(encoder or EncoderSpec(), head, canvas, hidden, seed)
        self.objective = Objective(
            head, self.policy, loss, threshold, spatial_weight, done_weight, done_pos_weight
        )
        self.input_spec = InputSpec("pad", image_size, IMAGENET_MEAN, IMAGENET_STD, 32, enlarge=True)

    def configure_metrics(self) -> None:
        """Scores of rollouts, and of the next mark after true ones."""
        self.scores = PointScores()
        self.forced = TeacherForced()
        self.forced_hits = MeanMetric()

    def step(self, batch: Batch, stage: Stage) -> PointOutput:
        """States of every image, decoded from one encoding; rollouts only where they are asked for."""
        truth = [_points(sample) for sample in batch.samples]
        scale = _scale(batch)
        grid = self.net.encode(batch.images, batch.pixel_mask)
        count = torch.tensor(float(sum(len(points) for points in truth)))
        predict = None if stage == "train" else lambda: self._predictions(batch, grid.detached())
        if stage != "train":
            self._check_cap(batch, truth)
        if self.head == "one_shot":
            return self._one_shot(grid, truth, scale, count, predict)
        drawn = self._draw(batch, grid, truth, scale, stage)
        marks, counts = padded([state.marks for state in drawn])
        image = torch.tensor([state.image for state in drawn])
        out = self.net.decode(grid, image.to(self.device), marks.to(self.device), counts.to(self.device))
        assert not isinstance(out, Proposals)
        total, parts, look = self.objective.states(out, drawn, scale)
        finished = torch.tensor([state.finished for state in drawn], device=look.done.device)
        facts = {
            "num_objects": count,
            "done_share": finished.float().mean(),
            "done_predicted": look.done.mean(),
            "prediction_spread": look.point.detach().std(0, unbiased=False).mean(),
            "pixel_error": look.error.nanmean() if not finished.all() else look.error.new_zeros(()),
        }
        return PointOutput(total, parts, facts, predict, states=drawn, look=look)

    def _one_shot(
        self, grid: Grid, truth: list[Tensor], scale: Tensor, count: Tensor, predict: Any
    ) -> PointOutput:
        out = self._proposals(grid)
        total, parts = self.objective.one_shot(out, [points.to(self.device) for points in truth], scale)
        return PointOutput(total, parts, {"num_objects": count}, predict)

    def _proposals(self, grid: Grid) -> Proposals:
        images = len(grid.keys)
        image = torch.arange(images, device=self.device)
        blank = torch.zeros(images, 0, 2, device=self.device)
        out = self.net.decode(grid, image, blank, torch.zeros_like(image))
        assert isinstance(out, Proposals)
        return out

    def _draw(
        self, batch: Batch, grid: Grid, truth: list[Tensor], scale: Tensor, stage: Stage
    ) -> list[State]:
        """In training from the global generator; in evaluation the same states at every time."""
        scale = scale.cpu()
        if stage == "train":
            own = self._own_marks(grid, truth, scale)
            drawn = [
                states.draw(self.policy, points, scale, row, own=own[row] if own else None)
                for row, points in enumerate(truth)
            ]
        else:
            policy = replace(self.policy, noise=MarkNoise())
            drawn = [
                states.draw(
                    policy,
                    points,
                    scale,
                    row,
                    generator=torch.Generator().manual_seed(batch.samples[row].image_id),
                )
                for row, points in enumerate(truth)
            ]
        return [state for of_image in drawn for state in of_image]

    def _own_marks(self, grid: Grid, truth: list[Tensor], scale: Tensor) -> list[OwnMarks]:
        if not self.policy.own_share:
            return []
        most = torch.tensor([min(len(points) + EXTRA, self.max_points) for points in truth])
        rolled = self._roll_out(grid.detached(), scale, most=most, stop=NEVER)
        radius = self._radius()
        return [
            OwnMarks.matched(made.points, points, scale, radius)
            for made, points in zip(rolled, truth, strict=True)
        ]

    def _roll_out(self, grid: Grid, scale: Tensor, *, most: int | Tensor, stop: float) -> list[Rollout]:
        return rollout.roll_out(
            self.net, grid, scale.to(self.device), most=most, stop=stop, min_distance=self.min_distance
        )

    def _radius(self) -> float:
        """The smallest radius of the scores, in px of the network input."""
        return self.scores.radii[0] * self.image_size / self.scores.reference

    def _check_cap(self, batch: Batch, truth: list[Tensor]) -> None:
        for sample, points in zip(batch.samples, truth, strict=True):
            if len(points) > self.max_points:
                rank_zero_warn(
                    f"{sample.file_name} has {len(points)} objects and only model.max_points="
                    f"{self.max_points} are marked: raise it, or use smaller windows (data.crop)."
                )

    def predict_batch(self, batch: Batch) -> list[Prediction]:
        """Rollouts of all images at once; points in the window frame, in the order they were marked."""
        return self._predictions(batch, self.net.encode(batch.images, batch.pixel_mask).detached())

    @torch.no_grad()
    def _predictions(self, batch: Batch, grid: Grid) -> list[Prediction]:
        scale = _scale(batch)
        if self.head == "one_shot":
            found = rollout.keep(self._proposals(grid), scale, self.min_distance)
        else:
            found = self._roll_out(grid, scale, most=self.max_points, stop=self.stop)
        return [
            Prediction.of_points(
                sample.geometry.window_size,
                sample.geometry.points_to_window(made.points),
                made.scores,
                stopped=made.stopped,
                done=made.done,
            )
            for sample, made in zip(batch.samples, found, strict=True)
        ]

    def update_metrics(self, batch: Batch, output: StepOutput, stage: Stage) -> None:
        """Rollouts against the truth; the next mark after true ones."""
        truths = [sample.truth for sample in batch.samples]
        self.scores.update(output.preds(), [truth for truth in truths if truth is not None])
        if not isinstance(output, PointOutput) or output.look is None:
            return
        look = output.look
        marked = torch.tensor([state.marked for state in output.states])
        finished = torch.tensor([state.finished for state in output.states])
        self.forced.update(marked, look.error.cpu(), look.done.cpu(), finished)
        error = look.error[look.error.isfinite()]
        if len(error):
            self.forced_hits.update((error <= self._radius()).float())

    def compute_metrics(self, stage: Stage) -> dict[str, Tensor]:
        """All metrics by name; ``precision_9_6_gap``: next marks after true ones, minus rollouts."""
        result: dict[str, Tensor] = dict(self.scores.compute())
        if self.head != "one_shot":
            result |= self.forced.compute()
            if "precision_9_6" in result:
                result["precision_9_6_gap"] = self.forced_hits.compute() - result["precision_9_6"]
        for metric in (self.scores, self.forced, self.forced_hits):
            metric.reset()
        return result

    def teacher_forced_examples(self, batch: Batch, output: StepOutput) -> list[MarkedState]:
        """One state of each sample of an evaluated batch, in window pixels; none of the one-shot head."""
        if not isinstance(output, PointOutput) or output.look is None:
            return []
        look, examples = output.look, []
        for row, sample in enumerate(batch.samples):
            place = next(i for i, state in enumerate(output.states) if state.image == row)
            state, to_window = output.states[place], sample.geometry.points_to_window
            examples.append(
                MarkedState(
                    marks=to_window(state.marks),
                    predicted=to_window(look.point[place].detach().float().cpu()),
                    done=float(look.done[place]),
                    target=None if state.finished else to_window(look.target[place].float().cpu()),
                    finished=state.finished,
                )
            )
        return examples

    def gradient_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters of each head, and of encoder and decoder."""
        head, groups = self.net.head, {}
        if isinstance(head, PointerHead):
            groups = {
                "point_head": [*head.point_head.parameters(), head.marked, head.done_head],
                "offset_head": list(head.offset_head.parameters()),
            }
        elif isinstance(head, XYHead):
            groups = {
                "x_head": list(head.x_head.parameters()),
                "y_head": list(head.y_head.parameters()),
                "done_head": list(head.done_head.parameters()),
            }
        elif isinstance(head, OneShotHead):
            groups = {
                "class_head": list(head.class_head.parameters()),
                "offset_head": list(head.offset_head.parameters()),
            }
        decoder = [*self.net.keys.parameters(), *self.net.decoder.parameters()]
        if isinstance(head, XYHead):
            decoder += head.attention.parameters()
        groups["decoder"] = decoder
        groups["encoder"] = [p for p in self.net.encoder.parameters() if p.requires_grad]
        return groups

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the weights were trained to do."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["points"] = {"head": self.head, "order": self.policy.order}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights of another head or order.

        Raises:
            UserError: naming both.
        """
        super().on_load_checkpoint(checkpoint)
        trained = checkpoint.get("points", {})
        for name, wanted in (("head", self.head), ("order", self.policy.order)):
            if trained.get(name) != wanted:
                raise UserError(
                    f"the checkpoint was trained with model.{name}={trained.get(name)}, the configuration "
                    f"has {wanted}: set model.{name}={trained.get(name)}, or train anew without it."
                )


def _check(stop: float, max_points: int, min_distance: float, image_size: int) -> None:
    if not 0 < stop < 1:
        raise UserError(f"model.stop={stop}: give a probability between 0 and 1.")
    if max_points < 1:
        raise UserError(f"model.max_points={max_points}: give at least 1.")
    if min_distance < 0:
        raise UserError(f"model.min_distance={min_distance}: give 0 px or more.")
    if image_size < 32:
        raise UserError(f"model.image_size={image_size}: give at least 32 px.")


def _points(sample: Sample) -> Tensor:
    if sample.points is None:
        raise UserError(
            "model=points learns from objects, and this data gives no points: use data=coco or data=cells."
        )
    return sample.points.detach().float().cpu()


def _scale(batch: Batch) -> Tensor:
    """(width, height) of the network input in px, float32 [2]."""
    height, width = batch.images.shape[-2:]
    return torch.tensor([float(width), float(height)], device=batch.images.device)
