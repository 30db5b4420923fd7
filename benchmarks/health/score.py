"""What monitors are judged by, as pure functions over their alarms."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import chi2

BUDGET = 500
"""Steps behind a fault's onset within which it has to be found."""
EVALUATIONS = 3
"""Evaluations behind the onset within which a finding counts too, where they end later."""
APART = 50
"""Alarms nearer than so many steps to the one before are one episode."""


@dataclass(frozen=True)
class Alarm:
    """A monitor speaks: at which step, and which causes it names, likeliest first."""

    step: int
    causes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """A recorded run as it is judged.

    ``right``: causes that are right answers, none in a healthy run; ``onset``: the step in which the
    fault first acted, None where it did not or there is none; ``static``: it is there from the
    beginning, so that no step is healthy; ``steps`` of the run; ``evaluations``: the steps of them.
    """

    name: str
    family: str
    group: str
    severity: float
    seed: int
    steps: int
    right: tuple[str, ...] = ()
    onset: int | None = None
    static: bool = False
    evaluations: tuple[int, ...] = ()

    @property
    def faulty(self) -> bool:
        """Whether a fault was injected, and acted."""
        return bool(self.right) and self.onset is not None

    @property
    def healthy_steps(self) -> int:
        """Steps in which nothing is wrong."""
        if not self.faulty:
            return self.steps
        assert self.onset is not None
        return 0 if self.static else self.onset - 1

    @property
    def limit(self) -> int:
        """The last step in which a finding counts."""
        assert self.onset is not None
        after = [step for step in self.evaluations if step >= self.onset][:EVALUATIONS]
        return max(self.onset + BUDGET, *after) if len(after) == EVALUATIONS else self.onset + BUDGET


@dataclass(frozen=True)
class Outcome:
    """What a monitor made of a case; ``latency`` None: the fault was not found.

    ``top1``, ``top3``: whether the right cause was named first, or among the first three, by the first
    alarm that counts; None where none did. ``named`` and ``named_right``: alarms that named a cause.
    """

    case: Case
    latency: int | None = None
    top1: bool | None = None
    top3: bool | None = None
    named: int = 0
    named_right: int = 0
    false_episodes: int = 0

    @property
    def found(self) -> bool:
        """Whether the fault was found in time."""
        return self.latency is not None


def judge(case: Case, alarms: Sequence[Alarm]) -> Outcome:
    """Count what is true and what is false in the alarms of one run.

    Alarms before the onset are false. Of what comes behind the limit only the causes count. Alarms that name
    the same cause first and lie at most :data:`APART` steps apart name it once.
    """
    ordered = sorted(alarms, key=lambda alarm: alarm.step)
    if not case.faulty:
        named = len(_named(ordered))
        return Outcome(case, named=named, false_episodes=episodes([a.step for a in ordered]))
    assert case.onset is not None
    # a step that fails is known by the last one that was finished
    begin = 0 if case.static else case.onset - 1
    early = [alarm.step for alarm in ordered if alarm.step < begin]
    true = [alarm for alarm in ordered if begin <= alarm.step <= case.limit]
    spoken = _named(ordered)
    right = set(case.right)
    outcome = Outcome(
        case,
        named=len(spoken),
        named_right=sum(alarm.causes[0] in right for alarm in spoken if alarm.step >= begin),
        false_episodes=episodes(early),
    )
    if not true:
        return outcome
    first = true[0]
    return Outcome(
        case,
        latency=max(0, first.step - case.onset),
        top1=bool(first.causes) and first.causes[0] in right,
        top3=bool(right & set(first.causes[:3])),
        named=outcome.named,
        named_right=outcome.named_right,
        false_episodes=outcome.false_episodes,
    )


def _named(ordered: Sequence[Alarm]) -> list[Alarm]:
    """The alarms that name a cause, of those that go on naming the same one the first alone."""
    found, last = [], dict[str, int]()
    for alarm in ordered:
        if alarm.causes:
            first = alarm.causes[0]
            if first not in last or alarm.step - last[first] > APART:
                found.append(alarm)
            last[first] = alarm.step
    return found


def episodes(steps: Sequence[int]) -> int:
    """Alarms as episodes: those at most :data:`APART` steps behind the one before belong to it."""
    count, last = 0, -math.inf
    for step in sorted(steps):
        count += step - last > APART
        last = step
    return count


