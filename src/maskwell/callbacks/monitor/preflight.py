"""All that is measured before the first step, within its time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from lightning import LightningModule, Trainer

from maskwell.callbacks.doubling import doubling_ratios
from maskwell.callbacks.monitor import console, data_probe, model_probe
from maskwell.callbacks.monitor.forward import loss_of, scalars
from maskwell.callbacks.monitor.plain import batch_size
from maskwell.callbacks.monitor.rates import Shadow
from maskwell.callbacks.monitor.readings import first_rate
from maskwell.callbacks.monitor.rng import untouched
from maskwell.errors import UserError
from maskwell.health.signals import COUNTER, DOUBLING, DOUBLING_NOISE, Signals

LEAST_RATE = 1e-3
"""With which one batch is learnt at least."""
LONGEST = 20_000
"""Steps over which a schedule is looked at, at most."""


class Preflight:
    """Measures data, loss, network and optimisers; nothing of them is changed by it.

    It stops where its time is over: ``seconds``, or ``share`` of the first epoch if that is more.

    Args:
        seconds: see above.
        share: see above.
        samples: of each split that are looked at.
        after: step at which modes and inputs are compared once, when the network has learnt something.
        one_batch_steps: learn one batch by heart on a copy, in so many steps; 0: do not.
    """

    def __init__(
        self,
        seconds: float = 10.0,
        share: float = 0.01,
        samples: int = 64,
        after: int = 200,
        one_batch_steps: int = 0,
    ) -> None:
        if seconds < 0 or share < 0 or samples < 0 or one_batch_steps < 0:
            raise UserError("health.preflight: seconds, share, samples and one_batch_steps are 0 or more.")
        self.seconds, self.share, self.samples = seconds, share, samples
        self.after, self.one_batch_steps = after, one_batch_steps

    def run(self, trainer: Trainer, module: LightningModule, batch: Any, signals: Signals) -> None:
        """Before the first step; ``batch`` is the first one."""
        begun = time.monotonic()
        context = trainer.precision_plugin.train_step_context
        stages: list[tuple[str, Callable[[], None]]] = [
            ("parameters", lambda: model_probe.coverage(module, trainer, signals)),
            ("configuration", lambda: self._lint(trainer, module, batch, signals)),
            ("first loss", lambda: model_probe.initial_loss(module, batch, context, signals)),
            ("normaliser", lambda: _doubling(trainer, module, batch, signals)),
            ("batch mixing", lambda: model_probe.mixing(module, batch, context, signals)),
            ("data", lambda: self._data(trainer, module, signals, begun)),
            ("one batch", lambda: self._one_batch(trainer, module, batch, signals)),
        ]
        limit = self.seconds
        for name, stage in stages:
            # ranks go on together: some stages talk to each other
            spent = time.monotonic() - begun
            if not trainer.strategy.reduce_boolean_decision(spent <= limit, all=True):
                return
            _attempt(name, stage)
            if name == "first loss":
                epoch = 3 * (time.monotonic() - begun) * min(trainer.num_training_batches, 10**6)
                limit = max(limit, self.share * epoch)

    def after_warm_up(
        self, trainer: Trainer, module: LightningModule, batch: Any, step: int, signals: Signals
    ) -> None:
        """Once, behind ``after`` steps."""
        context = trainer.precision_plugin.train_step_context
        _attempt("warm-up", lambda: model_probe.after_warm_up(module, batch, context, step, signals))

    def _lint(self, trainer: Trainer, module: LightningModule, batch: Any, signals: Signals) -> None:
        planned = trainer.estimated_stepping_batches
        ahead = None
        if 0 < planned <= LONGEST and trainer.lr_scheduler_configs:
            shadow = Shadow.of(trainer.lr_scheduler_configs[0].scheduler)
            by_step = trainer.lr_scheduler_configs[0].interval == "step"
            ahead = shadow.ahead(int(planned)) if shadow is not None and by_step else None
        if 0 < planned < float("inf"):
            signals.record(COUNTER + "planned_steps", 0, float(planned), "count")
        model_probe.lint(module, trainer, batch_size(batch), ahead, signals)

    def _data(self, trainer: Trainer, module: LightningModule, signals: Signals, begun: float) -> None:
        left = self.seconds - (time.monotonic() - begun)
        if self.samples and left > 0:
            with untouched(module, module.training):
                data_probe.measure(trainer, module, signals, left, self.samples)

    def _one_batch(self, trainer: Trainer, module: LightningModule, batch: Any, signals: Signals) -> None:
        if self.one_batch_steps:
            lr = max(LEAST_RATE, first_rate(trainer) or 0.0)
            model_probe.one_batch(module, batch, self.one_batch_steps, signals, lr)


def _attempt(name: str, stage: Callable[[], None]) -> None:
    """A measurement that does not fit a foreign module, or the memory, is told and left out."""
    try:
        stage()
    except Exception as error:  # of the module's own code, which is called as training might not call it
        console.say(f"health: the probe of the {name} could not run ({type(error).__name__}: {error})")


def _doubling(trainer: Trainer, module: LightningModule, batch: Any, signals: Signals) -> None:
    offered = loss_of(module, batch)
    if offered is None:
        return
    ask, own = offered
    context = trainer.precision_plugin.train_step_context
    for name, (ratio, noise) in doubling_ratios(module, own, lambda b: scalars(ask(b)), context).items():
        signals.record(DOUBLING + name, 0, ratio, "norm")
        signals.record(DOUBLING_NOISE + name, 0, noise, "norm")
