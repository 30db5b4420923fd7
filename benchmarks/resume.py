"""A run that is killed at any moment and resumed equals the one that was not, bit for bit on the CPU.

For each family a training with augmentation, dropout or noise and 2 loader workers is killed with SIGKILL at
random moments: between steps, in validation, while a checkpoint is being written. It is resumed by its own
command; the weights, the optimisers' state and every row of metrics.csv must equal those of the uninterrupted
run. Resumes kill by kill.

    python -m benchmarks.resume [--family detr] [--kills 30]
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks import families, harness

STEPS, EPOCHS, EVERY = 6, 3, 2
"""Steps of an epoch, epochs, steps between two validations, each of which ends in a checkpoint."""

KILLS = 30

WHILE_WRITING = 6
"""Kills of a family that wait for a checkpoint to be half written."""


def arguments(family: str, work: Path, folder: Path, workers: int = 2) -> list[str]:
    """The command of a run: the same starts it and goes on with it."""
    total = STEPS * EPOCHS
    if family == "s4gan":
        length = [f"model.iterations={total}", f"model.evaluate_every={EVERY}"]
    else:
        length = [f"trainer.max_epochs={EPOCHS}", f"trainer.val_check_interval={EVERY}"]
        length += [f"trainer.limit_train_batches={STEPS}"]
    return [
        *families.overrides(family, work / "cells", 2, augment=True),
        *length,
        f"data.num_workers={workers}",
        f"paths.run_dir={folder}",
        f"ckpt_path={folder}",
    ]


def start(command: list[str], log: Path) -> Any:
    """A training in a process of its own: forked, so that nothing is imported twice."""

    def work() -> None:
        os.setsid()
        with log.open("a") as file:
            os.dup2(file.fileno(), sys.stdout.fileno())
            os.dup2(file.fileno(), sys.stderr.fileno())
        torch.set_num_threads(1)
        from maskwell import app, compose

        app.train(*compose.compose("train", command))

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def finish(family: str, work: Path, folder: Path, workers: int = 2) -> Path:
    """Run (or go on with) a training to its end."""
    process = start(arguments(family, work, folder, workers), work / f"{folder.name}.log")
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{family}: exit code {process.exitcode}, see {work / folder.name}.log")
    return folder


def kill(family: str, work: Path, number: int, workers: int = 2) -> dict[str, Any]:
    """One kill: when it hit, and whether the resumed run is the uninterrupted one."""
    rng = random.Random(f"{family}/{number}")
    folder = work / f"killed_{number}"
    shutil.rmtree(folder, ignore_errors=True)
    process = start(arguments(family, work, folder, workers), work / f"{folder.name}.log")
    writing = number % (KILLS // WHILE_WRITING) == 0
    # mostly after the first checkpoint and not at the end of an epoch
    step = (
        rng.randrange(1, STEPS * EPOCHS - 1)
        if number % 10 == 9
        else EVERY + 1 + rng.randrange(STEPS * EPOCHS - EVERY - 2)
    )
    while process.is_alive() and steps(folder) < step:
        time.sleep(0.01)
    if writing:
        while process.is_alive() and not half_written(folder):
            pass
    else:
        time.sleep(rng.random() * 0.2)
    members = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    alive = process.is_alive()
    for member in members:
        if member.is_running():
            member.send_signal(signal.SIGKILL)
    process.join()
    found = {
        "killed": alive,
        "at_step": steps(folder),
        "after_checkpoint": (folder / "checkpoints" / "last.ckpt").is_file(),
        "mid_epoch": steps(folder) % STEPS != 0,
        "while_writing": half_written(folder),
    }
    finish(family, work, folder, workers)
    differences = compare(work / "whole", folder)
    if not differences:
        shutil.rmtree(folder)
    return {**found, "differences": differences}


def steps(folder: Path) -> int:
    """Training steps in the log so far."""
    path = folder / "metrics.csv"
    if not path.is_file():
        return 0
    with path.open(newline="") as file:
        return sum(bool(row.get("train/batch_loss")) for row in csv.DictReader(file))


def half_written(folder: Path) -> bool:
    return any((folder / "checkpoints").glob(".*.tmp"))


def compare(one: Path, two: Path) -> list[str]:
    """Names of what differs between two finished runs: weights, optimiser state, rows of the log."""
    first, second = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for folder in (one, two)
    )
    found = [
        f"{part}: {name}"
        for part in ("state_dict", "optimizer_states", "lr_schedulers")
        for name in unequal(first[part], second[part])
    ]
    rows = [list(csv.DictReader((folder / "metrics.csv").open(newline=""))) for folder in (one, two)]
    if rows[0] != rows[1]:
        different = [i for i, (a, b) in enumerate(zip(*rows, strict=False)) if a != b]
        found.append(f"metrics.csv: {len(rows[0])} and {len(rows[1])} rows, first difference {different[:1]}")
    return found


def unequal(one: Any, two: Any, name: str = "") -> list[str]:
    """Paths of the leaves of two structures that are not the same, bit for bit."""
    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        same = one.shape == two.shape and torch.allclose(one, two, rtol=0, atol=0, equal_nan=True)
        return [] if same else [name]
    if isinstance(one, dict) and isinstance(two, dict) and one.keys() == two.keys():
        return [path for key in one for path in unequal(one[key], two[key], f"{name}/{key}")]
    if isinstance(one, list | tuple) and isinstance(two, list | tuple) and len(one) == len(two):
        pairs = enumerate(zip(one, two, strict=True))
        return [path for i, (a, b) in pairs for path in unequal(a, b, f"{name}/{i}")]
    return [] if one == two else [name]


def study(family: str, kills: int, cells: harness.Cells, root: Path) -> dict[str, Any]:
    """Figures of one family."""
    work = root / family
    work.mkdir(parents=True, exist_ok=True)
    families.write_data(work / "cells")
    if not (work / "whole" / "results.json").is_file():
        shutil.rmtree(work / "whole", ignore_errors=True)
        finish(family, work, work / "whole")
    commit = harness.commit()
    key = {"family": family, "commit": commit}
    found = [cells.run({**key, "kill": n}, lambda n=n: kill(family, work, n)) for n in range(kills)]
    for number, cell in enumerate(found):
        if cell["differences"]:
            print(f"{family} {number}: {cell}", flush=True)
    return {
        "kills": sum(cell["killed"] for cell in found),
        "mismatches": sum(bool(cell["differences"]) for cell in found),
        "after_checkpoint_mid_epoch": sum(c["after_checkpoint"] and c["mid_epoch"] for c in found),
        "while_writing": sum(cell["while_writing"] for cell in found),
    }


def main() -> None:
    parser = harness.arguments(__doc__ or "")
    parser.add_argument("--family", choices=families.FAMILIES, help="this one alone")
    parser.add_argument("--kills", type=int, help=f"of each family (default {KILLS}; quick 1)")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks/resume"))
    args: argparse.Namespace = parser.parse_args()
    started = time.monotonic()
    import maskwell.app  # noqa: F401 - before the forks

    chosen = [args.family] if args.family else ["points"] if args.quick else list(families.FAMILIES)
    kills = args.kills or (1 if args.quick else KILLS)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) if args.quick else args.runs.resolve()
        for family in chosen:
            figures[family] = study(family, kills, harness.Cells(root / "cells.jsonl"), root)
    totals = {name: sum(f[name] for f in figures.values()) for name in next(iter(figures.values()))}
    harness.publish(
        args,
        "resume",
        {**totals, **figures},
        command=harness.command_line("benchmarks.resume"),
        seeds=[0],
        minutes=(time.monotonic() - started) / 60,
        notes="Weights, optimiser state and metrics.csv of resumed and uninterrupted runs, bit for bit.",
    )


if __name__ == "__main__":
    main()
