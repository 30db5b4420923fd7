"""What all faults share: how strong they are, when they begin, and when they first acted."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from lightning import Callback, LightningModule, Trainer
from torch import nn

from maskwell.callbacks.clock import iteration
from maskwell.errors import UserError


class Fault(Callback):
    """Spoils a training from outside, as a bug would; for the proof of the monitor.

    A fault stands before the monitor in the list of callbacks, so that the monitor sees its work.

    Args:
        severity: how strong, in the unit that each fault names.
        start: finished iterations before it begins; 0: it is there from the beginning.
        seed: of what is random in it.

    Attributes:
        onset: the step, counted from 1 as in the logs, in which it first acted; None before.
    """

    def __init__(self, severity: float = 1.0, start: int = 0, seed: int = 0) -> None:
        super().__init__()
        if start < 0:
            raise UserError(f"{type(self).__name__}(start={start}): give 0 or more iterations.")
        self.severity, self.start, self.seed = severity, start, seed
        self.onset: int | None = None

    def begun(self, trainer: Trainer, module: LightningModule) -> bool:
        """Whether the step that is being made belongs to it; notes the first one."""
        if self.step(trainer, module) <= self.start:
            return False
        self.act(trainer, module)
        return True

    def within(self, trainer: Trainer, module: LightningModule) -> bool:
        """As :meth:`begun`, for a fault that lasts ``severity`` steps."""
        if self.step(trainer, module) > self.start + self.severity:
            return False
        return self.begun(trainer, module)

    def act(self, trainer: Trainer, module: LightningModule) -> None:
        """Note that it acts in this step."""
        if self.onset is None:
            self.onset = self.step(trainer, module)

    def step(self, trainer: Trainer, module: LightningModule) -> int:
        """The step that is being made, from 1."""
        own = getattr(module, "iteration", None)
        return own + 1 if isinstance(own, int) else iteration(trainer, module)

    def random(self, *key: int) -> np.random.Generator:
        """A generator of its own for each key."""
        return np.random.default_rng([self.seed, *key])

    def hit(self, share: float, *key: int) -> bool:
        """Whether the thing of this key is among the share that is spoilt."""
        return bool(self.random(*key).random() < share)


def trained(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Named parameters that are trained, in the order of the module."""
    return [(name, p) for name, p in module.named_parameters() if p.requires_grad]


def replace_method(owner: object, name: str, method: object) -> None:
    """Put a function in the place of a method of one object."""
    cast(Any, owner).__dict__[name] = method
