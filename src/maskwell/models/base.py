"""BaseTask: what every family's LightningModule shares, in four named hooks.

A family answers four questions: which network, which losses, which metrics, which optimiser. It also
writes ``step`` (a batch -> :class:`StepOutput`) and ``update_metrics``; logging, iteration counting
and the optimiser's wiring live here.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from maskwell.data.sample import Batch, InputSpec, Prediction
from maskwell.errors import UserError
from maskwell.ops.losses import ALONE, Accumulation

Stage = Literal["train", "val", "test"]

OF_A_STEP = {"on_step": True, "on_epoch": False}
"""How a value of one training step is logged."""


class OptimiserFactory(Protocol):
    """An entry of the configuration group ``optim``."""

    def build(
        self, parameters: Sequence[tuple[str, nn.Parameter]], total: int
    ) -> tuple[torch.optim.Optimizer, LRScheduler]:
        """Optimiser over named parameters and its per-iteration schedule of ``total`` steps."""


@dataclass
class StepOutput:
    """What a task's step returns; ``parts`` and ``facts`` are all that callbacks know of a family.

    ``loss`` scalar; ``parts`` raw, unweighted loss terms (``loss_box``, ...); ``facts`` detached
    figures (``num_objects``, ...), both logged as ``<stage>/<name>``; ``predict`` makes one
    :class:`Prediction` per sample when asked.
    """

    loss: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    facts: Mapping[str, Tensor] = field(default_factory=dict)
    predict: Callable[[], list[Prediction]] | None = None
    _cached: list[Prediction] | None = field(default=None, repr=False)

    def preds(self) -> list[Prediction]:
        """One prediction per sample, computed at the first call."""
        if self._cached is None:
            self._cached = [] if self.predict is None else self.predict()
        return self._cached


@dataclass(frozen=True)
class Ahead:
    """What is known of a training batch before its step.

    ``counts``: name -> what the terms of its loss are divided by; ``plan``: what had to be drawn to know
    them, for the step to use.
    """

    counts: Mapping[str, float] = field(default_factory=dict)
    plan: Any = None


class BaseTask(LightningModule):
    """Base of all families.

    Class attributes: ``family`` (its name in configs and run folders), ``monitor`` and ``mode``
    (what "best" means). Instance attribute ``input_spec`` is set by :meth:`configure_network`.
    """

    family: str
    monitor = "val/map"
    mode: Literal["min", "max"] = "max"
    input_spec: InputSpec
    promptable = False
    """Whether it answers the phrases that samples carry."""
    semantic = False
    """Whether it gives every pixel a class (:meth:`class_probabilities`) instead of finding objects."""
    pointwise = False
    """Whether it finds points, one after another, instead of boxes or masks."""
    background = True
    """Of a semantic family: whether class 0 takes part in the mean IoU."""
    knows_scenes = False
    """Whether its base was pretrained on generated scenes, which can be rehearsed in fine-tuning."""
    iterations: int | None = None
    """Where a run is counted in iterations and not in epochs: its length, as one epoch of so many batches."""
    evaluate_every: int | None = None
    """Then also: iterations between two validations."""
    own_rates: str | None = None
    """Where a family makes its optimisers itself, without the group optim: the keys that set them."""
    rate_key = "optim.lr"
    """The key of the learning rate, as remedies name it."""
    max_norm: float | None = 1.0
    """Bound of the gradient norm that suits the family (callbacks.grad_clip.max_norm=auto); None: none."""
    threshold: float | None = None
    """Score from which a detection counts, where validation chooses one."""
    min_score: float | None = None
    """Lowest score of the detections that it gives, where the family bounds them itself."""
    trained_label = "trained"
    """What the table at the end of a run calls the trained model."""
    together: Accumulation = ALONE
    """In a training step: the batches with which gradients are accumulated."""
    plan: Any = None
    """Then also: what :meth:`look_ahead` has drawn for the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.categories: tuple[str, ...] = ()
        self.optim: OptimiserFactory | None = None
        self._ahead: deque[tuple[Accumulation, Any]] = deque()
        self._row: dict[str, Tensor] = {}
        self.reset_progress()

    @property
    def needs_unlabelled(self) -> bool:
        """Whether its training batches hold unlabelled images too."""
        return False

    @property
    def planned_changes(self) -> Mapping[int, str]:
        """Iteration -> kind of change that the training makes by plan, so that the monitor takes it for none.

        The kinds are those of :data:`maskwell.health.signals.EVENTS`.
        """
        return {}

    @property
    def confusion(self) -> Tensor | None:
        """The last evaluation's pixels or objects by true (row) and predicted class, int64 [C, C]."""
        return None

    @property
    def confusion_names(self) -> tuple[str, ...]:
        """What the rows and columns of the confusion stand for."""
        return self.categories

    def reset_progress(self) -> None:
        """Count from the start: a new run, from fresh or from given weights."""
        self.iteration = 0
        self._epoch_loss, self._epoch_size = torch.zeros(()), 0  # sum over samples, and their number

    def bind(self, *, categories: Sequence[str], optim: OptimiserFactory | None = None) -> None:
        """Give the task what the data and the configuration know; called once by the build layer."""
        self.categories = tuple(categories)
        self.optim = optim
        self.configure_metrics()

    def configure_metrics(self) -> None:
        """Create metric objects, called when the categories are known."""

    def step(self, batch: Batch, stage: Stage) -> StepOutput:
        """Loss, its raw parts and facts of one batch."""
        raise NotImplementedError(f"{type(self).__name__} defines no step.")

    def look_ahead(self, batch: Batch) -> Ahead:
        """What the loss of ``batch`` will be divided by, asked where gradients are accumulated.

        Nothing for losses that are means over images: accumulated in batches of the same size they are the
        larger batch's as they are.
        """
        return Ahead()

    def update_metrics(self, batch: Batch, output: StepOutput, stage: Stage) -> None:
        """Add one evaluated batch to the metrics."""

    def compute_metrics(self, stage: Stage) -> dict[str, Tensor]:
        """Metric name -> value over everything added since the last call, and reset."""
        return {}

    def predict_batch(self, batch: Batch) -> list[Prediction]:
        """One prediction per sample, in the window frame, without loss or labels."""
        raise NotImplementedError(f"{type(self).__name__} defines no predict_batch.")

    def prepare_inference(self) -> None:
        """Make the network faster where it will not be trained again; its answers stay the same."""

    def class_probabilities(self, images: Tensor) -> Tensor:
        """Of a semantic family: float32 [B, 3, H, W], normalised and padded -> probabilities [B, C, H, W]."""
        raise NotImplementedError(f"{type(self).__name__} defines no class_probabilities.")

    def adopt(self, checkpoint: dict[str, Any]) -> dict[str, Any]:
        """The content of another run's checkpoint as this task can start from it (``init_from=``)."""
        return checkpoint

    def trainable_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Named parameters that are trained."""
        return [(name, p) for name, p in self.named_parameters() if p.requires_grad]

    def configure_optimizers(self) -> Any:
        """One optimiser over the trainable parameters with a per-iteration schedule."""
        if self.optim is None:
            raise RuntimeError("bind() was not called with an optimiser.")
        total = int(self.trainer.estimated_stepping_batches)
        optimiser, schedule = self.optim.build(self.trainable_parameters(), total)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """Forget a step that was cut off; refuse a validation between two optimiser steps.

        No checkpoint holds gradients that wait.
        """
        self._row, self._ahead = {}, deque()
        every, epoch = self.trainer.val_check_batch, self.trainer.num_training_batches
        together = self.trainer.accumulate_grad_batches
        if not (self.trainer.enable_validation and every) or epoch == math.inf or every == math.inf:
            return
        across = self.trainer.check_val_every_n_epoch is None
        # an epoch's last step takes what is left, so that counted across epochs any place may be reached
        apart = math.gcd(int(every), int(epoch)) if across else every
        if apart < epoch and apart % together:
            epochs = " of a whole number of epochs, or trainer.check_val_every_n_epoch=1 and one"
            raise UserError(
                f"trainer.val_check_interval={self.trainer.val_check_interval} is {every} of {epoch:.0f} "
                f"batches, which ends between two optimiser steps of {together} batches: give a number of "
                f"batches{epochs if across else ''} that is a multiple of trainer.accumulate_grad_batches."
            )

    def training_loss(self, batch: Any) -> Tensor:
        """The loss that a training batch is learnt by, with its graph: what a replay goes through."""
        return self.step(batch, "train").loss

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Step, log, and hand parts and facts to the callbacks (in ``outputs``)."""
        if batch.accumulated:
            self._look_ahead(batch.accumulated)
        if self._ahead:
            self.together, self.plan = self._ahead.popleft()
        try:
            output = self.step(batch, "train")
        finally:
            self.together, self.plan = ALONE, None
        return self.record_training(output, size=len(batch))

    def _look_ahead(self, batches: Sequence[Batch]) -> None:
        """Count over all batches up to the next optimiser step, before the first one's."""
        found = [self.look_ahead(batch.to(self.device)) for batch in batches]
        totals = {name: sum(ahead.counts[name] for ahead in found) for name in found[0].counts}
        together = Accumulation(totals, self.trainer.accumulate_grad_batches)
        self._ahead = deque((together, ahead.plan) for ahead in found)

    def record_training(self, output: StepOutput, size: int) -> dict[str, Any]:
        """Count and log one training step over ``size`` images; what ``training_step`` returns."""
        self.iteration += 1
        parts = {name: value.detach() for name, value in output.parts.items()}
        facts = {name: value.detach() for name, value in output.facts.items()}
        row = {"train/batch_loss": output.loss.detach(), "train/epoch": float(self.current_epoch)}
        row |= {f"train/{name}": value.float() for name, value in {**parts, **facts}.items()}
        self.log_dict(row, on_step=True, on_epoch=False)
        self._epoch_loss = self._epoch_loss + output.loss.detach().float() * size
        self._epoch_size += size
        return {"loss": output.loss, "parts": parts, "facts": facts}

    def log_dict(self, dictionary: Mapping[str, Any], *args: Any, **options: Any) -> None:  # type: ignore[override]
        """As Lightning's; what is of one training step alone goes into its row without Lightning's account.

        That account costs a millisecond for three values of every step, and so does asking for what is in it.
        """
        if args or options != OF_A_STEP or self._trainer is None or not self.trainer.training:
            super().log_dict(dictionary, *args, **options)
            return
        values = {name: torch.as_tensor(value).detach() for name, value in dictionary.items()}
        self._row |= values
        connector = self.trainer._logger_connector
        for shown in (connector._callback_metrics, connector._logged_metrics):
            shown.update(values)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Write the row of the step; where gradients are accumulated, that of the batch that made it."""
        row, self._row = self._row, {}
        trainer, loop = self.trainer, self.trainer.fit_loop
        if loop._should_accumulate() and self.automatic_optimization:
            return
        connector = trainer._logger_connector
        if connector.should_update_logs or getattr(trainer, "fast_dev_run", False):
            connector.log_metrics(row)

    def on_train_epoch_end(self) -> None:
        """Log the mean loss of the whole epoch, the part before a resume included."""
        if self._epoch_size:
            mean = torch.as_tensor(self._epoch_loss / self._epoch_size, device=self.device)
            self.log("train/epoch_avg_loss", mean, sync_dist=True)
        self._epoch_loss, self._epoch_size = torch.zeros(()), 0

    def validation_step(self, batch: Batch, batch_idx: int) -> StepOutput:  # type: ignore[override]
        """Loss computed as in training, metrics updated."""
        return self._evaluation_step(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> StepOutput:  # type: ignore[override]
        """As validation, logged as ``test/``."""
        return self._evaluation_step(batch, "test")

    def _evaluation_step(self, batch: Batch, stage: Stage) -> StepOutput:
        output = self.step(batch, stage)
        self.update_metrics(batch, output, stage)
        names = {f"{stage}/loss": output.loss, **{f"{stage}/{k}": v for k, v in output.parts.items()}}
        self.log_dict(
            {name: value.detach().float() for name, value in names.items()},
            on_step=False,
            on_epoch=True,
            batch_size=len(batch),
            sync_dist=True,
        )
        return output

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test")

    def _log_metrics(self, stage: Stage) -> None:
        metrics = {f"{stage}/{name}": value for name, value in self.compute_metrics(stage).items()}
        self.log_dict({name: torch.as_tensor(value).float() for name, value in metrics.items()})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["family"] = self.family
        checkpoint["iteration"] = self.iteration
        checkpoint["epoch_loss"] = (float(self._epoch_loss), self._epoch_size)
        checkpoint["categories"] = list(self.categories)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.iteration = int(checkpoint.get("iteration", 0))
        total, self._epoch_size = checkpoint.get("epoch_loss", (0.0, 0))
        self._epoch_loss = torch.tensor(total, device=self.device)
        if self.iterations is not None and self.iteration < self.iterations and "loops" in checkpoint:
            _reopen_epoch(checkpoint["loops"]["fit_loop"])


def _reopen_epoch(loop: dict[str, Any]) -> None:
    """Let a run that was counted in iterations go on behind its end: its only epoch is open again.

    Args:
        loop: Lightning's state of the fit loop; one from the middle of a run stays as it is.
    """
    loop["epoch_loop.batch_progress"]["is_last_batch"] = False
    for progress in loop["epoch_progress"].values():
        progress.update(processed=0, completed=0)
