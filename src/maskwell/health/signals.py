"""Signals: named streams of numbers in ring buffers, the only thing that rules look at."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Role = Literal[
    "supervised", "adversarial", "consistency", "regulariser", "metric", "count", "norm", "rate", "event"
]
"""What a stream measures, which decides the rules that apply: an adversarial loss may rise in health."""

ROLES: tuple[Role, ...] = get_args(Role)

LOSS = "loss"
"""The total training loss of each step."""
PART = "part/"
"""Prefix of the loss's parts, each step."""
FACT = "fact/"
"""Prefix of counts and shares that a step reports (``fact/num_objects``)."""
NONFINITE = "nonfinite/"
"""Prefix of events: at this step, the named value was NaN or infinite."""
EPOCH_LOSS = "epoch/loss"
"""Mean training loss of each epoch; its steps are epochs, from 1."""
EPOCH_ERROR = "epoch/loss_error"
"""Standard error of :data:`EPOCH_LOSS`."""
METRIC = "metric/"
"""Prefix of validation figures, each epoch."""
DOUBLING = "doubling/"
"""Prefix of loss(batch twice) / loss(batch), measured once at the start."""
DOUBLING_NOISE = "doubling_noise/"
"""Prefix of the relative spread of that ratio's losses under different random numbers."""
RATE = "rate/learning_rate"
"""The configured learning rate of the first optimiser."""


@dataclass
class Stream:
    """The last ``capacity`` values of one signal with the steps they belong to."""

    name: str
    role: Role
    capacity: int = 512
    seen: int = 0
    nonzero: int = 0
    steps: deque[int] = field(default_factory=deque)
    values: deque[float] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.steps = deque(self.steps, maxlen=self.capacity)
        self.values = deque(self.values, maxlen=self.capacity)

    def __len__(self) -> int:
        return len(self.values)

    def append(self, step: int, value: float) -> None:
        """Add a value; one of an earlier step than the last is a replay and is dropped."""
        if self.steps and step < self.steps[-1]:
            return
        self.seen += 1
        self.nonzero += value != 0
        self.steps.append(step)
        self.values.append(value)

    def last(self, count: int) -> list[float]:
        """The newest ``count`` values, oldest first; fewer where there are fewer."""
        return list(self.values)[-count:] if count > 0 else []


class Signals:
    """All streams of a run. A stream begins with its first value and may have gaps."""

    def __init__(self, capacity: int = 512) -> None:
        self.capacity = capacity
        self.step = 0
        self.epoch = 0
        self._streams: dict[str, Stream] = {}

    def record(self, name: str, step: int, value: float, role: Role) -> None:
        """Append one value to the stream ``name``, which begins here if it is new."""
        if name not in self._streams:
            self._streams[name] = Stream(name, role, self.capacity)
        self._streams[name].append(step, float(value))

    def get(self, name: str) -> Stream:
        """The stream, empty where nothing was recorded under this name."""
        return self._streams.get(name) or Stream(name, "supervised", self.capacity)

    def under(self, prefix: str) -> Iterator[tuple[str, Stream]]:
        """(name without the prefix, stream) of every stream whose name begins with ``prefix``."""
        for name, stream in self._streams.items():
            if name.startswith(prefix):
                yield name.removeprefix(prefix), stream

    @property
    def learning_rate(self) -> float | None:
        """The configured learning rate, None where it is not known."""
        rates = self.get(RATE).last(1)
        return rates[0] if rates and math.isfinite(rates[0]) else None

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dicts."""
        streams = {
            name: {
                "role": s.role,
                "seen": s.seen,
                "nonzero": s.nonzero,
                "steps": list(s.steps),
                "values": list(s.values),
            }
            for name, s in self._streams.items()
        }
        return {"step": self.step, "epoch": self.epoch, "streams": streams}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.step, self.epoch = state["step"], state["epoch"]
        self._streams = {
            name: Stream(name, capacity=self.capacity, **s) for name, s in state["streams"].items()
        }
