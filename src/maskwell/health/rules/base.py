"""What a rule is: a small class that reads signals, with its thresholds as dataclass fields."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from types import UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from maskwell.errors import UserError
from maskwell.health.findings import Action, Finding, Severity
from maskwell.health.signals import Role, Signals

Clock = Literal["start", "step", "evaluation", "epoch"]
"""When a rule is asked: once before the first step, every few steps, after each evaluation or epoch."""

GUIDED: tuple[Role, ...] = ("supervised", "consistency")
"""Roles of losses that fall in health: an adversarial loss may do as it likes, a regulariser may rise."""
CHANGES = ("unfreeze", "ramp", "self_training", "lr_change", "resume", "recovery", "augmentation")
"""Declared changes after which curves may jump."""


@dataclass(frozen=True)
class Symptom:
    """What a rule reports; the engine makes a :class:`Finding` of it. See there for the fields.

    ``causes`` label -> weight replaces the rule's own ``supports`` where a case says more.
    """

    severity: Severity
    cause: str
    evidence: Mapping[str, float] = field(default_factory=dict)
    remedies: tuple[str, ...] = ()
    subject: str = ""
    causes: Mapping[str, float] | None = None


@dataclass(kw_only=True)
class Rule(ABC):
    """Base of all rules. Fields are thresholds that a configuration can set; the rest is of the class.

    ``action`` is what a finding of severity "error" leads to, ``on_warn`` and ``on_info`` what the
    milder ones do.

    Class attributes:
        clock: when it is asked; at most every ``every`` steps.
        code: its letter and number in the list of rules.
        depth: 0 for rules that name a root cause, larger for those that see its consequences.
        reads: streams, or prefixes of streams, without which it has nothing to say.
        explained_by: kinds of declared changes that mute it for ``settle`` steps; its windows begin
            behind them.
        supports: cause -> weight in (0, 1), how strongly a finding speaks for it.
        denies: cause -> weight, how strongly silence in spite of data speaks against it.
        peers: monitors of others that have a rule of this kind.
    """

    clock: ClassVar[Clock]
    code: ClassVar[str]
    every: ClassVar[int] = 0
    depth: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ()
    explained_by: ClassVar[tuple[str, ...]] = ()
    settle: ClassVar[int] = 100
    supports: ClassVar[Mapping[str, float]] = {}
    denies: ClassVar[Mapping[str, float]] = {}
    peers: ClassVar[tuple[str, ...]] = ()

    action: Action = "warn"
    on_warn: Action = "warn"
    on_info: Action = "log"

    def __post_init__(self) -> None:
        hints = _hints(type(self))
        for entry in fields(self):
            value = getattr(self, entry.name)
            fitted = _fit(value, hints[entry.name])
            if fitted is _WRONG:
                raise UserError(
                    f"{type(self).__name__}.{entry.name} is {value!r}: give {_words(hints[entry.name])} "
                    f"(health.rules.<name>.{entry.name})."
                )
            setattr(self, entry.name, fitted)

    @abstractmethod
    def check(self, signals: Signals) -> Iterator[Symptom]:
        """Everything that is wrong now, as far as this rule sees."""

    def informed(self, signals: Signals) -> bool:
        """Whether there is data by which its silence means something."""
        return any(len(stream) for prefix in self.reads for _, stream in signals.under(prefix))

    def finding(self, name: str, step: int, symptom: Symptom) -> Finding:
        """``symptom`` under the name that this rule bears in the configuration."""
        return Finding(
            rule=name,
            severity=symptom.severity,
            step=step,
            cause=symptom.cause,
            evidence=symptom.evidence,
            remedies=symptom.remedies,
            subject=symptom.subject,
            depth=self.depth,
            causes=self.supports if symptom.causes is None else symptom.causes,
        )


def scaled_rate(signals: Signals, factor: float) -> tuple[str, ...]:
    """An override that multiplies the learning rate, where the rate is known."""
    rate = signals.learning_rate
    return (f"{signals.rate_key}={rate * factor:.2g}",) if rate else ()


def listed(names: Iterable[str], most: int = 3) -> str:
    """Names for a sentence: the first few, and how many more."""
    found = list(names)
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more


_WRONG = object()


@cache
def _hints(rule: type[Rule]) -> dict[str, Any]:
    return get_type_hints(rule)


def _fit(value: Any, kind: Any) -> Any:
    """``value`` as ``kind`` (ints become floats, lists tuples), or ``_WRONG``."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value if value in arguments else _WRONG
    if origin in (Union, UnionType):
        fits = (_fit(value, option) for option in arguments)
        return next((f for f in fits if f is not _WRONG), _WRONG)
    if origin is tuple:
        return _fit_tuple(value, arguments)
    if origin is not None and issubclass(origin, Mapping):
        return _fit_mapping(value, arguments)
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, bool):
        return _WRONG
    return value if isinstance(value, kind) else _WRONG


def _fit_tuple(value: Any, arguments: tuple[Any, ...]) -> Any:
    if not isinstance(value, list | tuple):
        return _WRONG
    kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
    if len(kinds) != len(value):
        return _WRONG
    fitted = tuple(_fit(v, k) for v, k in zip(value, kinds, strict=True))
    return _WRONG if _WRONG in fitted else fitted


def _fit_mapping(value: Any, arguments: tuple[Any, ...]) -> Any:
    if not isinstance(value, Mapping):
        return _WRONG
    # keys of a YAML mapping may have come as text
    keys = [int(k) if arguments[0] is int and str(k).isdigit() else _fit(k, arguments[0]) for k in value]
    values = [_fit(v, arguments[1]) for v in value.values()]
    return _WRONG if _WRONG in keys or _WRONG in values else dict(zip(keys, values, strict=True))


def _words(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    return names.get(kind, str(kind).replace("collections.abc.", ""))
