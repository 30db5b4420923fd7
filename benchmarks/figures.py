"""From results of trainings and evaluations to published figures; pure functions."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scipy import stats

Result = dict[str, Any]


def best_rate(runs: Mapping[float, Result], metric: str = "val_map_50") -> float:
    """The rate with the best metric on val; of equal ones the smallest."""
    return max(sorted(runs), key=lambda rate: float(runs[rate][metric]))


def paired_difference(first: Sequence[float], second: Sequence[float], metric: str) -> dict[str, float]:
    """Mean of first - second over pairs (runs of one seed), with its 95 % t-interval from two pairs on."""
    differences = [a - b for a, b in zip(first, second, strict=True)]
    mean = statistics.mean(differences)
    if len(differences) < 2:
        return {metric: mean}
    error = statistics.stdev(differences) / len(differences) ** 0.5
    reach = float(stats.t.ppf(0.975, len(differences) - 1)) * error
    return {metric: mean, f"{metric}.low": mean - reach, f"{metric}.high": mean + reach}


def over_seeds(scores: Mapping[int, Mapping[str, float]]) -> dict[str, float]:
    """Mean of every metric, and from two seeds on its standard deviation, and map_50's least and each."""
    shared = set.intersection(*(set(score) for score in scores.values()))
    figures: dict[str, float] = {}
    for name in sorted(shared):
        values = [score[name] for score in scores.values()]
        figures[name] = statistics.mean(values)
        if len(values) > 1:
            figures[f"{name}.std"] = statistics.stdev(values)
    if len(scores) == 1 or "map_50" not in shared:
        return figures
    figures["map_50.min"] = min(score["map_50"] for score in scores.values())
    return figures | {f"map_50.seed_{seed}": score["map_50"] for seed, score in scores.items()}


def drops(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """By how much map_50 and il_mcc fell (negative: they rose)."""
    shared = [name for name in ("map_50", "il_mcc") if name in before and name in after]
    return {f"{name}_drop": before[name] - after[name] for name in shared}


def derived(figures: Mapping[str, float]) -> dict[str, float]:
    """Figures that compare two studies, where both are there."""
    adapter, full = (figures.get(f"dsb2018.{name}.map_50") for name in ("adapter_all", "full"))
    return {"dsb2018.adapter_all.share_of_full": adapter / full} if adapter and full else {}


def pick(result: Result, names: Iterable[str]) -> Result:
    """The entries of a result that are there."""
    return {name: result[name] for name in names if name in result}


def named(prefix: str, result: Result, names: Iterable[str] | None = None) -> Result:
    """The entries (those of ``names``) with dotted names."""
    chosen = result if names is None else pick(result, names)
    return {f"{prefix}.{name}" if prefix else name: value for name, value in chosen.items()}
