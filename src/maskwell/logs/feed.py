"""From the rows of a log to the rules: the same engine as in a running training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import lru_cache

from maskwell.health import signals as names
from maskwell.health.columns import LOSS_NAMES, Kind, is_loss, kind_of
from maskwell.health.engine import Engine
from maskwell.health.roles import role_of
from maskwell.health.rules import Rule
from maskwell.health.signals import Role
from maskwell.logs.rows import Notes, Row

EVERY = 8
"""Steps between checks ..."""
LONG, EVERY_LONG = 50_000, 128
"""... and of logs beyond so many steps ..."""
EVERY_BAD = 64
"""... but no more after a value that is not finite: the rules look for those among the last 100 steps."""
SHAPES = 4096
"""Sets of columns that rows have, of which it is remembered what they mean."""
ABRUPT = 0.5
"""A rate that falls below this share in one step was lowered on purpose."""


class Feeder:
    """Records rows as signals and asks the rules as a training would.

    Args:
        rules: name -> rule.
        roles: part of the loss -> role, for parts whose name does not tell it.
    """

    def __init__(self, rules: Mapping[str, Rule], roles: Mapping[str, Role] | None = None) -> None:
        self.engine = Engine(rules)
        self.notes = Notes()
        self._roles = dict(roles or {})
        self._kinds = lru_cache(SHAPES)(lambda columns: {name: kind_of(name) for name in columns})
        self._loss: str | None = None
        self._epoch: float | None = None
        self._sums = [0.0, 0.0, 0.0]
        self._whole: float | None = None
        self._checked = 0
        self._last_step = -1
        self._since_evaluation = [0, 0.0]
        self._started = False
        self._counted = 0
        self._bad = False

    def run(self, rows: Iterable[Row]) -> Engine:
        """Take all rows; the engine then holds what was found."""
        for row in rows:
            self._take(row)
        if self._epoch is not None:
            self._close_epoch()
        self.engine.check("step")
        if self._last_step < 0:
            self.notes.messages.append("no training loss was found: only other figures could be judged")
        return self.engine

    def _take(self, row: Row) -> None:
        signals = self.engine.signals
        kinds = self._kinds(tuple(row.values))
        loss = self._find_loss(kinds)
        self._counted += loss is not None
        step = row.step if row.step is not None else max(self._counted, signals.step)
        if step <= self._last_step and loss is not None:
            self._note_once("steps are repeated, as after a resume: what was logged again is left out")
            return
        if (
            row.epoch is not None
            and math.isfinite(row.epoch)
            and (self._epoch is None or row.epoch >= self._epoch)
        ):
            # an average is logged at the end of its epoch, in a row of its own or with the next one
            if self._epoch is not None and math.floor(row.epoch) > math.floor(self._epoch):
                self._close_epoch()
            self._epoch = row.epoch
        signals.step = max(signals.step, step)
        evaluated = False
        for name, value in row.values.items():
            kind, plain = kinds[name]
            if name == loss:
                self._record_loss(step, value)
            elif kind == "epoch_loss":
                self._whole = value
            elif kind == "metric":
                evaluated |= self._record_metric(plain, step, value)
            else:
                self._record(kind, plain, step, value)
        if evaluated:
            count, total = self._since_evaluation
            if count:
                signals.record("train_at_evaluation", step, total / count, "supervised")
            self._since_evaluation = [0, 0.0]
            self.engine.check("evaluation")
        if loss is not None and step - self._checked >= self._every:
            self._checked, self._bad = step, False
            self.engine.check("step")

    @property
    def _every(self) -> int:
        if self._counted < LONG:
            return EVERY
        return EVERY_BAD if self._bad else EVERY_LONG

    def _find_loss(self, kinds: Mapping[str, tuple[Kind, str]]) -> str | None:
        if self._loss is None:
            candidates = {plain: name for name, (kind, plain) in kinds.items() if kind == "loss"}
            self._loss = next((candidates[known] for known in LOSS_NAMES if known in candidates), None)
        return self._loss if self._loss in kinds else None

    def _record_loss(self, step: int, value: float) -> None:
        self._last_step = step
        if not math.isfinite(value):
            self._record_bad(names.LOSS, step)
            return
        self.engine.signals.record(names.LOSS, step, value, "supervised")
        sums, since = self._sums, self._since_evaluation
        sums[0] += 1
        sums[1] += value
        sums[2] += value * value
        since[0] += 1
        since[1] += value

    def _record_metric(self, plain: str, step: int, value: float) -> bool:
        """Whether it was a figure; one that is undefined is none, but a loss always is."""
        if math.isfinite(value):
            self.engine.signals.record(names.METRIC + plain, step, value, "metric")
        elif is_loss(plain):
            self.engine.signals.record(names.METRIC_BAD + plain, step, 1.0, "event")
        else:
            return False
        return True

    def _record_bad(self, name: str, step: int) -> None:
        self.engine.signals.record(names.NONFINITE + name, step, 1.0, "event")
        self._bad = True

    def _record(self, kind: Kind, plain: str, step: int, value: float) -> None:
        signals = self.engine.signals
        if kind == "part":
            if not math.isfinite(value):
                self._record_bad(plain, step)
                return
            role = self._roles.get(plain, role_of(plain))
            if role == "consistency" and value and not self._started:
                self._started = True
                signals.declare("self_training", step)
            signals.record(names.PART + plain, step, value, role)
        elif not math.isfinite(value):
            return
        elif kind == "rate":
            before = signals.value(names.LR + plain)
            if before and value < ABRUPT * before:
                signals.declare("lr_change", step)
            signals.record(names.LR + plain, step, value, "rate")
        elif kind == "gradient":
            signals.record(names.GRAD + plain, step, value, "norm")
        elif kind == "fact":
            signals.record(names.FACT + plain, step, value, "count")

    def _close_epoch(self) -> None:
        signals, (count, total, squares) = self.engine.signals, self._sums
        signals.epoch += 1
        mean = self._whole if self._whole is not None else (total / count if count else None)
        if mean is not None and math.isfinite(mean):
            signals.record(names.EPOCH_LOSS, signals.epoch, mean, "supervised")
            variance = (
                max(0.0, squares / count - (total / count) ** 2) * count / max(1.0, count - 1)
                if count
                else 0.0
            )
            error = math.sqrt(variance / count) if count > 1 else math.nan  # one number has none
            signals.record(names.EPOCH_ERROR, signals.epoch, error, "norm")
        if count > 1:
            signals.record(names.STEPS_PER_EPOCH, signals.step, count, "count")
        self._sums, self._whole = [0.0, 0.0, 0.0], None
        self.engine.check("epoch")

    def _note_once(self, text: str) -> None:
        if text not in self.notes.messages:
            self.notes.messages.append(text)
