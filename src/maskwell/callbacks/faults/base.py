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
        now: the step that is being made.
    """

    def __init__(self, severity: float = 1.0, start: int = 0, seed: int = 0) -> None:
        super().__init__()
        if start < 0:
            raise UserError(f"{type(self).__name__}(start={start}): give 0 or more iterations.")
        self.severity, self.start, self.seed = severity, start, seed
        self.onset: int | None = None
        self.now = 1

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        own = isinstance(getattr(pl_module, "iteration", None), int)
        self.now = iteration(trainer, pl_module) + own
        self.batch_starts(trainer, pl_module, batch)

    def batch_starts(self, trainer: Trainer, module: LightningModule, batch: Any) -> None:
        """What it does before a step; a fault that was set up once only notes that it acts."""
        self.begun()

    @property
    def due(self) -> bool:
        """Whether the step that is being made belongs to it."""
        return self.now > self.start

    def begun(self) -> bool:
        """As :attr:`due`; notes the first such step."""
        if self.due:
            self.act()
        return self.due

    def within(self) -> bool:
        """As :meth:`begun`, for a fault that lasts ``severity`` steps."""
        return self.now <= self.start + self.severity and self.begun()

    def act(self) -> None:
        """Note that it acts in this step."""
        if self.onset is None:
            self.onset = self.now

    def declare(self, trainer: Trainer, event: str) -> None:
        """Tell every monitor that something is changed on purpose: of what is no fault."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if (engine := getattr(callback, "engine", None)) is not None:
                engine.signals.declare(event, self.now)

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
