"""LossHealth: watches the losses of any LightningModule and says what is wrong with them."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from maskwell.callbacks.clock import iteration, log_step
from maskwell.callbacks.doubling import doubling_ratios, loss_function
from maskwell.errors import UserError
from maskwell.health import signals as names
from maskwell.health.engine import Check, Engine
from maskwell.health.findings import Finding, Verdict
from maskwell.health.rules import Clock, Rule, default_rules

LOSS_NAMES = ("train/batch_loss", "train/loss", "train_loss", "loss")
"""Where a loss is looked for among the logged metrics of a module that returns none."""
_COLOURS = {"info": "36", "warn": "33", "error": "31"}


class LossHealth(Callback):
    """Feeds the losses of a training to the rules and acts on what they find.

    Works with automatic and manual optimisation. It reads ``outputs`` of the training step ("loss",
    and where there are any "parts" and "facts"), else the logged loss. Each step only tests whether
    everything is finite; numbers wait on the device and are read every ``every_n_steps`` steps.

    Prints one line per incident, logs ``health/<rule>`` as 0 or 1 at each check, and keeps
    ``health.json`` in the run folder: the verdict (healthy, look at, broken) and the incidents with
    their evidence and remedies. A finding of a rule whose action is ``stop`` ends the training.

    Args:
        rules: name -> rule; None entries are left out, None takes the default rules.
        every_n_steps: steps between checks.
        probe: measure at the start whether the loss is divided by what it sums over.
        roles: loss part -> role, for parts that are not supervised losses.
    """

    def __init__(
        self,
        rules: Mapping[str, Rule | None] | None = None,
        every_n_steps: int = 16,
        probe: bool = True,
        roles: Mapping[str, names.Role] | None = None,
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
        self.stop_reason: str | None = None
        self._probed = False
        self._waiting: list[tuple[int, list[str], Tensor]] = []
        self._epoch_sums = [0.0, 0.0, 0.0]  # count, sum, sum of squares of the finite losses
        self._open_epoch = 0  # the epoch, from 1, that they belong to

    @property
    def verdict(self) -> Verdict:
        """healthy, look at or broken."""
        return self.engine.verdict

    @property
    def findings(self) -> list[Finding]:
        """The cause of every incident that is more than information, worst first."""
        serious = [i for i in self.engine.incidents if i.severity != "info"]
        return [i.cause for i in sorted(serious, key=lambda i: (i.severity != "error", i.first_step))]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stop_reason = None
        self._write(trainer)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._probed:
            return
        self._probed = True
        if self.probe:
            self._measure_doubling(trainer, pl_module, batch)
            _log(trainer, self._check(trainer, "start"))

    def _measure_doubling(self, trainer: Trainer, module: LightningModule, batch: Any) -> None:
        loss_on = loss_function(module, batch)
        if loss_on is None:
            return
        context = trainer.precision_plugin.train_step_context
        try:
            ratios = doubling_ratios(module, batch, loss_on, context)
        except RuntimeError as error:  # a foreign batch that cannot be doubled, or no memory for it
            _say(f"health: the probe of the normaliser could not run ({error})", _COLOURS["info"])
            return
        for name, (ratio, noise) in ratios.items():
            self.engine.signals.record(names.DOUBLING + name, 0, ratio, "norm")
            self.engine.signals.record(names.DOUBLING_NOISE + name, 0, noise, "norm")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        values = _values(trainer, outputs)
        if values:
            step = iteration(trainer, pl_module)
            held = torch.stack([value.detach().float().reshape(()) for value in values.values()])
            self._waiting.append((step, list(values), held))
            # facts are counts: only the loss and its parts are held to be finite
            losses = [i for i, name in enumerate(values) if not name.startswith(names.FACT)]
            self.engine.signals.step = step
            bad_here = ~torch.isfinite(held[losses]).all()
            bad = self._any_rank(trainer, bad_here)
            if bad and not bad_here:
                elsewhere = names.NONFINITE + "the loss of another process"
                self.engine.signals.record(elsewhere, step, 1.0, "event")
            if bad or step % self.every_n_steps == 0:
                _log(trainer, self._check(trainer, "step"))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._open_epoch != trainer.current_epoch + 1:
            # a checkpoint of a validation lies before the end of its epoch: closed after a resume
            self._close_epoch(trainer)
            self._open_epoch = trainer.current_epoch + 1

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._read()
        self._close_epoch(trainer)
        for name, value in trainer.callback_metrics.items():
            if name.startswith("val/") and value.numel() == 1:
                self.engine.signals.record(
                    names.METRIC + name, trainer.current_epoch + 1, value.item(), "metric"
                )
        flags = {**self._check(trainer, "step"), **self._check(trainer, "epoch")}
        pl_module.log_dict({f"health/{name}": float(on) for name, on in flags.items()}, rank_zero_only=True)
        self._write(trainer)

    def _close_epoch(self, trainer: Trainer) -> None:
        """The mean loss of the epoch and its standard error, over all ranks."""
        count, total, squares = self._summed_over_ranks(trainer)
        signals = self.engine.signals
        signals.epoch = self._open_epoch
        if count:
            mean = total / count
            variance = max(0.0, squares / count - mean**2) * count / max(1.0, count - 1)
            signals.record(names.EPOCH_LOSS, self._open_epoch, mean, "supervised")
            signals.record(names.EPOCH_ERROR, self._open_epoch, math.sqrt(variance / count), "norm")
        self._epoch_sums = [0.0, 0.0, 0.0]

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._read()
        self._write(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._read()
        path = self._write(trainer)
        if trainer.is_global_zero:
            count = len(self.findings)
            more = f": {count} incident{'s' if count != 1 else ''}, see {path}" if count else ""
            _say(
                f"health: {self.verdict}{more}",
                {"healthy": "32", "look at": "33", "broken": "31"}[self.verdict],
            )

    def _read(self) -> None:
        """Everything that waits on the device into the streams, in one transfer."""
        if not self._waiting:
            return
        flat = torch.cat([held for _, _, held in self._waiting]).tolist()
        at = 0
        for step, keys, _ in self._waiting:
            for key in keys:
                self._record(key, step, flat[at])
                at += 1
        self._waiting = []

    def _record(self, key: str, step: int, value: float) -> None:
        signals = self.engine.signals
        if key.startswith(names.FACT):
            signals.record(key, step, value, "count")
            return
        part = key.removeprefix(names.PART)
        if not math.isfinite(value):
            signals.record(names.NONFINITE + part, step, 1.0, "event")
            return
        signals.record(key, step, value, self.roles.get(part, "supervised"))
        if key == names.LOSS:
            self._epoch_sums = [a + b for a, b in zip(self._epoch_sums, (1.0, value, value**2), strict=True)]

    def _check(self, trainer: Trainer, clock: Clock) -> dict[str, bool]:
        self._read()
        if trainer.optimizers:
            group = trainer.optimizers[0].param_groups[0]
            rate = float(
                group.get("initial_lr", group["lr"])
            )  # what the configuration names, before schedules
            self.engine.signals.record(names.RATE, self.engine.signals.step, rate, "rate")
        check = self.engine.check(clock)
        if trainer.is_global_zero:
            for finding in check.news:
                _say(_line(finding), _COLOURS[finding.severity])
        self._stop(trainer, check)
        if check.news:
            self._write(trainer)
        return check.flags

    def _stop(self, trainer: Trainer, check: Check) -> None:
        # ranks see different batches: one that wants to stop stops them all, at the same step
        if trainer.strategy.reduce_boolean_decision(bool(check.stop), all=False):
            cause = check.stop[0].cause if check.stop else "another process found a fault"
            self.stop_reason = f"health: {cause}"
            trainer.should_stop = True

    def _any_rank(self, trainer: Trainer, flag: Tensor) -> bool:
        if trainer.world_size > 1:
            flag = trainer.strategy.reduce(flag.float(), reduce_op="sum")
        return bool(flag)

    def _summed_over_ranks(self, trainer: Trainer) -> list[float]:
        if trainer.world_size == 1:
            return self._epoch_sums
        sums = torch.tensor(self._epoch_sums, dtype=torch.float64, device=trainer.strategy.root_device)
        return list(trainer.strategy.reduce(sums, reduce_op="sum").tolist())

    def _write(self, trainer: Trainer) -> Path:
        path = Path(trainer.default_root_dir) / "health.json"
        if trainer.is_global_zero:
            report = {**self.engine.report(), "updated": datetime.now(UTC).isoformat(timespec="seconds")}
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_suffix(".json.tmp")
            beside.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
            beside.replace(path)
        return path

    def state_dict(self) -> dict[str, Any]:
        self._read()
        return {
            "engine": self.engine.state_dict(),
            "probed": self._probed,
            "epoch_sums": list(self._epoch_sums),
            "open_epoch": self._open_epoch,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.engine.load_state_dict(state_dict["engine"])
        self._probed = state_dict["probed"]
        self._epoch_sums = list(state_dict["epoch_sums"])
        self._open_epoch = state_dict["open_epoch"]


def _values(trainer: Trainer, outputs: Any) -> dict[str, Tensor]:
    """Stream name -> scalar tensor of one training step, the loss first."""
    found = outputs if isinstance(outputs, Mapping) else {"loss": outputs}
    loss = found.get("loss")
    if not isinstance(loss, Tensor):
        logged = trainer.callback_metrics
        loss = next((logged[name] for name in LOSS_NAMES if name in logged), None)
    values = {} if loss is None else {names.LOSS: loss}
    for prefix, key in ((names.PART, "parts"), (names.FACT, "facts")):
        for name, value in (found.get(key) or {}).items():
            if isinstance(value, Tensor) and value.numel() == 1:
                values[prefix + name] = value
    return {name: value.to(next(iter(values.values())).device) for name, value in values.items()}


def _log(trainer: Trainer, flags: Mapping[str, bool]) -> None:
    # not by the module's log(): what that gets between two of Lightning's own logging steps is lost
    for logger in trainer.loggers:
        logger.log_metrics({f"health/{name}": float(on) for name, on in flags.items()}, log_step(trainer))


def _line(finding: Finding) -> str:
    verdict = {"info": "note", "warn": "look at", "error": "broken"}[finding.severity]
    return f"health: {verdict}, step {finding.step}: {finding.line()}"


def _say(text: str, colour: str) -> None:
    print(f"\033[{colour}m{text}\033[0m" if sys.stdout.isatty() else text)
