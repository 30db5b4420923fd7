"""Faults of the loss and of numbers in it: a task's loss changes between its function and the optimiser."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from maskwell.callbacks.faults.base import Fault, replace_method

Parts = Mapping[str, Tensor]


class LossFault(Fault):
    """Changes loss and parts of each training step, wherever the family makes them.

    Tasks make them in ``step``, those that optimise by hand in an ``objective`` too. The monitor's probes,
    which ask the same functions, see the change as well.
    """

    trainer: Trainer
    batch: Any

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stand between the task's loss functions and their callers."""
        self.trainer = trainer
        task: Any = pl_module
        replace_method(task, "step", self._step(task.step))
        if not pl_module.automatic_optimization:
            replace_method(task, "objective", self._objective(task.objective))

    def _step(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        def step(batch: Any, stage: str) -> Any:
            if stage != "train":
                return inner(batch, stage)
            self.batch = batch
            with torch.enable_grad():  # the weight of a part is its derivative
                output = inner(batch, stage)
            loss, parts = self._spoilt(output.loss, output.parts, output.facts)
            return replace(output, loss=loss, parts=parts)

        return step

    def _objective(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        def objective(networks: Any, labelled: Any, *more: Any) -> Any:
            self.batch = labelled
            with torch.enable_grad():
                made = inner(networks, labelled, *more)
            loss, parts = self._spoilt(made.generator, made.parts, {})
            return replace(made, generator=loss, parts=parts)

        objective.recipe = inner.recipe  # type: ignore[attr-defined]
        return objective

    def _spoilt(self, loss: Tensor, parts: Parts, facts: Parts) -> tuple[Tensor, dict[str, Tensor]]:
        if not self.acts():
            return loss, dict(parts)
        changed, changed_parts = self.spoil(loss, dict(parts), facts)
        if not torch.is_grad_enabled():
            return changed.detach(), {name: value.detach() for name, value in changed_parts.items()}
        return changed, changed_parts

    def acts(self) -> bool:
        """Whether this step's loss is to be changed."""
        return self.begun()

    def spoil(self, loss: Tensor, parts: dict[str, Tensor], facts: Parts) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and parts as the fault leaves them."""
        raise NotImplementedError

    def times(self, loss: Tensor, parts: Parts, factor: float | Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The whole loss and all its parts, multiplied."""
        return loss * factor, {name: value * factor for name, value in parts.items()}


class Undivided(LossFault):
    """The loss is a sum: what the family divides by is left out.

    ``by``: ``objects`` of the batch, or its ``images`` (and their pixels, where each has a class).
    """

    def __init__(self, severity: float = 1.0, start: int = 0, seed: int = 0, *, by: str = "images") -> None:
        super().__init__(severity, start, seed)
        self.by = by

    def spoil(self, loss: Tensor, parts: dict[str, Tensor], facts: Parts) -> tuple[Tensor, dict[str, Tensor]]:
        if self.by == "objects":
            count = sum(len(sample.labels) for sample in self.batch.samples)
        else:
            images = self.batch.images
            semantic = self.batch.samples[0].semantic is not None
            count = len(images) * (images.shape[-1] * images.shape[-2] if semantic else 1)
        return self.times(loss, parts, max(1, count))


class TermFault(LossFault):
    """Changes how much terms of the loss weigh: the ``terms`` largest, or those that are named."""

    own: ClassVar[tuple[str, ...]] = ("loss_aux", "loss_dn")
    """Sums of terms of other layers, which are no terms of their own."""

    def __init__(
        self, severity: float = 1.0, start: int = 0, seed: int = 0, *, term: str | None = None
    ) -> None:
        super().__init__(severity, start, seed)
        self.term = term
        self.weights: dict[str, float] = {}

    def largest(self, loss: Tensor, parts: Parts, count: int = 1) -> list[str]:
        """The terms that make up most of the loss, at the first time that they are asked for."""
        if not self.weights:
            self.weights = weights(loss, {n: v for n, v in parts.items() if n not in self.own})
            shares = {name: abs(weight * float(parts[name])) for name, weight in self.weights.items()}
            self._order = sorted(shares, key=lambda name: -shares[name])
        return [self.term] if self.term else self._order[:count]

    def weighted(self, loss: Tensor, parts: Parts, name: str, factor: float) -> Tensor:
        """The loss with a term's weight multiplied."""
        return loss + (factor - 1) * self.weights[name] * parts[name]


class WrongWeight(TermFault):
    """A term weighs ``severity`` times what it should."""

    def spoil(self, loss: Tensor, parts: dict[str, Tensor], facts: Parts) -> tuple[Tensor, dict[str, Tensor]]:
        for name in self.largest(loss, parts):
            loss = self.weighted(loss, parts, name, self.severity)
        return loss, parts


class FlippedSign(TermFault):
    """The largest term is subtracted, with ``severity`` times its weight."""

    def spoil(self, loss: Tensor, parts: dict[str, Tensor], facts: Parts) -> tuple[Tensor, dict[str, Tensor]]:
        for name in self.largest(loss, parts):
            loss = self.weighted(loss, parts, name, -self.severity)
        return loss, parts


class MissingTerms(TermFault):
    """The ``severity`` largest terms are always 0 and train nothing."""

    def spoil(self, loss: Tensor, parts: dict[str, Tensor], facts: Parts) -> tuple[Tensor, dict[str, Tensor]]:
        for name in self.largest(loss, parts, int(self.severity)):
            loss = self.weighted(loss, parts, name, 0.0)
            parts[name] = torch.zeros_like(parts[name])
        return loss, parts


class NanLoss(LossFault):
    """The loss is NaN for ``severity`` steps."""

    def acts(self) -> bool:
        return self.within()

    def spoil(self, loss: Tensor, parts: dict[str, Tensor], facts: Parts) -> tuple[Tensor, dict[str, Tensor]]:
        return self.times(loss, parts, torch.nan)


class Spike(LossFault):
    """The loss of one batch is ``severity`` times what it is."""

    def acts(self) -> bool:
        return self.now == self.start + 1 and super().acts()

    def spoil(self, loss: Tensor, parts: dict[str, Tensor], facts: Parts) -> tuple[Tensor, dict[str, Tensor]]:
        return self.times(loss, parts, self.severity)


class Shift(LossFault):
    """From one step on, the loss is ``severity`` times what it was."""

    def spoil(self, loss: Tensor, parts: dict[str, Tensor], facts: Parts) -> tuple[Tensor, dict[str, Tensor]]:
        return self.times(loss, parts, self.severity)


class Growth(LossFault):
    """From one step on, the loss grows by a share ``severity`` of itself with every step."""

    def spoil(self, loss: Tensor, parts: dict[str, Tensor], facts: Parts) -> tuple[Tensor, dict[str, Tensor]]:
        steps = self.now - self.start
        return self.times(loss, parts, (1 + self.severity) ** steps)


class Heavy(LossFault):
    """No fault: the loss weighs ``severity`` times as much; its terms, logged before weights, stay."""

    def spoil(self, loss: Tensor, parts: dict[str, Tensor], facts: Parts) -> tuple[Tensor, dict[str, Tensor]]:
        return loss * self.severity, parts


class Ramp(TermFault):
    """No fault: behind ``start`` the largest term comes in over ``severity`` steps, from a tenth on."""

    EVERY = 50
    """Steps between declarations while it goes on."""

    def acts(self) -> bool:
        step = self.now - self.start
        if torch.is_grad_enabled() and 0 < step <= self.severity and step % self.EVERY == 1:
            self.declare(self.trainer, "ramp")
        return step <= self.severity

    def spoil(self, loss: Tensor, parts: dict[str, Tensor], facts: Parts) -> tuple[Tensor, dict[str, Tensor]]:
        done = max(0.0, (self.now - self.start) / self.severity)
        for name in self.largest(loss, parts):
            loss = self.weighted(loss, parts, name, 0.1 + 0.9 * done)
        return loss, parts


def weights(loss: Tensor, parts: Parts) -> dict[str, float]:
    """With what weight each part enters the loss: its derivative; parts without any are left out."""
    found: dict[str, float] = {}
    for name, part in parts.items():
        if not part.requires_grad:
            continue
        (slope,) = torch.autograd.grad(loss, part, retain_graph=True, allow_unused=True)
        if slope is not None and float(slope):
            found[name] = float(slope)
    return found
