"""How strongly each head is pulled: gradient magnitudes by group of parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from maskwell.callbacks.grad_clip import norms_of
from maskwell.errors import UserError


class HeadGradients(Callback):
    """Logs ``train/grad/<group>`` at every step and prints the first one, for tasks with ``gradient_groups``.

    The magnitude is the root mean square over all elements of a group, before clipping: a sum over
    elements would grow with the size of a head, and no band could suit two of them.

    Args:
        low: below it a group hardly learns.
        high: above it, its gradients explode.

    Attributes:
        steps, exploded: optimiser steps, and those in which a group was above ``high`` or not finite.
        highest: of each group so far.
    """

    def __init__(self, low: float = 1e-6, high: float = 10.0) -> None:
        super().__init__()
        if not 0 < low < high:
            raise UserError(f"callbacks.head_gradients.low={low:g} and high={high:g}: give 0 < low < high.")
        self.low, self.high = low, high
        self.steps = self.exploded = 0
        self.highest: dict[str, float] = {}

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        groups: Any = getattr(pl_module, "gradient_groups", None)
        if groups is None:
            return
        tensors = {name: rms(parameters) for name, parameters in groups().items()}
        values = torch.stack(list(tensors.values())).tolist()  # the one transfer of a step
        measured = dict(zip(tensors, values, strict=True))
        if self.steps == 0 and trainer.is_global_zero:
            mode = getattr(getattr(pl_module, "policy", None), "mode", "")
            print(check(measured, self.low, self.high, mode))
        self.steps += 1
        self.exploded += any(not value <= self.high for value in values)
        self.highest |= {name: max(value, self.highest.get(name, 0.0)) for name, value in measured.items()}
        pl_module.log_dict(
            {f"train/grad/{name}": value for name, value in measured.items()}, on_step=True, on_epoch=False
        )

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "exploded": self.exploded, "highest": dict(self.highest)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.steps, self.exploded = state_dict["steps"], state_dict["exploded"]
        self.highest = dict(state_dict["highest"])


def rms(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Root mean square of all elements of the gradients, a scalar; parameters without one count as zeros."""
    listed = list(parameters)
    gradients = [p.grad for p in listed if p.grad is not None]
    if not gradients:
        return torch.zeros((), device=listed[0].device if listed else None)
    return torch.linalg.vector_norm(norms_of(gradients)) / math.sqrt(sum(p.numel() for p in listed))


def check(measured: Mapping[str, float], low: float, high: float, mode: str = "") -> str:
    """The magnitudes in the notes' form, each called good, exploding or not learning."""
    title = f"[Gradient Check - {mode.capitalize()}]" if mode else "[Gradient Check]"
    lines = [f"  {name}: {value:.2g} ({verdict(value, low, high)})" for name, value in measured.items()]
    return "\n".join([f"{title} root mean square of an element, good from {low:g} to {high:g}", *lines])


def verdict(value: float, low: float, high: float) -> str:
    """``good``, ``exploding`` (also nan) or ``not learning``."""
    if not value <= high:
        return "exploding"
    return "good" if value >= low else "not learning"
