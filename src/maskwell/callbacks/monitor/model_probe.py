"""What network, loss and optimisers look like before the first step, and once after warm-up."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from maskwell.callbacks.monitor.forward import loss_of, outputs_of, scalars
from maskwell.callbacks.monitor.rng import untouched
from maskwell.health.columns import kind_of
from maskwell.health.signals import LINT, LOSS, PREFLIGHT, PROBE, Signals

GONE = 1e-3
"""Share of its peak below which a learning rate teaches nothing more."""
LENGTHS = ("T_max", "total_steps")
"""Attributes by which schedules know their length."""
OVERLONG = 5
"""A schedule is stepped in the wrong unit that is so many times as long as the run."""

Context = Callable[[], AbstractContextManager[Any]]


def initial_loss(module: LightningModule, batch: Any, context: Context, signals: Signals) -> None:
    """Loss and parts of the first batch, before any step."""
    offered = loss_of(module, batch)
    if offered is None:
        return
    ask, own = offered
    with untouched(module, training=True), torch.no_grad(), context():
        values = scalars(ask(own))
    for name, value in values.items():
        signals.record(f"{PREFLIGHT}initial/{name}", 0, value, "supervised")
    classes = len(getattr(module, "categories", ()) or ())
    if getattr(module, "semantic", False) and classes:
        signals.record(PREFLIGHT + "classes", 0, classes, "count")


def one_batch(module: LightningModule, batch: Any, steps: int, signals: Signals, lr: float) -> None:
    """Learn one batch by heart on a copy (Adam at ``lr``); record what share of the first loss is left."""
    if loss_of(module, batch) is None:
        return
    with untouched(module):
        trained = copy.deepcopy(module).train()
        offered = loss_of(trained, batch)
        assert offered is not None
        ask, own = offered
        optimizer = torch.optim.Adam([p for p in trained.parameters() if p.requires_grad], lr=lr)
        first = last = float("nan")
        with torch.enable_grad():
            for step in range(steps):
                result = ask(own)
                loss = result if isinstance(result, Tensor) else result[LOSS]
                last = float(loss.detach())
                first = last if step == 0 else first
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    if first:
        signals.record(PREFLIGHT + "one_batch_share", 0, last / first, "rate")


def mixing(module: LightningModule, batch: Any, context: Context, signals: Signals) -> None:
    """Relative change of the first sample's output when the others of its batch are emptied."""
    offered = outputs_of(module, batch)
    if offered is None or len(offered[1]) < 2:
        return
    ask, images = offered
    emptied = images.clone()
    emptied[1:] = 0
    with untouched(module), torch.no_grad(), context():
        alone, among = ask(emptied)[0], ask(images)[0]
    signals.record(PREFLIGHT + "mixing", 0, _relative(alone, among), "norm")


def coverage(module: LightningModule, trainer: Trainer, signals: Signals) -> None:
    """Which trainable parameters no optimiser holds, and what optimisers hold that is not the module's."""
    own = {id(p): name for name, p in module.named_parameters()}
    held = {id(p): p for o in trainer.optimizers for g in o.param_groups for p in g["params"]}
    trainable = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    signals.record(PREFLIGHT + "covered", 0, len(held), "count")
    signals.record(PREFLIGHT + "trainable_tensors", 0, len(trainable), "count")
    if not trainer.optimizers:
        return
    for name, parameter in trainable:
        if id(parameter) not in held:
            signals.record(f"{PREFLIGHT}uncovered/{name}", 0, parameter.numel(), "count")
    foreign = sum(key not in own for key in held)
    signals.record(PREFLIGHT + "foreign_parameters", 0, foreign, "count")
    for key, parameter in held.items():
        if key in own and not parameter.requires_grad:
            signals.record(f"{PREFLIGHT}frozen/{own[key]}", 0, parameter.numel(), "count")


