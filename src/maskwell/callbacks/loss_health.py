"""LossHealth: watches the training of any LightningModule and says what is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from maskwell.callbacks.clock import batches_before, has_stepped, iteration, log_step
from maskwell.callbacks.monitor import console, readings
from maskwell.callbacks.monitor.model_probe import unknown_monitors
from maskwell.callbacks.monitor.preflight import Preflight
from maskwell.callbacks.monitor.recovery import STAMP, Recovery
from maskwell.callbacks.monitor.steps import StepWatch
from maskwell.errors import UserError
from maskwell.health import report
from maskwell.health import signals as names
from maskwell.health.engine import Check, Engine
from maskwell.health.findings import Finding, Verdict
from maskwell.health.rules import Clock, Rule, default_rules


class LossHealth(Callback):
    """Feeds what happens in a training to the rules and acts on what they find.

    Works with automatic and manual optimisation and any number of optimisers. Of a training step it
    reads ``outputs`` ("loss", and where there are any "parts" and "facts"), else the logged loss.
    Before every optimiser step one flag is read: loss and gradients are finite, else the gradients
    are set to None and the weights stay those before the step. All other numbers wait on the device
    and are read every ``every_n_steps`` steps.

    Prints one line per incident, logs ``health/<rule>`` as 0 or 1, and keeps ``health.json`` in the
    run folder: the verdict (healthy, look at, broken) and the incidents with their evidence, ranked
    causes and remedies.

    A module may offer ``loss_on(batch)`` (for the probes before the first step) and
    ``planned_changes`` (iteration -> kind of :data:`maskwell.health.signals.EVENTS`), so that what it
    changes on purpose is not taken for a fault.

    Args:
        rules: name -> rule; None entries are left out, None takes the default rules.
        every_n_steps: steps between checks.
        probe: measure data, loss and optimisers before the first step.
        roles: loss part -> role, for parts whose name does not tell it.
        preflight: settings of these measurements.
        recovery: of going back to a healthy checkpoint; acts in :func:`fit_with_recovery` only.
        capture: keep the first step that is not finite, for its replay.
    """

    def __init__(
        self,
        rules: Mapping[str, Rule | None] | None = None,
        every_n_steps: int = 8,
        probe: bool = True,
        roles: Mapping[str, names.Role] | None = None,
        preflight: Preflight | None = None,
        recovery: Recovery | None = None,
        capture: bool = True,
    ) -> None:
        super().__init__()
        if every_n_steps < 1:
            raise UserError(f"health.every_n_steps is {every_n_steps}: give at least 1.")
        for part, role in (roles or {}).items():
            if role not in names.ROLES:
                raise UserError(f"health.roles.{part} is '{role}': use one of {', '.join(names.ROLES)}.")
        chosen = default_rules() if rules is None else rules
        self.engine = Engine({name: rule for name, rule in chosen.items() if rule is not None})
        self.every_n_steps = every_n_steps
        self.probe = probe
        self.roles = dict(roles or {})
        self.preflight = preflight or Preflight()
        self.recovery = recovery
        self.stop_reason: str | None = None
        self.steps = StepWatch(self.engine.signals, every_n_steps, capture)
        self._probed = False
        self._resumed = False
        self._validated = False
        self._told: set[str] = set()
        self._epoch = readings.EpochMean()
        self._trainer: Trainer | None = None
        self._open_epoch = 0  # the epoch, from 1, that it belongs to

    @property
    def verdict(self) -> Verdict:
        """healthy, look at or broken."""
        return self.engine.verdict

    @property
    def findings(self) -> list[Finding]:
        """The cause of every incident that is more than information, worst first."""
        return [incident.cause for incident in self.engine.ranked_incidents]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stop_reason = None
        self.engine.signals.rate_key = getattr(pl_module, "rate_key", "optim.lr")
        self._write(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._trainer = trainer
        self.steps.begin(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._resumed:
            self._resume(trainer)
        if not self._probed:
            self._probed = True
            if self.probe:
                self.preflight.run(trainer, pl_module, batch, self.engine.signals)
                self._log(trainer, self._check(trainer, "start"))
            if self.recovery is not None:
                self.recovery.keep(trainer, 0, True)
        self.steps.batch_starts(trainer, pl_module, batch)
        readings.declare_planned(pl_module, self.steps.number, self.engine.signals)

    def _resume(self, trainer: Trainer) -> None:
        """Once, when everything is restored: rates of earlier returns, and what became of the optimisers."""
        self._resumed = False
        factor = self.recovery.rate_factor if self.recovery else 1.0
        kind = "recovery" if self.recovery and self.recovery.returns else "resume"
        self.engine.signals.declare(kind, self.engine.signals.step)
        self.steps.resumed(trainer, factor)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self.steps.hear_loss(loss)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.steps.after_backward(trainer, pl_module)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        accumulated = batches_before(trainer) % trainer.accumulate_grad_batches
        self.steps.before_step(trainer, pl_module, optimizer, self._excluded(accumulated))

    def _excluded(self, before: int = 0) -> bool:
        """Whether the batch led to a fault before the run went back: it is seen again and not learnt from.

        ``before``: or one of so many before it, whose gradients are accumulated with its own.
        """
        last = self.steps.number
        return self.recovery is not None and any(map(self.recovery.skips, range(last - before, last + 1)))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = iteration(trainer, pl_module)
        signals = self.engine.signals
        excluded = self._excluded()
        values: dict[str, Tensor] = {}
        if not excluded:
            signals.step = max(signals.step, step)
            loss, role = readings.loss_of(trainer, outputs, lambda: self.steps.heard(trainer))
            values = readings.values_of(loss, outputs)
        if values:
            held = torch.stack([value.detach().float().reshape(()) for value in values.values()])
            keys = list(values)
            roles = {names.LOSS: role, **self.roles}
            self.steps.buffer.add(
                held, lambda numbers: self._record(keys, step, numbers, roles), shared=True, names=keys
            )
        urgent = self.steps.batch_ends(trainer, step, bool(values))
        if not excluded and (urgent or step % self.every_n_steps == 0):
            self.steps.now_and_then(trainer, pl_module, step)
            self._log(trainer, self._check(trainer, "step"))
        self._end(trainer)
        if step == self.preflight.after:
            self.preflight.after_warm_up(trainer, pl_module, batch, step, signals)
        if self.recovery is not None and self.recovery.due(trainer, step):
            self.recovery.keep(trainer, step, self.engine.clean_for(self.recovery.clean))

    def _record(
        self, keys: list[str], step: int, numbers: list[float], roles: Mapping[str, names.Role]
    ) -> None:
        readings.record(self.engine.signals, dict(zip(keys, numbers, strict=True)), step, roles)
        loss = dict(zip(keys, numbers, strict=True)).get(names.LOSS)
        if loss is not None and math.isfinite(loss):
            self._epoch.add(loss)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._open_epoch != trainer.current_epoch + 1:
            # a checkpoint of a validation lies before the end of its epoch: closed after a resume
            self._close_epoch()
            self._open_epoch = trainer.current_epoch + 1

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.steps.system.pause()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        self.steps.buffer.read(trainer)
        step = iteration(trainer, pl_module)
        if not self._validated:
            self._validated = True
            unknown_monitors(trainer, self.engine.signals, step)
            self._log(trainer, self._check(trainer, "start"))  # what the configuration says is complete now
        readings.record_validation(trainer, pl_module, self.engine.signals, step)
        self._log(trainer, self._check(trainer, "evaluation"))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.steps.buffer.read(trainer)
        self._close_epoch()
        flags = {**self._check(trainer, "step"), **self._check(trainer, "epoch")}
        console.log_flags(trainer, flags, log_step(trainer) - 1)  # of the last batch, as Lightning's own row
        self._write(trainer)

    def _close_epoch(self) -> None:
        """The mean loss of the epoch and its standard error, over all ranks."""
        self.engine.signals.epoch = self._open_epoch
        self._epoch.close(self.engine.signals, self._open_epoch)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, torch.OutOfMemoryError):
            step = self.engine.signals.step
            self.steps.system.out_of_memory(step, trainer.strategy.root_device)
            for finding in self.engine.check("step").news:
                console.tell(finding)
        elif trainer.world_size == 1:  # the other ranks do not come to a collective
            self.steps.buffer.read(trainer)
        self._trainer = None
        self.steps.end()
        self._write(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.steps.buffer.read(trainer)
        self._trainer = None
        self.steps.end()
        path = self._write(trainer)
        if self.recovery is not None:
            self.recovery.finish(trainer)
        if trainer.is_global_zero:
            console.conclude(self.engine, path)

    def _check(self, trainer: Trainer, clock: Clock) -> dict[str, bool]:
        self.steps.buffer.read(trainer)
        rate = readings.first_rate(trainer)
        if rate is not None:
            self.engine.signals.record(names.RATE, self.engine.signals.step, rate, "rate")
        check = self.engine.check(clock)
        if check.news and trainer.is_global_zero:
            for finding in check.news:
                console.tell(finding)
            console.alert(trainer, check.news)
        if check.news:
            self._write(trainer)
        self._act(trainer, check)
        return check.flags

    def _act(self, trainer: Trainer, check: Check) -> None:
        """Go back, or stop. Ranks decide together: one that wants to stop stops them all."""
        back = [*check.recover, *check.stop]
        if self.recovery is not None and self.recovery.armed and self.recovery.most and back:
            begun = min(f.step for f in self._incident_of(back[0]).findings)
            signal = self.recovery.go_back(self.engine.signals.step, begun, back[0].cause)
            if signal is not None:
                self._write(trainer)
                raise signal
            check.stop.append(back[0])
        if trainer.strategy.reduce_boolean_decision(bool(check.stop), all=False):
            cause = check.stop[0].cause if check.stop else "another process found a fault"
            self.stop_reason = f"health: {cause}"
            self._end(trainer)

    def _end(self, trainer: Trainer) -> None:
        """Of a run that is to stop; one that ends between two optimiser steps could not go on exactly."""
        if self.stop_reason is not None and has_stepped(trainer):
            trainer.should_stop = True

    def _incident_of(self, finding: Finding) -> Any:
        return next(i for i in reversed(self.engine.incidents) if finding.key in {f.key for f in i.findings})

    def _log(self, trainer: Trainer, flags: Mapping[str, bool]) -> None:
        """Rules that have fired, from then on; all of them at the end of an epoch."""
        self._told |= {name for name, on in flags.items() if on}
        told = {name: on for name, on in flags.items() if name in self._told}
        console.log_flags(trainer, told, log_step(trainer))

    def _write(self, trainer: Trainer) -> Path:
        path = Path(trainer.default_root_dir) / "health.json"
        if trainer.is_global_zero:
            returns = [] if self.recovery is None else self.recovery.state_dict()["returns"]
            now = datetime.now(UTC).isoformat(timespec="seconds")
            report.write({**self.engine.report(), "recoveries": returns, "updated": now}, path)
        return path

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        clean = 100 if self.recovery is None else self.recovery.clean
        healthy = self.steps.state_is_finite(pl_module) and self.engine.clean_for(clean)
        checkpoint[STAMP] = {"step": self.engine.signals.step, "healthy": healthy}
        self.steps.add_capture(checkpoint)

    def state_dict(self) -> dict[str, Any]:
        if self._trainer is not None:
            self.steps.buffer.read(self._trainer)
        return {
            "engine": self.engine.state_dict(),
            "probed": self._probed,
            "epoch_sums": self._epoch.state(),
            "open_epoch": self._open_epoch,
            "told": sorted(self._told),
            "steps": self.steps.state_dict(),
            "recovery": None if self.recovery is None else self.recovery.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What was found later than the checkpoint is kept where this very run goes back to it."""
        later = [] if self.recovery is None or not self.recovery.returns else self.engine.incidents
        self.engine.load_state_dict(state_dict["engine"])
        known = {i.first_step for i in self.engine.incidents}
        self.engine.incidents += [i for i in later if i.first_step not in known]
        self._probed = state_dict["probed"]
        self._epoch = readings.EpochMean(*state_dict["epoch_sums"])
        self._open_epoch = state_dict["open_epoch"]
        self._told = set(state_dict["told"])
        self.steps.load_state_dict(state_dict["steps"])
        if self.recovery is not None and state_dict["recovery"] is not None:
            self.recovery.load_state_dict(state_dict["recovery"])
        self._resumed = True
