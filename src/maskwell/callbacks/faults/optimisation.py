"""Faults between gradients and weights: rates, schedules, optimisers, clipping, single bad numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from maskwell.callbacks.faults.base import Fault, replace_method, trained
from maskwell.callbacks.grad_clip import GradClip

HEAD = 0.3
"""Share of the tensors of the first optimiser, from the end, that counts as the head."""


class WrongScheduleUnit(Fault):
    """Schedules move ``severity`` times for each step: 0.1 is once in ten steps, 10 ten times in one."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for config in trainer.lr_scheduler_configs:
            schedule: Any = config.scheduler
            replace_method(schedule, "step", self._paced(schedule.step))

    def _paced(self, step: Callable[[], None]) -> Callable[..., None]:
        owed = 0.0

        def paced(*_: Any, **__: Any) -> None:
            nonlocal owed
            owed += self.severity
            while owed > 1 - 1e-9:
                owed -= 1
                step()

        return paced


class KeptGradients(Fault):
    """Gradients are not set to zero: each step adds to those of all steps before."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._kept: dict[nn.Parameter, Tensor] = {}
        for optimizer in trainer.optimizers:
            optimizer.register_step_post_hook(self._keep)

    def _keep(self, optimizer: Optimizer, *_: Any) -> None:
        for parameter in parameters(optimizer):
            if parameter.grad is not None:
                self._kept[parameter] = parameter.grad.detach().clone()

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        if not self.begun():
            return
        for parameter in parameters(optimizer):
            if parameter.grad is not None and parameter in self._kept:
                parameter.grad += self._kept[parameter]


class MissingParameters(Fault):
    """A ``severity`` share of the trained tensors is in no optimiser."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for number, optimizer in enumerate(trainer.optimizers):
            for place, group in enumerate(optimizer.param_groups):
                kept = [
                    p for i, p in enumerate(group["params"]) if not self.hit(self.severity, number, place, i)
                ]
                group["params"] = kept or group["params"][:1]


class FrozenHead(Fault):
    """A ``severity`` share of the head stays frozen although the optimiser holds it."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        held = set(parameters(trainer.optimizers[0]))
        every = [p for _, p in trained(pl_module) if p in held]
        head = every[-max(1, round(HEAD * len(every))) :]
        for parameter in head[: max(1, round(self.severity * len(head)))]:
            parameter.requires_grad_(False)


class InertClip(Fault):
    """Gradients are ``severity`` times as long as their bound, and used as they are in spite of clipping."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        clips = [c for c in trainer.callbacks if isinstance(c, GradClip)]  # type: ignore[attr-defined]
        self.bound = 1.0
        for clip in clips:
            own = getattr(pl_module, "max_norm", 1.0) if clip.auto else clip.max_norm
            self.bound = own or self.bound
            inner = clip.on_before_optimizer_step
            replace_method(clip, "on_before_optimizer_step", self._undone(inner))

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        gradients = [p.grad for p in parameters(optimizer) if p.grad is not None]
        if gradients and self.begun():
            norm = nn.utils.get_total_norm(gradients).clamp(min=1e-12)
            for gradient in gradients:
                gradient *= self.severity * self.bound / norm

    def _undone(self, clip: Callable[..., None]) -> Callable[..., None]:
        def undone(trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
            before = {p: p.grad.clone() for p in parameters(optimizer) if p.grad is not None}
            clip(trainer, module, optimizer)
            for parameter, gradient in before.items():
                if parameter.grad is not None and self.onset is not None:
                    parameter.grad.copy_(gradient)

        return undone


class LostOptimizerState(Fault):
    """A resumed run begins with empty optimisers, although its checkpoint holds their state."""

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.onset = int(checkpoint["iteration"]) + 1
        for state in checkpoint["optimizer_states"]:
            state["state"] = {}


class PoisonedCheckpoint(Fault):
    """``severity`` weights of the checkpoint that a run is resumed from are NaN."""

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.onset = int(checkpoint["iteration"]) + 1
        names = [name for name, _ in trained(pl_module)]
        name = names[int(self.random().integers(len(names)))]
        with torch.no_grad():
            # the weights are loaded by now: what the checkpoint brought is already in the module
            values = dict(pl_module.named_parameters())[name].view(-1)
            values[: int(self.severity)] = torch.nan


class InfiniteGradients(Fault):
    """One gradient is infinite for ``severity`` steps."""

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        found = [p.grad for p in parameters(optimizer) if p.grad is not None]
        if found and self.within():
            found[0].view(-1)[0] = torch.inf


class Slowed(Fault):
    """From one step on, every update is ``severity`` times what the optimiser says, down to none at all."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._before: dict[nn.Parameter, Tensor] = {}
        for optimizer in trainer.optimizers:
            optimizer.register_step_post_hook(self._shorten)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        if self.begun():
            self._before |= {p: p.detach().clone() for p in parameters(optimizer)}

    @torch.no_grad()
    def _shorten(self, optimizer: Optimizer, *_: Any) -> None:
        for parameter in parameters(optimizer):
            if parameter in self._before:
                parameter.copy_(torch.lerp(self._before[parameter], parameter, self.severity))


class CyclicRate(Fault):
    """No fault: the schedule itself restarts every ``severity`` steps, falling from its rate to a tenth."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for config in trainer.lr_scheduler_configs:
            schedule: Any = config.scheduler
            schedule.lr_lambdas = [self._cyclic(share) for share in schedule.lr_lambdas]

    def _cyclic(self, share: Callable[[int], float]) -> Callable[[int], float]:
        return lambda step: share(step) * (1 - 0.9 * (step % self.severity) / self.severity)


class Unfreezing(Fault):
    """No fault: the first half of the network is trained from ``start`` on only."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        every = trained(pl_module)
        self.late = [p for _, p in every[: len(every) // 2]]
        for parameter in self.late:
            parameter.requires_grad_(False)

    def batch_starts(self, trainer: Trainer, module: LightningModule, batch: Any) -> None:
        if self.onset is None and self.begun():
            for parameter in self.late:
                parameter.requires_grad_(True)


def parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    """All that an optimiser trains."""
    return [p for group in optimizer.param_groups for p in group["params"]]
