"""Times a user waits for before anything is trained: the help page, a ready .venv, the data, the first step.

Medians of whole commands; targets, not promises: help and a ready .venv within 2 s, the sample data within
20 s, the first training step within 12 s on an idle machine.

    python -m benchmarks.start
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import harness
from maskwell.errors import TRY_AGAIN


def seconds(command: list[str], repeats: int, **environment: str) -> tuple[float, float]:
    """Median and spread (largest - smallest) of the wall time of a command, after one call to warm up."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        subprocess.run(
            command,
            cwd=harness.ROOT,
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, **environment},
        )
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:]), max(times[1:]) - min(times[1:])


def first_step(repeats: int) -> tuple[float, float]:
    """Median and spread of the seconds from ``python train.py`` to the row of its first step in the log."""
    times = []
    command = [sys.executable, "train.py", "data=cells", "evaluate_base=false", "test=false", "trainer=cpu"]
    with tempfile.TemporaryDirectory() as folder:
        for number in range(repeats + 1):  # the first generates the data, where it is not there yet
            run = Path(folder) / str(number)
            started = time.perf_counter()
            process = subprocess.Popen(
                [*command, f"paths.run_dir={run}"], cwd=harness.ROOT, stdout=subprocess.DEVNULL
            )
            while process.poll() is None and not _has_row(run / "metrics.csv"):
                time.sleep(0.01)
            times.append(time.perf_counter() - started)
            process.terminate()
            if process.wait() not in (0, TRY_AGAIN):
                raise RuntimeError(f"train.py ended with {process.returncode}")
    return statistics.median(times[1:]), max(times[1:]) - min(times[1:])


def _has_row(path: Path) -> bool:
    return path.is_file() and path.read_text().count("\n") > 1


def cells(repeats: int) -> float:
    """Median seconds to generate the 280 images of ``data=cells``."""
    from maskwell.data.synthetic import write_cells

    times = []
    for number in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            write_cells(Path(folder) / "cells", seed=number, counts=(200, 40, 40), size=256)
            times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> None:
    args = harness.arguments(__doc__ or "").parse_args()
    started = time.monotonic()
    repeats = 1 if args.quick else 5
    help_s, help_spread = seconds([sys.executable, "train.py", "--help"], repeats)
    ready_s, ready_spread = seconds(["make", "--no-print-directory", "-n", "train"], repeats)
    step_s, step_spread = first_step(1 if args.quick else 5)
    figures = {
        "help_s": help_s,
        "help_s.spread": help_spread,
        "ready_s": ready_s,
        "ready_s.spread": ready_spread,
        "first_step_s": step_s,
        "first_step_s.spread": step_spread,
        "cells_s": cells(1 if args.quick else 3),
    }
    harness.publish(
        args,
        "start",
        figures,
        command=harness.command_line("benchmarks.start"),
        seeds=[0, 1, 2],
        minutes=(time.monotonic() - started) / 60,
        notes="Wall seconds, medians; ready_s: what make does before train.py starts where .venv stands.",
    )


if __name__ == "__main__":
    main()
