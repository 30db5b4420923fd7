"""How strongly each head is pulled: gradient magnitudes by group of parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from maskwell.callbacks.grad_clip import TakesNorms, norms_of, with_gradients
from maskwell.errors import UserError


class HeadGradients(TakesNorms, Callback):
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
        self._laid: tuple[list[int], Layout] | None = None  # of which parameters

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        offered: Any = getattr(pl_module, "gradient_groups", None)
        plain = getattr(optimizer, "optimizer", optimizer)
        given = self.taken(plain)
        parameters = with_gradients(plain)
        if offered is None or not parameters:
            return
        each = norms_of([p.grad for p in parameters if p.grad is not None]) if given is None else given.each
        of = [id(p) for p in parameters]
        if self._laid is None or self._laid[0] != of:  # another optimiser, or more is trained now
            self._laid = of, layout(offered(), plain, each.device)
        laid = self._laid[1]
        values = rms(laid, each).tolist()  # the one transfer of a step
        measured = dict(zip(laid.names, values, strict=True))
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


@dataclass(frozen=True)
class Layout:
    """``names`` of groups; ``places`` [N], the group of each gradient; ``sizes`` [G], elements of each."""

    names: tuple[str, ...]
    places: Tensor
    sizes: Tensor


def layout(
    groups: Mapping[str, Sequence[nn.Parameter]], optimizer: Optimizer, device: torch.device
) -> Layout:
    """Which group each gradient of an optimiser is of; its parameters without one count as zeros.

    Groups that other optimisers train are left out.
    """
    own = {p for group in optimizer.param_groups for p in group["params"]}
    groups = {name: members for name, members in groups.items() if not members or own.intersection(members)}
    group_of = {p: number for number, members in enumerate(groups.values()) for p in members}
    places = torch.tensor([group_of.get(p, len(groups)) for p in with_gradients(optimizer)], device=device)
    sizes = [float(max(1, sum(p.numel() for p in members))) for members in groups.values()]
    return Layout(tuple(groups), places, torch.tensor(sizes, device=device))


def rms(laid: Layout, each: Tensor) -> Tensor:
    """Root mean square of all elements of the gradients of each group [G], from the norm of each [N]."""
    squares = each.new_zeros(len(laid.names) + 1).index_add_(0, laid.places, each**2)
    return (squares[: len(laid.names)] / laid.sizes).sqrt()


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
