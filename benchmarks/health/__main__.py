"""The proof of the health monitor: faults in real trainings of every family, healthy ones beside them.

Every training is recorded once, with a monitor that has no rules; rules, ours and those of others,
are asked by replay. ``--split dev`` works on what rules may be tuned on and writes nothing; the
figures are those of other seeds, and of faults that no rule was designed on. A second start goes on
where the first ended; several may run at once.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.health import overhead, plan, remedies
from benchmarks.health.collect import NOTES, Finished, collect, stories
from benchmarks.health.miniature import command
from benchmarks.health.monitors import printed, remedy
from benchmarks.health.plan import Cell, Split
from benchmarks.health.record import Training, quiet, record
from benchmarks.health.score import EVALUATIONS
from benchmarks.health.tape import Tape
from maskwell.errors import UserError
from maskwell.health.rules import default_rules

RUNS = harness.ROOT / "runs" / "benchmarks" / "health"
RECORDING = 1
"""To be raised where what is recorded changes: with faults, networks or what the monitor measures."""


@dataclass(frozen=True)
class Bench:
    """Finished cells and their tapes in a folder; ``works``: whether missing ones are recorded."""

    folder: Path
    cells: harness.Cells
    works: bool = True

    def training(self, training: Training, refusable: bool = False) -> dict[str, Any] | None:
        """The result of a training, recorded now if it must be; None where it is missing.

        ``refusable``: an override of it was printed by the monitor; one that cannot be given mends nothing.
        """
        key = {**training.key(), "recipe": _recipe(training), "recording": RECORDING}
        if training.recovers:  # it has rules
            key["rules"] = hashlib.sha256(repr(default_rules()).encode()).hexdigest()[:12]
        if not self.works or training.ranks > harness.usable_cores():
            return self.cells.find(key)
        return self.cells.run(key, lambda: self._record(training, key, refusable))

    def _record(self, training: Training, key: dict[str, Any], refusable: bool) -> dict[str, Any]:
        try:
            made = record(training)
        except UserError as error:
            if not refusable:
                raise
            return {"refused": str(error), "metrics": {}}
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        result = {**made.result(), "commit": harness.commit()}
        if not training.recovers:
            made.tape.save(self.folder / "tapes" / f"{name}.npz")
            result["tape"] = f"{name}.npz"
        return result

    def tape(self, result: dict[str, Any]) -> Tape:
        """What was recorded."""
        return Tape.load(self.folder / "tapes" / result["tape"])

    def finished(self, cells: Iterable[Cell]) -> list[Finished]:
        """Those that are recorded, with what they gave."""
        found = []
        for cell in cells:
            result = self.training(cell.training)
            if result is not None:
                found.append(Finished(cell, result, lambda result=result: self.tape(result)))  # type: ignore[misc]
        return found

    def mend(self, split: Split, part: tuple[int, int]) -> None:
        """Train what runs are compared with, those that recover, and those that an override may mend."""
        first, of = part
        for training in [*plan.references(split), *remedies.derailed(split)][first::of]:
            self.training(training)
        for cell in [c for c in plan.cells(split) if c.undo][first::of]:
            override = self.advice(cell, self.training(cell.training))
            if override is not None:
                self.training(remedies.mended(cell, override), refusable=True)

    def advice(self, cell: Cell, result: dict[str, Any] | None) -> str | None:
        """The override that the monitor prints for a recorded cell whose fault an override can undo."""
        if result is None or not cell.undo:
            return None
        return remedy(printed(self.tape(result), cell.training.family))

    def overhead(self, turns: int) -> dict[str, float]:
        """Of a slow and of a fast network."""
        figures: dict[str, float] = {}
        for milliseconds in overhead.MILLISECONDS:
            key = {"overhead": milliseconds, "turns": turns, "recording": RECORDING}

            def work(milliseconds: int = milliseconds) -> dict[str, float]:
                quiet()
                with tempfile.TemporaryDirectory() as folder:
                    return overhead.measure(milliseconds, turns, folder)

            found = self.cells.run(key, work) if self.works else self.cells.find(key)
            figures |= {f"overhead.{milliseconds}_ms.{name}": value for name, value in (found or {}).items()}
        return figures


def _recipe(training: Training) -> str:
    """Changes where the composed command does."""
    overrides = command(
        training.family,
        training.seed,
        training.steps,
        training.images,
        training.evaluate_every,
        training.overrides,
    )
    kept = [override for override in overrides if not override.startswith("data.root=")]
    return hashlib.sha256(json.dumps(kept).encode()).hexdigest()[:12]


def main() -> None:
    args = _arguments()
    started = time.perf_counter()
    folder = RUNS / "quick" if args.quick else RUNS
    if args.quick:
        shutil.rmtree(folder, ignore_errors=True)
    bench = Bench(folder, harness.Cells(folder / "cells.jsonl"), works=not args.collect)
    if args.quick:
        wanted = list(plan.quick())
        _publish(args, collect(bench.finished(wanted)), started)
        return
    wanted = list(_wanted(plan.cells(args.split), args))
    if not args.collect:
        _work(bench, wanted, args)
    idle = Bench(bench.folder, bench.cells, works=False)
    if args.details:
        print("\n".join(stories(idle.finished(wanted))))
        return
    if args.only or args.families or args.part != (0, 1):
        return
    references = by_training(idle, plan.references(args.split))
    planned = list(plan.cells(args.split))
    recorded = idle.finished(planned)
    figures = collect(recorded, references)
    figures |= mending(idle, args.split, references) | idle.overhead(args.turns)
    if args.split == "dev":
        harness.print_table("health, development", ["figure", "value"], list(figures.items()))
        return
    missing = len(planned) - len(recorded)
    _publish(args, figures, started, f" Not recorded yet: {missing} runs." if missing else "")


def _arguments() -> argparse.Namespace:
    parser = harness.arguments(__doc__ or "")
    parser.add_argument(
        "--split", choices=("dev", "test"), default="test", help="dev prints, and writes nothing"
    )
    parser.add_argument("--only", nargs="+", help="record these faults and controls alone")
    parser.add_argument("--families", nargs="+", help="record these families alone")
    parser.add_argument(
        "--part", type=_part, default=(0, 1), help="I/N: record every N-th cell from the I-th on"
    )
    parser.add_argument("--details", action="store_true", help="of --split dev: what went wrong, run by run")
    parser.add_argument("--collect", action="store_true", help="record nothing; report what is finished")
    parser.add_argument("--turns", type=int, default=5, help="pairs of runs of the overhead")
    args = parser.parse_args()
    if args.details and args.split != "dev":
        parser.error("runs of the test are not looked at one by one: give --split dev")
    return args


def _part(text: str) -> tuple[int, int]:
    first, of = (int(number) for number in text.split("/"))
    return first - 1, of


def _wanted(cells: Iterable[Cell], args: argparse.Namespace) -> Sequence[Cell]:
    chosen = [
        cell
        for cell in cells
        if (not args.only or cell.name in args.only)
        and (not args.families or cell.training.family in args.families)
    ]
    first, of = args.part
    return chosen[first::of]


def _work(bench: Bench, wanted: Sequence[Cell], args: argparse.Namespace) -> None:
    for number, cell in enumerate(wanted, 1):
        begun = time.perf_counter()
        result = bench.training(cell.training)
        seconds = time.perf_counter() - begun
        if result is not None and seconds > 0.5:
            severity = f" {cell.severity:g}" if cell.right else ""
            label = f"{cell.training.family} {cell.name}{severity}, seed {cell.training.seed}"
            ended = f", ended by {result['ended'].split(':')[0]}" if result["ended"] else ""
            print(f"[{number}/{len(wanted)}] {label}: {result['seconds']:.0f} s{ended}", flush=True)
    if args.split == "test" and not (args.only or args.families):
        bench.mend(args.split, args.part)
        if args.part[0] == 0:
            bench.overhead(args.turns)


def mending(bench: Bench, split: Split, references: Mapping[Training, Mapping[str, Any]]) -> dict[str, Any]:
    """Shares of the runs that the printed override mended, and that recovered, of those that are recorded."""
    tries: dict[str, list[bool]] = {}
    for cell in plan.cells(split):
        result = bench.training(cell.training) if cell.undo else None
        healthy = references.get(plan.reference(cell.training))
        if result is None or healthy is None:
            continue
        override = bench.advice(cell, result)
        again = bench.training(remedies.mended(cell, override), refusable=True) if override else None
        if override is None or again is not None:
            mended = again is not None and remedies.as_good(again, healthy)
            tries.setdefault(cell.name, []).append(mended)
    recoveries = [
        remedies.recovered(result, references[plan.reference(training)])
        for training in remedies.derailed(split)
        if (result := bench.training(training)) is not None and plan.reference(training) in references
    ]
    return remedies.figures(tries, recoveries)


def by_training(bench: Bench, wanted: Iterable[Training]) -> dict[Training, dict[str, Any]]:
    """What those gave that are recorded."""
    found = {training: bench.training(training) for training in wanted}
    return {training: result for training, result in found.items() if result is not None}


def _publish(args: argparse.Namespace, figures: dict[str, Any], started: float, missing: str = "") -> None:
    if figures:
        harness.publish(
            args,
            "health",
            figures,
            command="python -m benchmarks.health",
            seeds=plan.SEEDS["test"],
            minutes=figures.get("minutes", (time.perf_counter() - started) / 60),
            notes=NOTES.format(evaluations=EVALUATIONS) + missing,
        )


if __name__ == "__main__":
    main()