def wilson(hits: int, of: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share (Wilson, 1927); (0, 1) of nothing."""
    if of == 0:
        return 0.0, 1.0
    share, spread = hits / of, z * z / of
    middle = (share + spread / 2) / (1 + spread)
    reach = z / (1 + spread) * math.sqrt(share * (1 - share) / of + spread / (4 * of))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def bootstrap(
    cases: Sequence[Any], figure: Callable[[Sequence[Any]], float], seed: int = 0, times: int = 1000
) -> tuple[float, float]:
    """95 % interval of a figure over whole runs drawn again with replacement."""
    if not cases:
        return 0.0, 0.0
    random = np.random.default_rng(seed)
    drawn = [figure([cases[i] for i in random.integers(0, len(cases), len(cases))]) for _ in range(times)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def share(hits: int, of: int) -> dict[str, float]:
    """A share with its interval and what it is a share of."""
    low, high = wilson(hits, of)
    return {"": hits / of if of else 0.0, "low": low, "high": high, "of": of}


def named(prefix: str, entry: Mapping[str, float]) -> dict[str, float]:
    """``{"": 1, "low": 0}`` under a name: ``{"x": 1, "x.low": 0}``."""
    return {f"{prefix}.{key}" if key else prefix: value for key, value in entry.items()}


def figures(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """All figures of a monitor over a set of runs; those of which there are no runs are left out."""
    faulty = [o for o in outcomes if o.case.faulty]
    healthy = [o for o in outcomes if not o.case.right]
    result: dict[str, float] = {}
    if faulty:
        found = [o for o in faulty if o.found]
        result |= named("detection", share(len(found), len(faulty)))
        result |= named("top1", share(sum(bool(o.top1) for o in faulty), len(faulty)))
        result |= named("top3", share(sum(bool(o.top3) for o in faulty), len(faulty)))
        latencies = sorted(o.latency for o in found if o.latency is not None)
        if latencies:
            result |= named("latency", spread(latencies))
    spoken = sum(o.named for o in outcomes)
    if spoken:
        result |= named("precision", share(sum(o.named_right for o in outcomes), spoken))
    if healthy:
        flagged = sum(o.false_episodes > 0 for o in healthy)
        result |= named("healthy_flagged", share(flagged, len(healthy)))
    steps = sum(o.case.healthy_steps for o in outcomes)
    if steps:
        low, high = bootstrap(outcomes, false_rate)
        count = sum(o.false_episodes for o in outcomes)
        # of none, runs drawn again have none: at least the exact bound of rare events (Garwood, 1936)
        high = max(high, 1000 * float(chi2.ppf(0.975, 2 * (count + 1))) / 2 / steps)
        result |= {
            "false_per_1000": false_rate(outcomes),
            "false_per_1000.low": low,
            "false_per_1000.high": high,
            "healthy_steps": float(steps),
        }
    return result


def spread(latencies: Sequence[int]) -> dict[str, float]:
    """Median and 90th percentile, with intervals over runs drawn again."""
    found: dict[str, float] = {}
    for name, rank in (("median", 50), ("p90", 90)):
        low, high = bootstrap(latencies, lambda drawn, rank=rank: float(np.percentile(drawn, rank)))  # type: ignore[misc]
        found |= named(name, {"": float(np.percentile(latencies, rank)), "low": low, "high": high})
    return found


def false_rate(outcomes: Sequence[Outcome]) -> float:
    """False episodes per 1000 healthy steps."""
    steps = sum(o.case.healthy_steps for o in outcomes)
    return 1000 * sum(o.false_episodes for o in outcomes) / steps if steps else 0.0


def parted(outcomes: Sequence[Outcome], key: Callable[[Case], str]) -> dict[str, dict[str, float]]:
    """Key -> detection, causes and latency of the faulty runs that have it."""
    parts: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.case.faulty:
            parts.setdefault(key(outcome.case), []).append(outcome)
    return {
        name: {k: v for k, v in figures(part).items() if k in KEPT} for name, part in sorted(parts.items())
    }


KEPT = ("detection", "detection.of", "top1", "top3", "latency.median", "latency.p90")
"""Figures of the parts of a whole."""
