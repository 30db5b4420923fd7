"""What a search varies, in the words of Hydra's own sweeps: lists, ranges, intervals."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, ValueType
from hydra.errors import HydraException

from maskwell.errors import UserError

if TYPE_CHECKING:
    from optuna import Trial

FORMS = "a list (4,8,16), range(1,9,2), interval(0.1,0.5), tag(log,interval(1e-5,1e-3)) or int(interval(1,8))"


@dataclass(frozen=True)
class Choices:
    """One of ``values``, as they are written on the command line."""

    values: tuple[str, ...]

    def suggest(self, trial: Trial, key: str) -> str:
        return str(trial.suggest_categorical(key, list(self.values)))

    @property
    def example(self) -> str:
        return self.values[0]


@dataclass(frozen=True)
class Interval:
    """A number from ``low`` to ``high``: whole where both are; ``log``: even in its logarithm."""

    low: float
    high: float
    log: bool

    def suggest(self, trial: Trial, key: str) -> str:
        if isinstance(self.low, int) and isinstance(self.high, int):
            return str(trial.suggest_int(key, self.low, self.high, log=self.log))
        return repr(trial.suggest_float(key, self.low, self.high, log=self.log))

    @property
    def example(self) -> str:
        return repr(self.low)


Entry = Choices | Interval
Space = dict[str, Entry]
"""Override key -> what it may be."""


def split(overrides: Sequence[str], stored: Mapping[str, str]) -> tuple[list[str], Space]:
    """Overrides with one value, and the space of the others on top of that of a search file.

    Args:
        overrides: of the command line; a key with one value is no longer searched.
        stored: key -> its form, of a search file.

    Raises:
        UserError: an entry cannot be read or is no form of a search.
    """
    parsed = [(text, _parse(text)) for text in overrides]
    space = {}
    for key, form in stored.items():
        entry = entry_of(_parse(f"{key}={form}"))
        if entry is None:
            raise UserError(f"sweep.space.{key}: '{form}' is one value; a search needs {FORMS}.")
        space[key] = entry
    fixed = []
    for text, override in parsed:
        key = override.get_key_element()
        entry = entry_of(override)
        if entry is None:
            fixed.append(text)
            space.pop(key, None)
        else:
            space[key] = entry
    return fixed, space


def entry_of(override: Override) -> Entry | None:
    """What an override may be; None where it has one value.

    Raises:
        UserError: a form that no search knows.
    """
    if not override.is_sweep_override():
        return None
    if override.value_type == ValueType.GLOB_CHOICE_SWEEP:
        raise UserError(f"{override.input_line}: a search takes no glob(); write {FORMS}.")
    value = override.value()
    if isinstance(value, IntervalSweep):
        assert value.start is not None and value.end is not None
        log = "log" in value.tags
        if value.start >= value.end or (log and value.start <= 0):
            raise UserError(f"{override.input_line}: the interval is empty, or its logarithm is.")
        return Interval(value.start, value.end, log)
    values = tuple(override.sweep_string_iterator())
    if not values:
        raise UserError(f"{override.input_line}: nothing to choose from.")
    return Choices(values)


def grid(space: Space) -> list[dict[str, str]] | None:
    """Every combination; None where an interval has no end of values."""
    choices = [entry.values for entry in space.values() if isinstance(entry, Choices)]
    if len(choices) < len(space):
        return None
    return [dict(zip(space, point, strict=True)) for point in itertools.product(*choices)]


def example(space: Space) -> list[str]:
    """Overrides of one point of the space, to see that its keys exist."""
    return [f"{key}={entry.example}" for key, entry in space.items()]


def _parse(text: str) -> Override:
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise UserError(f"Cannot read '{text}': write key=value, or for what is searched {FORMS}.") from error
