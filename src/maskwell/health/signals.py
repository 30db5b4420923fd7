"""Signals: named streams of numbers in ring buffers, the only thing that rules look at."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

Role = Literal[
    "supervised", "adversarial", "consistency", "regulariser", "metric", "count", "norm", "rate", "event"
]
"""What a stream measures, which decides the rules that apply: an adversarial loss may rise in health."""

ROLES: tuple[Role, ...] = get_args(Role)

LOSS = "loss"
"""The total training loss of each step."""
PART = "part/"
"""Prefix of the loss's parts, each step, raw."""
FACT = "fact/"
"""Prefix of counts and shares that a step reports (``fact/num_objects``)."""
NONFINITE = "nonfinite/"
"""Prefix of events: at this step, the named value was NaN or infinite."""
BAD_GRADIENT = "bad_gradient"
"""Events: at this step gradients were not finite, though every loss was."""
EPOCH_LOSS = "epoch/loss"
"""Mean training loss of each epoch; its steps are epochs, from 1."""
EPOCH_ERROR = "epoch/loss_error"
"""Standard error of :data:`EPOCH_LOSS`."""
METRIC = "metric/"
"""Prefix of validation figures, each evaluation; steps are those of training."""
METRIC_BAD = "bad_metric/"
"""Prefix of events: at this evaluation, the named loss was NaN or infinite."""
DOUBLING = "doubling/"
"""Prefix of loss(batch twice) / loss(batch), measured once at the start."""
DOUBLING_NOISE = "doubling_noise/"
"""Prefix of the relative spread of that ratio's losses under different random numbers."""
RATE = "rate/learning_rate"
"""The configured learning rate of the first optimiser."""
LR = "lr/"
"""Prefix of the actual learning rate of each optimiser, as it steps."""
LR_EXPECTED = "lr_expected/"
"""Prefix of what the schedule, simulated from the start, says the rate is at that step."""
GRAD = "grad/"
"""Prefix of the gradient norm of each optimiser, before clipping."""
GRAD_CLIPPED = "grad_clipped/"
"""Prefix of the gradient norm with which each optimiser stepped."""
GRAD_LIMIT = "grad_limit/"
"""Prefix of the bound to which that norm is configured to be clipped."""
GROUP_GRAD = "group_grad/"
"""Prefix of the gradient norm of each group of parameters over the norm of its weights."""
HEAD_GRAD = "head_grad/"
"""Prefix of the root mean square of a head's gradients."""
UPDATE = "update/"
"""Prefix of the norm of one step's change of a group over the norm of its weights."""
UNCHANGED = "unchanged/"
"""Prefix of the number of steps with a gradient since which the named parameter is bit-identical."""
NO_GRADIENT = "no_gradient/"
"""Prefix of the number of steps since which the named trainable parameter got no gradient."""
GRAD_COSINE = "grad_cosine"
"""Cosine of a step's gradient with that of the step before."""
NOISE_SMALL, NOISE_LARGE, NOISE_RATIO = "noise/small", "noise/large", "noise/ratio"
"""Squared gradient norms of one micro-batch and of all that were accumulated, and how many those are."""
COUNTER = "counter/"
"""Prefix of what is counted since the start (``counter/optimizer_steps``, ``counter/scheduler_steps``)."""
SCALE = "amp_scale"
"""The loss scale of mixed precision in float16."""
STATE_BAD = "state_bad/"
"""Prefix of the number of values that are not finite in weights, buffers and optimiser states."""
INPUT_BAD = "input_bad/"
"""Prefix of events: the named part of the input of a bad step was not finite."""
INPUT_SEEN = "input_seen"
"""Events: the input of this bad step was looked at, whatever it was like."""
MODULE_BAD = "module_bad/"
"""Prefix of events: the named module was the first to give values that are not finite."""
PREFLIGHT = "preflight/"
"""Prefix of what is measured before the first step: see :mod:`maskwell.health.rules.preflight_data`."""
LINT = "lint/"
"""Prefix of contradictions in the configuration, by their code."""
PROBE = "probe/"
"""Prefix of what is measured once after warm-up (``probe/train_eval``, ``probe/input_effect``)."""
SYSTEM = "system/"
"""Prefix of time and memory (``system/step_seconds``, ``system/wait_share``, ``system/allocated_mib``)."""
RESUME = "resume/"
"""Prefix of what changed over a resume (``resume/lr``: new over old)."""
STEPS_PER_EPOCH = "steps_per_epoch"
"""Optimiser steps of an epoch, known from the start or from the first epoch."""
EVENT = "event/"
"""Prefix of declared changes, which explain a jump: see :data:`EVENTS`."""

