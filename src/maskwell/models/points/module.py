"""Points: one object after another is marked, until the model says that no more are left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from maskwell.data.sample import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Batch,
    InputSpec,
    MarkedState,
    Prediction,
    Sample,
)
from maskwell.errors import UserError
from maskwell.metrics.point_stop import STOPS
from maskwell.metrics.points import RELATIVE
from maskwell.models.base import Ahead, BaseTask, Stage, StepOutput
from maskwell.models.points import net, rollout, states
from maskwell.models.points.heads import Proposals
from maskwell.models.points.loss import Distance
from maskwell.models.points.memory import Canvas, padded
from maskwell.models.points.net import STRIDE, EncoderSpec, Grid, Head, PointNet
from maskwell.models.points.objective import Look, Objective
from maskwell.models.points.rollout import Rollout
from maskwell.models.points.scoring import Scoring, examples, prediction
from maskwell.models.points.states import REFERENCE, ROW_HEIGHT, MarkNoise, Order, OwnMarks, Policy, State
from maskwell.models.teacher import Teacher, with_teacher
from maskwell.ops.points import Mode, Sampling

NEVER = 2.0
"""A probability that is never reached."""
DEFAULT_STOP = 0.5
"""Where the marking stops before a validation has chosen."""
EVALUATED = 8
"""States of an evaluated image, at least: enough of them are finished for the verdict to be judged."""
EXTRA = 3
"""Marks beyond the number of objects in rollouts of training, so that states with wrong marks occur."""
JITTER = 2.0
"""Of true marks in training, px of the network input, unless another is given."""
REACH = 14.0
"""Px of an input of 384 px around an object, at least, in which a mark of the model's own is about it."""


