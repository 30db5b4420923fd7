"""Whether what the monitor prints mends a run, and whether going back to a healthy checkpoint does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from benchmarks.health.injection import SLOW_MOVING, Put, start_of
from benchmarks.health.miniature import FAULTY_EVALUATIONS, FAULTY_IMAGES, MINIATURES
from benchmarks.health.plan import SEEDS, Cell, Split
from benchmarks.health.record import Training
from benchmarks.health.score import named, share

AS_GOOD = 0.95
"""Share of the healthy figure that a mended run has to reach."""
TELLING = 0.1
"""The family's own metric counts where the healthy run reaches this; else the validation loss does."""
DERAILED = 0.5
"""Relative size of the noise on the weights from which a run has to recover."""


def mended(cell: Cell, remedy: str) -> Training:
    """The training of a faulty cell again, with the printed override behind all others."""
    return replace(cell.training, overrides=(*cell.training.overrides, remedy))


def as_good(result: Mapping[str, Any], reference: Mapping[str, Any]) -> bool:
    """Whether a run reached :data:`AS_GOOD` of what its healthy reference did."""
    metrics, healthy = result["metrics"], reference["metrics"]
    name = reference["monitor"]
    if reference["mode"] == "max" and healthy.get(name, 0.0) >= TELLING:
        return bool(metrics.get(name, 0.0) >= AS_GOOD * healthy[name])
    if "val/loss" not in healthy or "val/loss" not in metrics:
        return False
    return bool(metrics["val/loss"] <= healthy["val/loss"] / AS_GOOD)


def derailed(split: Split) -> list[Training]:
    """Runs whose weights are displaced once, with recovery; each family, each seed."""
    runs = []
    for seed in SEEDS[split]:
        for family in MINIATURES:
            start = start_of("derailed", family, DERAILED, seed)
            put = ((Put("Derailed"), DERAILED, start),)
            runs.append(
                Training(
                    family,
                    seed,
                    SLOW_MOVING,
                    FAULTY_IMAGES,
                    FAULTY_EVALUATIONS,
                    put=put,
                    recovers=True,
                )
            )
    return runs


def recovered(result: Mapping[str, Any], reference: Mapping[str, Any]) -> bool:
    """Whether a run went back, and was as good as a healthy one in the end."""
    return bool(result["returns"]) and as_good(result, reference)


def figures(tries: Mapping[str, list[bool]], recoveries: list[bool]) -> dict[str, float]:
    """Success of the printed overrides, over all and by fault, and of recovery, with intervals."""
    result: dict[str, float] = {}
    every = [success for found in tries.values() for success in found]
    if every:
        result |= named("remedy", share(sum(every), len(every)))
        result |= {
            f"remedy.by_fault.{name}": sum(found) / len(found) for name, found in sorted(tries.items())
        }
    if recoveries:
        result |= named("recovery", share(sum(recoveries), len(recoveries)))
    return result