EVENTS: dict[str, str] = {
    "unfreeze": "parameters became trainable",
    "ramp": "the weight of a loss term changes",
    "self_training": "pseudo-labels begin to count",
    "lr_change": "the schedule changed the learning rate abruptly",
    "resume": "the run went on from a checkpoint",
    "skip": "a bad step was skipped",
    "recovery": "the run went back to a healthy checkpoint",
    "augmentation": "augmentation changed",
}
"""Kinds of declared changes."""

Values = npt.NDArray[np.float64]
Steps = npt.NDArray[np.int64]


class Stream:
    """The last ``capacity`` values of one signal with the steps they belong to, and its first ones.

    ``seen`` and ``nonzero`` count all values there ever were; ``first`` holds the first ``HEAD``.
    """

    HEAD = 64

    def __init__(self, name: str, role: Role, capacity: int = 1024) -> None:
        self.name, self.role, self.capacity = name, role, capacity
        self.seen = self.nonzero = 0
        self.first: list[float] = []
        self.first_step: int | None = None
        # twice the room: values move to the front once in ``capacity`` appends
        self._values, self._steps = np.empty(0), np.empty(0, np.int64)
        self._end = 0

    def __len__(self) -> int:
        return min(self._end, self.capacity)

    @property
    def values(self) -> Values:
        """A view, oldest first."""
        return self._values[self._end - len(self) : self._end]

    @property
    def steps(self) -> Steps:
        """A view, of the same length."""
        return self._steps[self._end - len(self) : self._end]

    @property
    def latest(self) -> float | None:
        """The newest value."""
        return float(self._values[self._end - 1]) if self._end else None

    @property
    def latest_step(self) -> int:
        """The step of the newest value, -1 before the first."""
        return int(self._steps[self._end - 1]) if self._end else -1

    def append(self, step: int, value: float) -> None:
        """Add a value; one of an earlier step than the last is a replay and is dropped."""
        if step < self.latest_step:
            return
        if self._end == len(self._values):
            self._make_room()
        if self.first_step is None:
            self.first_step = step
        if len(self.first) < self.HEAD:
            self.first.append(value)
        self.seen += 1
        self.nonzero += value != 0
        self._values[self._end], self._steps[self._end] = value, step
        self._end += 1

    def _make_room(self) -> None:
        kept = len(self)
        size = min(2 * self.capacity, max(64, 4 * kept))
        values, steps = np.empty(size), np.empty(size, np.int64)
        values[:kept], steps[:kept] = self.values, self.steps
        self._values, self._steps, self._end = values, steps, kept

    def last(self, count: int) -> list[float]:
        """The newest ``count`` values, oldest first; fewer where there are fewer."""
        found: list[float] = self.values[-count:].tolist() if count > 0 else []
        return found

    def tail(self, count: int, after: int = -1) -> Values:
        """View of the newest ``count`` values of steps behind ``after``; fewer where there are fewer."""
        begin = int(np.searchsorted(self.steps, after, side="right")) if after >= 0 else 0
        return self.values[max(begin, len(self) - count) :]

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists."""
        return {
            "role": self.role,
            "seen": self.seen,
            "nonzero": self.nonzero,
            "first": list(self.first),
            "first_step": self.first_step,
            "steps": self.steps.tolist(),
            "values": self.values.tolist(),
        }

    @classmethod
    def from_state(cls, name: str, capacity: int, state: Mapping[str, Any]) -> Stream:
        """Inverse of :meth:`state_dict`."""
        stream = cls(name, state["role"], capacity)
        for step, value in zip(state["steps"], state["values"], strict=True):
            stream.append(step, value)
        stream.seen, stream.nonzero = state["seen"], state["nonzero"]
        stream.first, stream.first_step = list(state["first"]), state["first_step"]
        return stream


class Signals:
    """All streams of a run. A stream begins with its first value, may be late and may have gaps.

    Attributes:
        step: the newest step. ``epoch`` the newest whole epoch.
        calm_after: set by the engine for the rule it runs: a declared event explains what happened up
            to this step, so that windows begin behind it; -1 where nothing is to be explained.
        rate_key: the configuration's key of the learning rate, for remedies.
    """

    def __init__(self, capacity: int = 1024) -> None:
        self.capacity = capacity
        self.step = 0
        self.epoch = 0
        self.calm_after = -1
        self.rate_key = "optim.lr"
        self._streams: dict[str, Stream] = {}
        self._below: dict[str, list[tuple[str, Stream]]] = {}  # of under(), while no stream begins
        self._empty = Stream("", "supervised", capacity)

    def record(self, name: str, step: int, value: float, role: Role) -> None:
        """Append one value to the stream ``name``, which begins here if it is new."""
        stream = self._streams.get(name)
        if stream is None:
            stream = self._streams[name] = Stream(name, role, self.capacity)
            self._below = {}
        stream.append(step, float(value))

    def declare(self, event: str, step: int) -> None:
        """Note that something was changed on purpose at ``step``; kinds as in :data:`EVENTS`."""
        if event not in EVENTS:
            raise ValueError(f"'{event}' is no kind of event: use one of {', '.join(EVENTS)}.")
        self.record(EVENT + event, step, 1.0, "event")

    def last_event(self, kinds: tuple[str, ...]) -> int:
        """Step of the newest event of these kinds, -1 where there was none."""
        known = (self._streams.get(EVENT + kind) for kind in kinds)
        return max((stream.latest_step for stream in known if stream is not None), default=-1)

    def get(self, name: str) -> Stream:
        """The stream, empty where nothing was recorded under this name."""
        return self._streams.get(name, self._empty)

    def value(self, name: str) -> float | None:
        """The newest value of a stream, None where it is empty."""
        stream = self._streams.get(name)
        return None if stream is None else stream.latest

    def under(self, prefix: str) -> Iterator[tuple[str, Stream]]:
        """(name without the prefix, stream) of every stream whose name begins with ``prefix``."""
        if prefix not in self._below:
            self._below[prefix] = [
                (name.removeprefix(prefix), stream)
                for name, stream in self._streams.items()
                if name.startswith(prefix)
            ]
        yield from self._below[prefix]

    def losses(self, roles: tuple[Role, ...]) -> Iterator[tuple[str, Stream]]:
        """(name, stream) of the total loss and of its parts that have one of the ``roles``."""
        for name, stream in self._streams.items():
            if (name == LOSS or name.startswith(PART)) and stream.role in roles:
                yield name.removeprefix(PART), stream

    def window(self, stream: Stream, count: int) -> Values:
        """The newest ``count`` values that no declared event explains."""
        return stream.tail(count, self.calm_after)

    @property
    def learning_rate(self) -> float | None:
        """The configured learning rate, None where it is not known."""
        rate = self.value(RATE)
        return rate if rate is not None and math.isfinite(rate) else None

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dicts."""
        streams = {name: stream.state_dict() for name, stream in self._streams.items()}
        return {"step": self.step, "epoch": self.epoch, "streams": streams}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.step, self.epoch = state["step"], state["epoch"]
        self._streams = {
            name: Stream.from_state(name, self.capacity, s) for name, s in state["streams"].items()
        }
        self._below = {}
