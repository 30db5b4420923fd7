"""A run on tape: everything a monitor was told, in order, so that rules can be asked again in seconds."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from maskwell.health.engine import Engine
from maskwell.health.signals import Signals

CHECK = "check/"
"""Prefix of the rows that are no value but a check of this clock, at that step; the value is the epoch."""


class Tape:
    """Rows (name, step, value) as they came; ``roles`` of the names, by their numbers."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}
        self.roles: list[str] = []
        self._name, self._step, self._value = array("H"), array("q"), array("d")

    def __len__(self) -> int:
        return len(self._name)

    def add(self, name: str, step: int, value: float, role: str = "") -> None:
        """Append one row."""
        if name not in self.names:
            self.names[name] = len(self.names)
            self.roles.append(role)
        self._name.append(self.names[name])
        self._step.append(int(step))
        self._value.append(float(value))

    def listen(self, engine: Engine) -> None:
        """Write down what is recorded in the signals of this engine, and when it is asked.

        The engine's rules are taken away: what they would do must not change what is recorded.
        """
        engine.rules.clear()
        signals: Any = engine.signals
        record, check = signals.record, engine.check

        def taped(name: str, step: int, value: float, role: str) -> None:
            self.add(name, step, value, role)
            record(name, step, value, role)

        def checked(clock: str) -> Any:
            self.add(CHECK + clock, signals.step, signals.epoch, "event")
            return check(clock)  # type: ignore[arg-type]

        signals.__dict__["record"] = taped
        engine.__dict__["check"] = checked

    def rows(self) -> Iterator[tuple[str, int, float, str]]:
        """(name, step, value, role) in their order."""
        names, roles = list(self.names), self.roles
        for name, step, value in zip(self._name, self._step, self._value, strict=True):
            yield names[name], step, value, roles[name]

    def series(self, name: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Steps and values of one stream, empty where there is none."""
        if name not in self.names:
            return np.empty(0, np.int64), np.empty(0)
        mask = np.frombuffer(self._name, np.uint16) == self.names[name]
        return np.frombuffer(self._step, np.int64)[mask], np.frombuffer(self._value, np.float64)[mask]

    def under(self, prefix: str) -> list[str]:
        """Names of the streams that begin with ``prefix``."""
        return [name for name in self.names if name.startswith(prefix)]

    def replay(self, engine: Engine, rate_key: str | None = None) -> Engine:
        """Tell a fresh engine what is on the tape, and ask it whenever the monitor asked."""
        signals: Signals = engine.signals
        if rate_key is not None:
            signals.rate_key = rate_key
        for name, step, value, role in self.rows():
            if name.startswith(CHECK):
                signals.step, signals.epoch = step, int(value)
                engine.check(name.removeprefix(CHECK))  # type: ignore[arg-type]
            else:
                signals.step = max(signals.step, step)
                signals.record(name, step, value, role)  # type: ignore[arg-type]
        return engine

    def save(self, path: Path) -> None:
        """Write a compressed file, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".partial.npz")
        np.savez_compressed(
            beside,
            names=np.array(list(self.names), dtype=str),
            roles=np.array(self.roles, dtype=str),
            name=np.frombuffer(self._name, np.uint16),
            step=np.frombuffer(self._step, np.int64).astype(np.int32),
            value=np.frombuffer(self._value, np.float64),
        )
        beside.replace(path)

    @classmethod
    def load(cls, path: Path) -> Tape:
        """Inverse of :meth:`save`."""
        tape = cls()
        with np.load(path) as stored:
            tape.names = {str(name): i for i, name in enumerate(stored["names"])}
            tape.roles = [str(role) for role in stored["roles"]]
            tape._name.frombytes(stored["name"].tobytes())
            tape._step.frombytes(stored["step"].astype(np.int64).tobytes())
            tape._value.frombytes(stored["value"].tobytes())
        return tape
