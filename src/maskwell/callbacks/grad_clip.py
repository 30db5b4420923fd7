"""Clips gradients by their global norm and logs what that did."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from maskwell.callbacks.clock import optimiser_suffixes
from maskwell.errors import UserError


@dataclass(frozen=True)
class Norms:
    """Of gradients: ``each`` [N] and ``total`` on the device; ``read``: the total and that of each group."""

    each: Tensor
    total: Tensor
    read: list[float]


def norms_of(gradients: list[Tensor]) -> Tensor:
    """Norm of each of these, float32 [N] on the device of the first: a module may lie on several."""
    norms, home = torch._foreach_norm(gradients), gradients[0].device
    if any(norm.device != home for norm in norms):
        norms = tuple(norm.to(home) for norm in norms)
    return torch.stack(norms).float()


def with_gradients(optimizer: Optimizer) -> list[nn.Parameter]:
    """Parameters of an optimiser that have a gradient, in its order."""
    return [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def total_and_groups(optimizer: Optimizer, each: Tensor) -> Tensor:
    """[1 + groups]: norm of everything and of each group, from that of every gradient in their order."""
    sizes = [sum(p.grad is not None for p in group["params"]) for group in optimizer.param_groups]
    return torch.stack([torch.linalg.vector_norm(part) for part in (each, *each.split(sizes))])


class TakesNorms:
    """A callback that looks at gradients before it changes them, and may be told their norms."""

    _given: tuple[Optimizer, Norms] | None = None

    def take(self, optimizer: Optimizer, norms: Norms) -> None:
        """What the monitor has measured of the gradients that are looked at next."""
        self._given = optimizer, norms

    def taken(self, optimizer: Optimizer) -> Norms | None:
        """What was measured for this step of the optimiser, once."""
        given, self._given = self._given, None
        return given[1] if given is not None and given[0] is optimizer else None


class GradClip(TakesNorms, Callback):
    """Bounds the global gradient norm before every optimiser step, automatic or manual.

    Gradients that are not finite are set to None, which skips the step fully (no weight decay, no
    moments): the weights stay those before it, and ``train/skipped_steps`` counts it. Data-parallel
    ranks hold the same gradients here and so decide alike.

    Logs ``train/grad_norm`` (before), ``train/grad_norm_clipped`` (after), ``train/grad_norm/<group>``
    for named parameter groups where there are several, and ``train/clipped_share``. With several
    optimisers each name carries that of the optimiser (``train/grad_norm_generator``).

    Args:
        max_norm: upper bound of the norm, of each optimiser; None measures only, "auto" takes the task's own.
        window: number of last steps over which the clipped share is taken.
    """

    def __init__(self, max_norm: float | Literal["auto"] | None = 1.0, window: int = 100) -> None:
        super().__init__()
        if (
            max_norm != "auto"
            and max_norm is not None
            and not (isinstance(max_norm, int | float) and max_norm > 0)
        ):
            raise UserError(
                f"callbacks.grad_clip.max_norm is {max_norm}: use a positive number, auto or null."
            )
        self.auto = max_norm == "auto"
        self.max_norm = None if isinstance(max_norm, str) else max_norm
        self.window = window
        self.skipped = 0
        self._clipped: dict[str, deque[bool]] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.gradient_clip_val:
            raise UserError(
                "trainer.gradient_clip_val and callbacks.grad_clip would both clip: set "
                "callbacks.grad_clip=null where gradients are shared out (trainer=fsdp, deepspeed), else "
                "trainer.gradient_clip_val=null."
            )
        if self.auto:
            self.max_norm = getattr(pl_module, "max_norm", 1.0)

    def _measure(self, optimizer: Optimizer, gradients: list[Tensor]) -> Norms:
        given = self.taken(optimizer)
        if given is not None:
            return given
        each = norms_of(gradients)
        measured = total_and_groups(optimizer, each)
        return Norms(each, measured[0], measured.tolist())  # the one transfer of a step

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        suffix = self._suffix(trainer, pl_module, optimizer)
        parameters = with_gradients(optimizer)
        if not parameters:
            self.taken(optimizer)
            return
        plain = getattr(optimizer, "optimizer", optimizer)
        norms = self._measure(plain, [p.grad for p in parameters if p.grad is not None])
        if not math.isfinite(norms.read[0]):
            self.skip(parameters)
        else:
            self._clip(parameters, norms, suffix)
        pl_module.log_dict(self._figures(optimizer, norms.read, suffix), on_step=True, on_epoch=False)

    def skip(self, parameters: list[nn.Parameter]) -> None:
        """Drop the gradients of a step, which then does nothing, and count it."""
        self.skipped += 1
        for parameter in parameters:
            parameter.grad = None

    def _clip(self, parameters: list[nn.Parameter], norms: Norms, suffix: str) -> None:
        clipped = self.max_norm is not None and norms.read[0] > self.max_norm
        self._clipped.setdefault(suffix, deque(maxlen=self.window)).append(clipped)
        if clipped:
            assert self.max_norm is not None
            nn.utils.clip_grads_with_norm_(parameters, self.max_norm, norms.total)

    def _figures(self, optimizer: Optimizer, measured: list[float], suffix: str) -> dict[str, float]:
        total, *by_group = measured
        figures = {f"train/grad_norm{suffix}": total, "train/skipped_steps": float(self.skipped)}
        names = [group.get("name") for group in optimizer.param_groups]
        if len(names) > 1:
            figures |= {f"train/grad_norm{suffix}/{n}": v for n, v in zip(names, by_group, strict=True) if n}
        if self.max_norm is not None:
            window = self._clipped.get(suffix, deque())
            figures[f"train/grad_norm_clipped{suffix}"] = min(total, self.max_norm)
            figures[f"train/clipped_share{suffix}"] = sum(window) / max(1, len(window))
        return figures

    def _suffix(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> str:
        suffixes = optimiser_suffixes(trainer, module)
        # manual optimisation hands over Lightning's wrapper
        plain = getattr(optimizer, "optimizer", optimizer)
        return next((s for s, o in zip(suffixes, trainer.optimizers, strict=True) if o is plain), "")

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped, "clipped": {k: list(v) for k, v in self._clipped.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped = state_dict["skipped"]
        self._clipped = {k: deque(v, maxlen=self.window) for k, v in state_dict["clipped"].items()}
