"""What a training step or a validation reports, as signals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from maskwell.health import signals as names
from maskwell.health.columns import LOSS_NAMES, is_loss, kind_of
from maskwell.health.roles import role_of
from maskwell.health.signals import Role, Signals

TRAIN_AT_EVALUATION = "train_at_evaluation"
"""Mean training loss between two evaluations."""


class EpochMean:
    """Mean of the finite losses of an epoch and its standard error."""

    def __init__(self, count: float = 0.0, total: float = 0.0, squares: float = 0.0) -> None:
        self.count, self.total, self.squares = count, total, squares

    def add(self, loss: float) -> None:
        """Of one step."""
        self.count, self.total, self.squares = self.count + 1, self.total + loss, self.squares + loss**2

    def close(self, signals: Signals, epoch: int) -> None:
        """Record mean and error of ``epoch``, counted from 1, and begin anew."""
        if self.count:
            mean = self.total / self.count
            variance = max(0.0, self.squares / self.count - mean**2) * self.count / max(1.0, self.count - 1)
            signals.record(names.EPOCH_LOSS, epoch, mean, "supervised")
            signals.record(names.EPOCH_ERROR, epoch, math.sqrt(variance / self.count), "norm")
        self.count = self.total = self.squares = 0.0

    def state(self) -> list[float]:
        """Arguments that make it again."""
        return [self.count, self.total, self.squares]


def loss_of(
    trainer: Trainer, outputs: Any, hear: Callable[[], Sequence[Tensor]]
) -> tuple[Tensor | None, Role]:
    """The loss of a training step and its role; None where nothing was learnt.

    Where none is returned, it is the one that is logged, or the sum of those that went backward
    (``hear`` gives them), which several networks may minimise against each other. Without these, what is
    logged is of an earlier step.
    """
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    if isinstance(loss, Tensor):
        # Lightning has divided it
        return loss * (trainer.accumulate_grad_batches if _is_automatic(trainer) else 1), "supervised"
    heard = hear()
    if not heard:
        return None, "supervised"
    logged = trainer.callback_metrics
    loss = next((logged[name] for name in LOSS_NAMES if name in logged), None)
    if loss is not None:
        return loss, "supervised"
    return total(list(heard), heard[0].device), "adversarial" if len(heard) > 1 else "supervised"


def _is_automatic(trainer: Trainer) -> bool:
    return bool(trainer.lightning_module.automatic_optimization)


def values_of(loss: Tensor | None, outputs: Any) -> dict[str, Tensor]:
    """Stream name -> scalar tensor of one training step, the loss first."""
    found = outputs if isinstance(outputs, Mapping) else {}
    values = {} if loss is None else {names.LOSS: loss}
    for prefix, key in ((names.PART, "parts"), (names.FACT, "facts")):
        for name, value in (found.get(key) or {}).items():
            if isinstance(value, Tensor) and value.numel() == 1:
                values[prefix + name] = value
    return {name: value.to(next(iter(values.values())).device) for name, value in values.items()}


def record(signals: Signals, values: Mapping[str, float], step: int, roles: Mapping[str, Role]) -> None:
    """One step's numbers: what is not finite becomes an event, facts are counts."""
    for key, value in values.items():
        if key.startswith(names.FACT):
            if math.isfinite(value):
                signals.record(key, step, value, "count")
            continue
        part = key.removeprefix(names.PART)
        if not math.isfinite(value):
            signals.record(names.NONFINITE + part, step, 1.0, "event")
        else:
            signals.record(key, step, value, roles.get(part) or role_of(part))


def record_validation(trainer: Trainer, module: LightningModule, signals: Signals, step: int) -> None:
    """Figures of a validation; ``val/train_<name>`` are of training images, computed alike.

    Of several loaders, the figures of the first go by their plain names. Figures may be undefined; a loss
    that is not finite is an event.
    """
    for name, value in trainer.callback_metrics.items():
        kind, own = kind_of(name.removesuffix("/dataloader_idx_0"))
        if kind != "metric" or value.numel() != 1:
            continue
        if math.isfinite(number := float(value)):
            signals.record(names.METRIC + own, step, number, "metric")
        elif is_loss(own):
            signals.record(names.METRIC_BAD + own, step, 1.0, "event")
    for which, share in _largest_classes(module).items():
        signals.record(f"{names.METRIC}val/{which}_share_largest", step, share, "metric")
    before = signals.get(TRAIN_AT_EVALUATION).latest_step
    since = signals.get(names.LOSS).tail(signals.capacity, before)
    if len(since):
        signals.record(TRAIN_AT_EVALUATION, step, float(since.mean()), "supervised")


def _largest_classes(module: LightningModule) -> dict[str, float]:
    """Shares of the pixels that are predicted as, and that are, the commonest class, of semantic tasks."""
    confusion = getattr(module, "confusion", None) if getattr(module, "semantic", False) else None
    if not isinstance(confusion, Tensor) or not int(confusion.sum()):
        return {}
    pixels = confusion.double()
    sums = {"predicted": pixels.sum(0), "true": pixels.sum(1)}
    return {kind: float(each.max() / each.sum()) for kind, each in sums.items()}


def declare_planned(module: LightningModule, step: int, signals: Signals) -> None:
    """Declare what the module changes on purpose at this step (``planned_changes``: step -> kind)."""
    planned: Mapping[int, str] = getattr(module, "planned_changes", None) or {}
    if step in planned:
        signals.declare(planned[step], step)


def first_rate(trainer: Trainer) -> float | None:
    """The configured learning rate of the first optimiser, before its schedule."""
    if not trainer.optimizers:
        return None
    group = trainer.optimizers[0].param_groups[0]
    return float(group.get("initial_lr", group["lr"]))


def total(losses: list[Tensor], device: torch.device) -> Tensor:
    """Their sum, a float32 scalar on the device; 0 of none."""
    if not losses:
        return torch.zeros((), device=device)
    first, *more = (loss.detach().float().sum().to(device) for loss in losses)
    return sum(more, first)