@dataclass
class PointOutput(StepOutput):
    """Also the states of the batch, what the model would mark next in each, and rollouts.

    ``rolled``: rollouts to the latest stop that may still be chosen, made at the first call.
    """

    states: Sequence[State] = ()
    look: Look | None = None
    rolled: Callable[[], list[Rollout]] | None = None


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
        own_warmup: share of all iterations in which it grows from 0.
        cell_weight: of the pointer's ``loss_cell``.
        stop: probability of "no more", against the best object alone, above which an image is done (of
            the one-shot head: above which a proposal is no object); None: validation chooses it.
        ema_decay: of averaged weights, which then are evaluated and predict; None: none.
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
        own_share: float = 0.5,
        own_warmup: float = 0.15,
        cell_weight: float = 1.0,
        stop: float | None = None,
        ema_decay: float | None = None,
        max_points: int = 400,
        min_distance: float = 6.0,
        image_size: int = 384,
        max_norm: float = 20.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _check(stop, ema_decay, own_warmup, max_points, min_distance, image_size)
        self.head, self.max_points, self.min_distance = head, max_points, min_distance
        self.given_stop, self.stop = stop, DEFAULT_STOP if stop is None else stop
        self.image_size, self.max_norm, self.own_warmup = image_size, max_norm, own_warmup
        row_height = ROW_HEIGHT * image_size / REFERENCE
        own_noise = noise or MarkNoise(jitter=JITTER)
        self.policy = Policy(order, sampling, mode, states, own_noise, own_share, row_height)
        canvas = Canvas(
            places=head == "xy" or self.policy.sequential,
            last=self.policy.sequential,
            row_height=row_height / STRIDE,
        )
        self.net = net.build(encoder or EncoderSpec(), head, canvas, hidden, seed)
        self.teacher = Teacher(self.net, ema_decay) if ema_decay else None
        self.trained_label = "averaged" if ema_decay else "trained"
        self.objective = Objective(
            head, self.policy, loss, threshold, spatial_weight, done_weight, done_pos_weight, cell_weight
        )
        self.input_spec = InputSpec("pad", image_size, IMAGENET_MEAN, IMAGENET_STD, 32, enlarge=True)

    def configure_metrics(self) -> None:
        """Scores of rollouts, and of the next mark after true ones."""
        self.scoring = Scoring(self.image_size)

    def reset_progress(self) -> None:
        """Count from the start, and train on from the averaged weights where there are any."""
        super().reset_progress()
        if self._modules.get("teacher") is not None:
            assert self.teacher is not None
            self.net.load_state_dict(self.teacher.net.state_dict())

    @property
    def evaluated(self) -> PointNet:
        """The network that is evaluated and predicts."""
        return self.net if self.teacher is None else cast(PointNet, self.teacher.net)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then move the average."""
        super().optimizer_step(*args, **kwargs)
        if self.teacher is not None:
            self.teacher.update(self.net, self.trainer.global_step)  # not counted yet

    def step(self, batch: Batch, stage: Stage) -> PointOutput:
        """States of every image, decoded from one encoding; rollouts only where they are asked for."""
        truth = [_points(sample) for sample in batch.samples]
        scale = _scale(batch)
        network = self.net if stage == "train" else self.evaluated
        grid = network.encode(batch.images, batch.pixel_mask)
        count = torch.tensor(float(sum(len(points) for points in truth)))
        rolled = None
        if stage != "train":
            self._check_cap(batch, truth)
            latest = STOPS[-1] if self._chooses(stage) else self.stop
            rolled = cache(lambda: self._rollouts(network, grid.detached(), scale, latest))
        if self.head == "one_shot":
            output = self._one_shot(network, grid, truth, scale)
            return self._answering(output, batch, rolled, count)
        drawn = self._draw(batch, grid, truth, scale, stage) if self.plan is None else self.plan
        marks, counts = padded([state.marks for state in drawn])
        image = torch.tensor([state.image for state in drawn])
        out = network.decode(grid, image.to(self.device), marks.to(self.device), counts.to(self.device))
        assert not isinstance(out, Proposals)
        total, parts, look = self.objective.states(out, drawn, scale, grid, truth, self.together)
        finished = torch.tensor([state.finished for state in drawn], device=look.done.device)
        facts = {
            "done_share": finished.float().mean(),
            "done_predicted": look.done.mean(),
            "prediction_spread": look.point.detach().std(0, unbiased=False).mean(),
            "pixel_error": look.error.nanmean() if not finished.all() else look.error.new_zeros(()),
        }
        output = PointOutput(total, parts, facts, states=drawn, look=look)
        return self._answering(output, batch, rolled, count)

    def _one_shot(self, network: PointNet, grid: Grid, truth: list[Tensor], scale: Tensor) -> PointOutput:
        out = rollout.proposals(network, grid)
        placed = [points.to(self.device) for points in truth]
        total, parts = self.objective.one_shot(out, placed, scale, self.together)
        return PointOutput(total, parts, {})

    @torch.no_grad()
    def look_ahead(self, batch: Batch) -> Ahead:
        """Its states are drawn now, for they tell how many are unfinished: the images are encoded twice."""
        truth = [_points(sample) for sample in batch.samples]
        statistics = [buffer.clone() for buffer in self.net.buffers()]
        grid = self.net.encode(batch.images, batch.pixel_mask)
        for buffer, before in zip(self.net.buffers(), statistics, strict=True):
            buffer.copy_(before)  # those of BatchNorm see every batch once
        if self.head == "one_shot":
            return Ahead(self.objective.one_shot_counts(grid.valid, truth))
        drawn = self._draw(batch, grid, truth, _scale(batch), "train")
        return Ahead(self.objective.counts(drawn, grid, truth), drawn)

    def _answering(
        self, output: PointOutput, batch: Batch, rolled: Callable[[], list[Rollout]] | None, count: Tensor
    ) -> PointOutput:
        """The output with the number of objects and, in evaluation, with predictions."""
        output.facts = {"num_objects": count, **output.facts}
        if rolled is not None:
            output.rolled = rolled
            output.predict = lambda: [
                prediction(sample.geometry, made.until(self.stop))
                for sample, made in zip(batch.samples, rolled(), strict=True)
            ]
        return output

    def _draw(
        self, batch: Batch, grid: Grid, truth: list[Tensor], scale: Tensor, stage: Stage
    ) -> list[State]:
        """In training from the global generator; in evaluation the same states at every time."""
        scale = scale.cpu()
        if stage == "train":
            share = self._own_share()
            own = self._own_marks(batch, grid, truth, scale) if round(share * self.policy.states) else []
            drawn = [
                states.draw(self.policy, points, scale, row, own=own[row] if own else None, own_share=share)
                for row, points in enumerate(truth)
            ]
        else:
            # The same mixture for every form of training: what is compared should not depend on it.
            policy = Policy(
                self.policy.order,
                states=max(self.policy.states, EVALUATED),
                row_height=self.policy.row_height,
            )
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

    def _own_share(self) -> float:
        """Of this iteration: a fresh model's own marks teach nothing, so their share grows from 0."""
        if not self.own_warmup or self._trainer is None:
            return self.policy.own_share
        steps = float(self.trainer.estimated_stepping_batches)
        total = self.own_warmup * steps * self.trainer.accumulate_grad_batches
        return self.policy.own_share * min(1.0, self.iteration / total)

    def _own_marks(self, batch: Batch, grid: Grid, truth: list[Tensor], scale: Tensor) -> list[OwnMarks]:
        most = torch.tensor([min(len(points) + EXTRA, self.max_points) for points in truth])
        rolled = self._roll_out(self.net, grid.detached(), scale, most=most, stop=NEVER)
        least = REACH * self.image_size / REFERENCE
        return [
            OwnMarks.matched(made.points, points, scale, self.scoring.radius, _reach(sample, scale, least))
            for made, points, sample in zip(rolled, truth, batch.samples, strict=True)
        ]

    def _roll_out(
        self, network: PointNet, grid: Grid, scale: Tensor, *, most: int | Tensor, stop: float
    ) -> list[Rollout]:
        return rollout.roll_out(
            network, grid, scale.to(self.device), most=most, stop=stop, min_distance=self.min_distance
        )

    def _check_cap(self, batch: Batch, truth: list[Tensor]) -> None:
        for sample, points in zip(batch.samples, truth, strict=True):
            if len(points) > self.max_points:
                rank_zero_warn(
                    f"{sample.file_name} has {len(points)} objects and only model.max_points="
                    f"{self.max_points} are marked: raise it, or use smaller windows (data.crop)."
                )

    @torch.no_grad()
    def _rollouts(self, network: PointNet, grid: Grid, scale: Tensor, stop: float) -> list[Rollout]:
        if self.head == "one_shot":
            found = rollout.proposals(network, grid)
            return rollout.keep(found, scale, stop=stop, min_distance=self.min_distance)
        return self._roll_out(network, grid, scale, most=self.max_points, stop=stop)

    def predict_batch(self, batch: Batch) -> list[Prediction]:
        """Rollouts of all images at once; points in the window frame, in the order they were marked."""
        with torch.no_grad():
            grid = self.evaluated.encode(batch.images, batch.pixel_mask)
        found = self._rollouts(self.evaluated, grid, _scale(batch), self.stop)
        return [prediction(sample.geometry, made) for sample, made in zip(batch.samples, found, strict=True)]

    def update_metrics(self, batch: Batch, output: StepOutput, stage: Stage) -> None:
        """Rollouts against the truth; the next mark after true ones."""
        assert isinstance(output, PointOutput) and output.rolled is not None
        self.scoring.update(batch.samples, output.rolled(), choose=self._chooses(stage))
        if output.look is not None:
            self.scoring.update_forced(output.states, output.look)

    def compute_metrics(self, stage: Stage) -> dict[str, Tensor]:
        """All metrics by name; validation chooses the stop, which predictions and the test use."""
        chosen: dict[str, Tensor] = {}
        if self._chooses(stage):
            chosen["stop"] = self.scoring.choose()
            self.stop = float(chosen["stop"])
        return chosen | self.scoring.compute()

    def _chooses(self, stage: Stage) -> bool:
        return stage == "val" and self.given_stop is None

    def teacher_forced_examples(self, batch: Batch, output: StepOutput) -> list[MarkedState]:
        """One state of each sample of an evaluated batch, in window pixels; none of the one-shot head."""
        if not isinstance(output, PointOutput) or output.look is None:
            return []
        return examples(batch.samples, output.states, output.look)

    def gradient_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters of each head, and of encoder and decoder."""
        return self.net.groups()

    def adopt(self, checkpoint: dict[str, Any]) -> dict[str, Any]:
        """With averaged weights where this run has some; the stop was chosen for other data."""
        state = with_teacher(checkpoint["state_dict"], self.teacher is not None)
        points = {name: value for name, value in checkpoint.get("points", {}).items() if name != "stop"}
        return {**checkpoint, "state_dict": state, "points": points}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the weights were trained to do, and where the marking stops."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["points"] = {"head": self.head, "order": self.policy.order, "stop": self.stop}

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
        if self.given_stop is None and "stop" in trained:
            self.stop = float(trained["stop"])


def _check(
    stop: float | None,
    ema_decay: float | None,
    own_warmup: float,
    max_points: int,
    min_distance: float,
    image_size: int,
) -> None:
    if stop is not None and not 0 < stop < 1:
        raise UserError(f"model.stop={stop}: give a probability between 0 and 1, or null.")
    if ema_decay is not None and not 0 < ema_decay < 1:
        raise UserError(f"model.ema_decay={ema_decay}: give a number between 0 and 1, or null.")
    if not 0 <= own_warmup <= 1:
        raise UserError(f"model.own_warmup={own_warmup}: give a share in [0, 1].")
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


def _reach(sample: Sample, scale: Tensor, least: float) -> Tensor:
    """How far from each object a mark is still on it: half its size, px of the network input, [N]."""
    sides = (sample.boxes[:, 2:] - sample.boxes[:, :2]).cpu() * scale
    return (RELATIVE * sides.prod(1).clamp(min=0).sqrt()).clamp(min=least)
