"""Which trainings the benchmark records: every fault where it applies, and healthy ones beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.health.catalogue import FAULTS, Family, Fault, held_out
from benchmarks.health.controls import CONTROLS, Control
from benchmarks.health.injection import injection, start_of
from benchmarks.health.miniature import FAULTY_EVALUATIONS, FAULTY_IMAGES, HEALTHY_IMAGES, MINIATURES
from benchmarks.health.record import Training

Split = Literal["dev", "test"]
SEEDS: dict[Split, tuple[int, ...]] = {"dev": (0,), "test": (101, 102, 103)}
"""Rules are tuned on the first and reported on the others."""
HEALTHY = "healthy"
"""Group of the runs without a fault."""
DEV_SHARE = 3
"""Healthy runs of development are so many times shorter."""


@dataclass(frozen=True)
class Cell:
    """A training and what is known about it: ``right`` answers, none where it is healthy; ``static``: the
    fault is there from the beginning; ``undo``: an override can undo it.
    """

    training: Training
    name: str
    group: str
    severity: float
    right: tuple[str, ...] = ()
    static: bool = False
    undo: bool = False

    @property
    def held_out(self) -> bool:
        """Whether no rule may be designed on it."""
        return bool(self.right) and held_out(self.name)


def faulty(fault: Fault, family: Family, severity: float, seed: int) -> Cell:
    """The training with this fault."""
    made, small = injection(fault, family, severity), MINIATURES[family]
    start = start_of(fault.name, family, severity, seed) if made.moving else 0
    training = Training(
        family,
        seed,
        steps=made.steps or (small.moving_steps if made.moving else small.static_steps),
        images=FAULTY_IMAGES,
        evaluate_every=FAULTY_EVALUATIONS,
        overrides=made.overrides,
        put=tuple((put, severity, start) for put in made.put),
        resume_at=start if made.resumes else 0,
        ranks=made.ranks,
    )
    right = (fault.cause, *fault.equivalent)
    return Cell(
        training, fault.name, fault.group, severity, right, static=not made.moving, undo=made.by_override
    )


def healthy(control: Control, family: Family, seed: int, shorter: int = 1) -> Cell:
    """The healthy training of this kind."""
    small = MINIATURES[family]
    steps = small.moving_steps if control.small else max(small.moving_steps, small.healthy_steps // shorter)
    training = Training(
        family,
        seed,
        steps=steps,
        images=FAULTY_IMAGES if control.small else HEALTHY_IMAGES,
        evaluate_every=FAULTY_EVALUATIONS if control.small else max(FAULTY_EVALUATIONS, steps // 12),
        overrides=control.command(family),
        put=tuple((put, severity, round(share * steps)) for put, severity, share in control.put),
        resume_at=steps // 2 if control.resumes else 0,
    )
    return Cell(training, control.name, HEALTHY, 0.0)


def cells(split: Split) -> Iterator[Cell]:
    """All cells of a split, families in turn so that an early end has some of each.

    Development has neither the held-out faults nor the seeds of the test.
    """
    for seed in SEEDS[split]:
        for control in CONTROLS:
            for family in control.families:
                yield healthy(control, family, seed, DEV_SHARE if split == "dev" else 1)
        yield from faults(FAULTS, seed, test=split == "test")


def faults(wanted: Sequence[Fault], seed: int, *, test: bool) -> Iterator[Cell]:
    """Faults at both severities; the held-out ones in the test alone."""
    for fault in wanted:
        if held_out(fault.name) and not test:
            continue
        for severity in dict.fromkeys(fault.severities):
            for family in fault.families:
                yield faulty(fault, family, severity, seed)


def reference(training: Training) -> Training:
    """The healthy training as long as this one, and on as few images, which it is compared with."""
    return Training(training.family, training.seed, training.steps, FAULTY_IMAGES, FAULTY_EVALUATIONS)


def references(split: Split) -> Iterator[Training]:
    """Those of all trainings with a fault, each once."""
    yield from dict.fromkeys(reference(cell.training) for cell in cells(split) if cell.right)


QUICK_FAULTS = ("raw_bytes", "nan_step")


def quick() -> Iterator[Cell]:
    """A few cells of one family, far too short for a figure that means something."""
    chosen = [fault for fault in FAULTS if fault.name in QUICK_FAULTS]
    shown = [faulty(fault, "points", fault.severities[1], 0) for fault in chosen]
    for cell in (*shown, healthy(CONTROLS[0], "points", 0)):
        put = tuple((p, severity, 20 if start else 0) for p, severity, start in cell.training.put)
        training = Training("points", 0, 40, 16, 20, cell.training.overrides, put)
        yield Cell(training, cell.name, cell.group, cell.severity, cell.right, cell.static)
