"""DETR: object detection with a transformer, its stable recipe as default."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from maskwell.data.sample import IMAGENET_MEAN, IMAGENET_STD, Batch, Colour, InputSpec, Prediction
from maskwell.errors import UserError
from maskwell.metrics.detection import BACKGROUND, DetectionScores
from maskwell.models.base import Ahead, BaseTask, OptimiserFactory, Stage, StepOutput
from maskwell.models.detr import base_model
from maskwell.models.detr.answers import Detection, predictions
from maskwell.models.detr.loss import SOFTMAX, SetLoss
from maskwell.models.detr.net import Detector, DetectorOutputs, Target
from maskwell.models.detr.recipe import Recipe
from maskwell.models.teacher import Teacher, with_teacher
from maskwell.ops import boxes as box_ops

DEFAULT_THRESHOLD = 0.3
"""Score of a detection before validation has chosen one."""


class Detr(BaseTask):
    """Trains a detector of transformers on boxes with classes.

    The network is built when the classes are known: by :meth:`bind`, or from a checkpoint.

    Args:
        base: ``small`` (fresh weights), a directory in Hub layout, or a Hub name.
        architecture: of ``small``; a base brings its own.
        queries: most objects of an image; None: the architecture's own number.
        image_size: the longer side is scaled down to it, px; None: never.
        recipe: padding, clipping, rate and schedule. The group ``optim`` is not used.
        detection: what is kept of an answer.
        ema_decay: of averaged weights, which then are evaluated and predict; None: no average.
        one_to_many: queries that each object is matched to in all layers but the last; more than 1 helps
            from fresh weights.
        max_dets: detections per image and class that COCO mAP counts.
        seed: of fresh weights.
    """

    family = "detr"
    own_rates = "model.recipe.optim"
    rate_key = "model.recipe.optim.lr"
    net: Detector
    teacher: Teacher | None

    def __init__(
        self,
        base: str = base_model.SMALL,
        architecture: str = "rt_detr_v2",
        *,
        queries: int | None = None,
        image_size: int | None = 640,
        recipe: Recipe | None = None,
        detection: Detection | None = None,
        ema_decay: float | None = None,
        one_to_many: int = 1,
        max_dets: tuple[int, ...] = (1, 10, 100),
        seed: int = 0,
    ) -> None:
        super().__init__()
        if ema_decay is not None and not 0 < ema_decay < 1:
            raise UserError(f"model.ema_decay={ema_decay}: give a number between 0 and 1, or null.")
        if one_to_many < 1:
            raise UserError(f"model.one_to_many={one_to_many}: give at least 1.")
        self.base, self.architecture, self.queries = base, architecture, queries
        self.image_size, self.seed = image_size, seed
        self.recipe, self.detection = recipe or Recipe(), detection or Detection()
        self.ema_decay, self.one_to_many, self.max_dets = ema_decay, one_to_many, tuple(max_dets)
        self.max_norm = self.recipe.max_norm
        self.min_score = self.detection.min_score
        self.threshold = DEFAULT_THRESHOLD
        self.trained_label = "averaged" if ema_decay else "trained"

    @cached_property
    def config(self) -> PreTrainedConfig:
        """The architecture, without a class count until the network is built."""
        return base_model.read_config(self.base, self.architecture, self.queries)

    @cached_property
    def normalisation(self) -> tuple[Colour, Colour]:
        """Mean and standard deviation of the input, those that the weights were trained with."""
        return base_model.normalisation(self.base, self.config)

    @property
    def input_spec(self) -> InputSpec:  # type: ignore[override]
        """Scaled down, normalised, padded until there is a place for each query."""
        return InputSpec(
            "pad",
            self.image_size,
            *self.normalisation,
            multiple=base_model.multiple_of(self.config),
            min_side=base_model.min_side(self.config),
        )

    def bind(self, *, categories: Sequence[str], optim: OptimiserFactory | None = None) -> None:
        """Take the class names and build the network; the optimiser is the recipe's.

        Raises:
            UserError: the weights that were loaded know other classes, or the base cannot be read.
        """
        if self.categories and tuple(categories) != self.categories:
            raise UserError(
                f"The weights know the classes {', '.join(self.categories)}, the data has "
                f"{', '.join(categories)}: the class lists must be the same, in the same order."
            )
        if not categories:
            raise UserError("The data has no classes: detection needs one at least.")
        if "net" not in self._modules:
            self._build(len(categories), load=True)
        super().bind(categories=categories, optim=self.recipe.optim)

    def _build(self, classes: int, *, load: bool) -> None:
        network = base_model.build(self.config, classes, self.seed, self.base, load=load)
        self.net = Detector(network)
        self.criterion = SetLoss.of(self.config, self.one_to_many)
        self.teacher = Teacher(self.net, self.ema_decay) if self.ema_decay else None

    def reset_progress(self) -> None:
        """Count from the start, and train on from the averaged weights where there are any."""
        super().reset_progress()
        if self._modules.get("teacher") is not None:
            assert self.teacher is not None
            self.net.load_state_dict(self.teacher.net.state_dict())

    def configure_metrics(self) -> None:
        """COCO mAP, the best score threshold and what is confused at it."""
        self.scores = DetectionScores(self.categories, max_dets=self.max_dets)

    def step(self, batch: Batch, stage: Stage) -> StepOutput:
        """The same loss in every stage, with denoising in training."""
        network: nn.Module = self.net if stage == "train" or self.teacher is None else self.teacher
        frame = self._frame(batch)
        targets = [
            Target(sample.boxes * scale, sample.labels)
            for sample, scale in zip(batch.samples, frame, strict=True)
        ]
        outputs = network(*self._inputs(batch), targets)
        loss, parts = self.criterion(outputs, targets, self.together)
        counts = torch.tensor([float(len(target.labels)) for target in targets])
        facts = {"num_objects": counts.sum()}
        if stage == "train":
            facts["unmatched_objects"] = (counts - self.config.num_queries).clamp(min=0).sum()
            return StepOutput(loss, parts, facts)
        return StepOutput(loss, parts, facts, predict=lambda: self._predictions(outputs, batch))

    def look_ahead(self, batch: Batch) -> Ahead:
        """Objects, or weights of queries."""
        objects = [len(sample.labels) for sample in batch.samples]
        config: Any = self.config
        return Ahead(self.criterion.counts(objects, config.num_queries, config.decoder_layers))

    def _inputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Images and pixel mask as the recipe wants them."""
        images, mask = batch.images, batch.pixel_mask
        mean, std = (images.new_tensor(values) for values in self.normalisation)
        if self.recipe.padding == "zero":
            images = torch.where(mask[:, None], images, (-mean / std)[:, None, None])
        return images, mask if self.recipe.pixel_mask else torch.ones_like(mask)

    def _frame(self, batch: Batch) -> Tensor:
        """[B, 4]: from the network input to the frame of its boxes, without padding if it reads the mask."""
        if not (self.net.reads_mask and self.recipe.pixel_mask):
            return batch.images.new_ones(len(batch), 4)
        scales = [
            [full / part for full, part in zip(place.input_size[::-1], place.content[::-1], strict=True)] * 2
            for place in (sample.geometry for sample in batch.samples)
        ]
        return batch.images.new_tensor(scales)

    def _predictions(self, outputs: DetectorOutputs, batch: Batch) -> list[Prediction]:
        boxes = box_ops.cxcywh_to_xyxy(outputs.layers.boxes[-1].detach().float())
        return predictions(
            outputs.layers.logits[-1].detach(),
            boxes / self._frame(batch)[:, None],
            batch.samples,
            self.detection,
            softmax=self.criterion.classification == SOFTMAX,
        )

    def predict_batch(self, batch: Batch) -> list[Prediction]:
        """Detections of all classes; with averaged weights where there are any."""
        network: nn.Module = self.net if self.teacher is None else self.teacher
        return self._predictions(network(*self._inputs(batch)), batch)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then move the average."""
        super().optimizer_step(*args, **kwargs)
        if self.teacher is not None:
            self.teacher.update(self.net, self.trainer.global_step)  # not counted yet

    def update_metrics(self, batch: Batch, output: StepOutput, stage: Stage) -> None:
        """Add the images."""
        truths = [sample.truth for sample in batch.samples]
        self.scores.update(output.preds(), [truth for truth in truths if truth is not None])

    def compute_metrics(self, stage: Stage) -> dict[str, Tensor]:
        """All metrics; validation chooses the score threshold, which predictions and the test use."""
        self.scores.given = None if stage == "val" else self.threshold
        figures = dict(self.scores.compute())
        if stage == "val" and "threshold" in figures:
            self.threshold = float(figures["threshold"])
        self.scores.reset()
        return figures

    @property
    def confusion(self) -> Tensor | None:
        """The last evaluation's objects by true (row) and predicted class (column), int64 [C + 1, C + 1].

        The last row and column are background.
        """
        return self.scores.confusion

    @property
    def confusion_names(self) -> tuple[str, ...]:
        """Names of the confusion's rows and columns."""
        return (*self.categories, BACKGROUND)

    def adopt(self, checkpoint: dict[str, Any]) -> dict[str, Any]:
        """Of a detector of other classes everything but the class layers, of which classes of the same name.

        Raises:
            UserError: it is another architecture.
        """
        theirs = tuple(checkpoint["categories"])
        state = with_teacher(checkpoint["state_dict"], self.teacher is not None)
        if theirs != self.categories:
            own = self.state_dict()
            state = {
                name: class_rows(value, own[name], theirs, self.categories)
                if name in own and base_model.counts_classes(name)
                else value
                for name, value in state.items()
            }
        adopted = {**checkpoint, "state_dict": state, "categories": list(self.categories)}
        adopted.pop("threshold", None)  # chosen for other data
        return adopted

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add architecture and normalisation, so that no base is needed to predict, and the threshold."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["network"] = base_model.to_json(self.config)
        checkpoint["normalisation"] = [list(values) for values in self.normalisation]
        checkpoint["threshold"] = self.threshold

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build the network for the checkpoint's classes; refuse those of other data.

        Raises:
            UserError: naming both class lists.
        """
        super().on_load_checkpoint(checkpoint)
        known = tuple(checkpoint["categories"])
        if self.categories and known != self.categories:
            raise UserError(
                f"the checkpoint knows the classes {', '.join(known)}, the data has "
                f"{', '.join(self.categories)}; init_from= starts a new run from it."
            )
        if "net" not in self._modules:
            self.__dict__["config"] = base_model.from_json(checkpoint["network"])
            self._build(len(known), load=False)
            self.categories = known
        mean, std = checkpoint.get("normalisation", (IMAGENET_MEAN, IMAGENET_STD))
        self.__dict__["normalisation"] = tuple(mean), tuple(std)
        if "threshold" in checkpoint:
            self.threshold = float(checkpoint["threshold"])


def class_rows(theirs: Tensor, own: Tensor, before: Sequence[str], now: Sequence[str]) -> Tensor:
    """``own`` fresh rows of a class layer with those of ``theirs`` whose class has the same name.

    Rows behind the classes ("nothing", or that of padding) are taken over.
    """
    extra = len(own) - len(now)
    if theirs.shape[1:] != own.shape[1:] or len(theirs) - len(before) != extra:
        return theirs  # another architecture: loading it says so
    rows = own.clone()
    for index, name in enumerate(now):
        if name in before:
            rows[index] = theirs[before.index(name)]
    if extra:
        rows[-extra:] = theirs[-extra:]
    return rows
