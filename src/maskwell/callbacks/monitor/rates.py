"""Learning rates as they are, beside what their schedules say they should be."""

from __future__ import annotations

import copy
from typing import Any

import torch
from lightning import Trainer
from torch import nn
from torch.optim import Optimizer
from torch.optim import lr_scheduler as schedules

from maskwell.health import signals as names
from maskwell.health.signals import Signals

ABRUPT = 2.0
"""A schedule that changes the rate by this factor in one step declares a change."""
SELDOM = 200
"""... but not again within so many: who cycles all the time must not be deaf all the time."""
CATCH_UP = 4096
"""Steps that a schedule is simulated at once, at most."""
FORESEEABLE = (
    schedules.LambdaLR,
    schedules.MultiplicativeLR,
    schedules.StepLR,
    schedules.MultiStepLR,
    schedules.ConstantLR,
    schedules.LinearLR,
    schedules.ExponentialLR,
    schedules.PolynomialLR,
    schedules.CosineAnnealingLR,
    schedules.CosineAnnealingWarmRestarts,
    schedules.OneCycleLR,
    schedules.CyclicLR,
)
"""Schedules whose rates follow from the number of steps alone, and that hold no other schedule."""


class RateWatch:
    """Records the rate of every optimiser at its steps, and runs a shadow of its schedule along.

    Args:
        signals: where to.
    """

    def __init__(self, signals: Signals) -> None:
        self.signals = signals
        self._shadows: dict[int, Shadow | None] = {}
        self._last: dict[str, float] = {}
        self._before: dict[str, int] = {}  # steps of schedules that were made before anybody watched
        self._declared = float("-inf")

    def record(self, trainer: Trainer, optimizer: Optimizer, label: str, step: int, made: int) -> None:
        """Note the rate of an optimiser's next step, its ``made``-th."""
        rate = _rate(optimizer.param_groups)
        self.signals.record(names.LR + label, step, rate, "rate")
        config = _config(trainer, optimizer)
        expected = self._expected(config)
        if expected is not None:
            self.signals.record(names.LR_EXPECTED + label, step, expected, "rate")
        before = self._last.get(label)
        follows = expected is not None and abs(rate - expected) <= 0.01 * abs(expected)
        changed = before and follows and made > 2 and not 1 / ABRUPT < rate / before < ABRUPT
        if changed and step - self._declared > SELDOM:
            self._declared = step
            self.signals.declare("lr_change", step)
        self._last[label] = rate
        if config is not None and self._counts_steps(trainer, config):
            stepped = getattr(config.scheduler, "last_epoch", None)
            if isinstance(stepped, int):
                unseen = self._before.setdefault(label, stepped if made == 1 else 0)
                self.signals.record(
                    names.COUNTER + f"schedule_steps/{label}", step, stepped - unseen, "count"
                )

    def _counts_steps(self, trainer: Trainer, config: Any) -> bool:
        """Whether a schedule is meant to move with every step, as far as it shows."""
        if trainer.lightning_module.automatic_optimization:
            return bool(config.interval == "step" and config.frequency == 1)
        stepped = getattr(config.scheduler, "last_epoch", 0)
        return stepped > 2 * (trainer.current_epoch + 1)

    def _expected(self, config: Any) -> float | None:
        if config is None:
            return None
        key = id(config.scheduler)  # one may take another's place in the middle of a run
        if key not in self._shadows:
            self._shadows[key] = Shadow.of(config.scheduler)
        shadow = self._shadows[key]
        return None if shadow is None else shadow.rate()


class Shadow:
    """A copy of a schedule over a parameterless copy of its optimiser, stepped as often as the real one."""

    def __init__(self, real: Any, mirrored: Any, groups: list[dict[str, Any]]) -> None:
        self.real, self.mirrored, self.groups = real, mirrored, groups

    @classmethod
    def of(cls, scheduler: Any) -> Shadow | None:
        """A shadow that begins where ``scheduler`` is; None for kinds that depend on more than the step."""
        if not _foreseeable(scheduler):
            return None
        dummy = torch.optim.SGD(
            [
                {"params": [nn.Parameter(torch.zeros(0))], **_settings(g)}
                for g in scheduler.optimizer.param_groups
            ],
            lr=1.0,
        )
        return cls(scheduler, _mirror(scheduler, dummy), dummy.param_groups)

    def rate(self) -> float | None:
        """The rate at the real schedule's position; None where that went back."""
        steps = self.real.last_epoch - self.mirrored.last_epoch
        if not 0 <= steps <= CATCH_UP:
            return None
        for _ in range(steps):
            self.mirrored.step()
        return _rate(self.groups)

    def ahead(self, steps: int) -> list[float]:
        """Rates of the next ``steps`` steps, of a copy of the shadow."""
        dummy = copy.deepcopy(self.mirrored.optimizer)
        mirrored = _mirror(self.mirrored, dummy)
        found = []
        for _ in range(steps):
            found.append(_rate(dummy.param_groups))
            mirrored.step()
        return found


def scale_rates(trainer: Trainer, factor: float) -> None:
    """Multiply the rates of all optimisers, and those that their schedules start from."""
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            for key in ("lr", "initial_lr", "max_lr", "min_lr"):
                if key in group:
                    group[key] = group[key] * factor
    seen: set[int] = set()
    for config in trainer.lr_scheduler_configs:
        _scale(config.scheduler, factor, seen)


def _scale(scheduler: Any, factor: float, seen: set[int]) -> None:
    if id(scheduler) in seen:
        return
    seen.add(id(scheduler))
    for key in ("base_lrs", "_last_lr", "min_lrs"):
        if isinstance(getattr(scheduler, key, None), list):
            setattr(scheduler, key, [rate * factor for rate in getattr(scheduler, key)])
    if isinstance(getattr(scheduler, "eta_min", None), float):
        scheduler.eta_min *= factor
    for inner in getattr(scheduler, "_schedulers", []):
        _scale(inner, factor, seen)


def _rate(groups: list[dict[str, Any]]) -> float:
    """The first group's, or while that one rests the largest: a part may be frozen by its rate."""
    return float(groups[0]["lr"]) or max(float(group["lr"]) for group in groups)


def _foreseeable(scheduler: Any) -> bool:
    """Whether it may be stepped on a copy: what others hold would be the original's own."""
    if type(scheduler) is schedules.SequentialLR:
        return all(map(_foreseeable, scheduler._schedulers))
    return type(scheduler) in FORESEEABLE


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {key: copy.deepcopy(value) for key, value in group.items() if key != "params"}


def _mirror(scheduler: Any, dummy: Optimizer) -> Any:
    mirrored = copy.copy(scheduler)
    mirrored.optimizer = dummy
    # what __init__ and step() wrap belongs to the real optimiser
    mirrored.__dict__.pop("step", None)
    mirrored._step_count = 2  # at the first step, torch would look for the wrapper of the real optimiser
    if hasattr(scheduler, "_schedulers"):
        mirrored._schedulers = [_mirror(inner, dummy) for inner in scheduler._schedulers]
    for key in ("base_lrs", "_last_lr", "_milestones"):
        if isinstance(getattr(scheduler, key, None), list):
            setattr(mirrored, key, list(getattr(scheduler, key)))
    return mirrored


def _config(trainer: Trainer, optimizer: Optimizer) -> Any:
    """Lightning's entry of the schedule that belongs to an optimiser."""
    plain = getattr(optimizer, "optimizer", optimizer)
    return next((c for c in trainer.lr_scheduler_configs if c.scheduler.optimizer is plain), None)