def lint(
    module: LightningModule, trainer: Trainer, size: int, ahead: list[float] | None, signals: Signals
) -> None:
    """Contradictions of the configuration.

    Args:
        size: samples of a batch.
        ahead: learning rates of all planned steps, where they are known.
    """
    found: dict[str, float] = {}
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    watchers = [c for c in callbacks if _watches(c)]
    if watchers and not trainer.enable_validation and any(str(c.monitor).startswith("val") for c in watchers):
        found["never_validates"] = len(watchers)
    batches = trainer.num_training_batches
    if trainer.accumulate_grad_batches > batches > 0:
        found["no_step"] = trainer.accumulate_grad_batches
    trained = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training and _is_trained(m)]
    if trained and size == 1:
        found["batchnorm_of_one"] = len(trained)
    if (
        ahead
        and len(ahead) >= 20
        and ahead.index(max(ahead)) >= 0.95 * len(ahead)
        and max(ahead) > 2 * ahead[0]
    ):
        found["warmup_too_long"] = len(ahead)
    if ahead and len(ahead) >= 20 and max(ahead[len(ahead) // 2 :]) < GONE * max(ahead):
        found["rate_gone_early"] = len(ahead)
    for config in trainer.lr_scheduler_configs:
        length = next((getattr(config.scheduler, k) for k in LENGTHS if hasattr(config.scheduler, k)), 0)
        if config.interval == "epoch" and 0 < OVERLONG * (trainer.max_epochs or 0) < length:
            found["schedule_too_long"] = length
    for stopper in callbacks:
        if isinstance(stopper, EarlyStopping) and trainer.max_epochs and trainer.max_epochs > 1:
            every = trainer.check_val_every_n_epoch or 1
            own_unit = getattr(stopper, "iterations", None)
            if (
                own_unit is None
                and trainer.max_epochs < stopper.patience * every < 10**9
                and not _defaulted(stopper)
            ):
                found["patience_too_long"] = stopper.patience
    for code, value in found.items():
        signals.record(LINT + code, 0, value, "count")


def unknown_monitors(trainer: Trainer, signals: Signals, step: int) -> None:
    """After the first validation: callbacks that watch a figure of it which is not logged."""
    logged = set(trainer.callback_metrics)
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    watched = [c.monitor for c in callbacks if _watches(c)]
    # those of training may come at the end of the epoch
    lost = [name for name in watched if name not in logged and kind_of(name)[0] == "metric"]
    if lost:
        signals.record(LINT + "monitor_unknown", step, len(lost), "count")


def after_warm_up(module: LightningModule, batch: Any, context: Context, step: int, signals: Signals) -> None:
    """Loss of one batch in both modes, and what an empty image changes in the output."""
    offered = loss_of(module, batch)
    if offered is not None:
        ask, own = offered
        values = []
        for training in (True, False):
            with untouched(module, training), torch.no_grad(), context():
                torch.manual_seed(0)
                values.append(scalars(ask(own))[LOSS])
        if values[0] > 0:
            signals.record(PROBE + "train_eval", step, values[1] / values[0], "norm")
    outputs = outputs_of(module, batch)
    if outputs is not None:
        give, images = outputs
        with untouched(module), torch.no_grad(), context():
            effect = _relative(give(torch.zeros_like(images)), give(images))
        signals.record(PROBE + "input_effect", step, effect, "norm")
    distance = _teacher_distance(module)
    if distance is not None:
        signals.record(PROBE + "teacher_distance", step, distance, "norm")


DISCRIMINATOR_BATCHES = 4
"""Batches in which the input of a discriminator is looked at, from the start or from where a run goes on."""


class DiscriminatorProbe:
    """Compares the ranges of real and predicted images that reach the discriminator, over its first batches.

    Those are the first and the second call of each step; what follows (a score of pseudo-labels, a
    gradient penalty, the generator's own pass) shows one of both again.

    Args:
        module: whose child with "discriminator" in its name is watched.
    """

    def __init__(self, module: LightningModule) -> None:
        self._ranges: tuple[list[Tensor], list[Tensor]] = ([], [])
        self._calls = self._batches = 0
        child = next((m for n, m in module.named_children() if "discriminator" in n.lower()), None)
        self._handle = None if child is None else child.register_forward_pre_hook(self._note)

    def batch_starts(self) -> None:
        """The next call is the first of a step."""
        self._calls = 0

    def _note(self, _: nn.Module, arguments: tuple[Any, ...]) -> None:
        image = arguments[0] if arguments else None
        if isinstance(image, Tensor) and image.is_floating_point():
            if self._calls < len(self._ranges):
                # not of single images: real ones differ in contrast too
                values = image.detach()
                self._ranges[self._calls].append(torch.stack([values.amin(), values.amax()]).float())
            self._calls += 1

    def batch_ends(self, step: int, signals: Signals) -> None:
        """Behind the last batch that is looked at, record the ratio of the larger range to the smaller."""
        self._batches += 1
        if self._handle is None or self._batches < DISCRIMINATOR_BATCHES:
            return
        self.close()
        if not all(self._ranges):
            return
        ranges = [torch.stack(seen).cpu() for seen in self._ranges]
        spans = [float(seen[:, 1].max() - seen[:, 0].min()) for seen in ranges]
        if min(spans) > 0:
            signals.record(PROBE + "d_range_ratio", step, max(spans) / min(spans), "norm")

    def close(self) -> None:
        """Watch no longer."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None


def _teacher_distance(module: LightningModule) -> float | None:
    """Relative distance of averaged weights to the trained ones, where a module has both."""
    teacher = getattr(getattr(module, "teacher", None), "net", None)
    student = getattr(module, "generator", None) or getattr(module, "net", None)
    if not isinstance(teacher, nn.Module) or not isinstance(student, nn.Module):
        return None
    pairs = list(zip(teacher.parameters(), student.parameters(), strict=False))
    gap = sum(float((a.detach() - b.detach()).square().sum()) for a, b in pairs)
    size = sum(float(b.detach().square().sum()) for _, b in pairs)
    return (gap / size) ** 0.5 if size else None


def _relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().mean() / b.abs().mean().clamp(min=1e-12))


def _watches(callback: Any) -> bool:
    return isinstance(callback, EarlyStopping | ModelCheckpoint) and bool(callback.monitor)


def _defaulted(stopper: EarlyStopping) -> bool:
    """Whether its patience was left as it is by default."""
    return getattr(stopper, "_wanted_patience", stopper.patience) is None or stopper.patience == 3


def _is_trained(norm: nn.Module) -> bool:
    return any(p.requires_grad for p in norm.parameters())
