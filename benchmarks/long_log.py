"""Time and memory of ``diagnose.py`` over a CSV of ten million rows, and whether it finds what is in it.

The log is generated: a loss that falls with noise of 15 %, a validation every thousand steps, a
single NaN and, later, a jump to three times its level, both at known steps. It is diagnosed in a process of
its own.

    python -m benchmarks.long_log [--quick] [--out FILE] [--rows N]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness

SEED = 0
ROWS, QUICK_ROWS = 10_000_000, 100_000
CHUNK = 100_000
VALIDATION = 1000
NAN, JUMP = 0.4, 0.7
"""Shares of the log behind which the two faults lie."""
NOTES = (
    "seconds: wall time of the whole process, start and imports included; cpu_seconds: its processor time; "
    "peak_mib: its largest resident memory. nan_step_off, jump_steps_late: steps between where the faults "
    "were put and where they were found."
)


def write_log(path: Path, rows: int) -> tuple[int, int]:
    """A CSV of ``step,train/loss,val/loss``; the steps of the NaN and of the first row after the jump."""
    random = np.random.default_rng(SEED)
    nan, jump = int(NAN * rows), int(JUMP * rows)
    with path.open("w", encoding="utf-8") as file:
        file.write("step,train/loss,val/loss\n")
        for begin in range(0, rows, CHUNK):
            steps = np.arange(begin, min(begin + CHUNK, rows))
            level = 0.5 + 2 * np.exp(-10 * steps / rows)
            losses = level * np.exp(random.normal(0, 0.15, len(steps))) * np.where(steps < jump, 1, 3)
            losses[steps == nan] = np.nan
            for step, loss, fair in zip(steps.tolist(), losses.tolist(), level.tolist(), strict=True):
                val = f"{1.1 * fair:.6g}" if step % VALIDATION == VALIDATION - 1 else ""
                file.write(f"{step},{loss:.6g},{val}\n")
    return nan, jump


def diagnosed(log: Path, folder: Path) -> tuple[dict[str, float], dict[str, Any]]:
    """Seconds and peak memory of a process that diagnoses the log, and its report."""
    command = [sys.executable, "-m", "maskwell", "diagnose", f"input={log}", f"output={folder}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(harness.ROOT / "src"), *sys.path])}
    started = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"diagnose.py ended with status {status}")
    figures = {
        "seconds": seconds,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_mib": used.ru_maxrss / 1024,
    }
    return figures, json.loads((folder / "health.json").read_text(encoding="utf-8"))


def measure(rows: int, folder: Path) -> dict[str, float]:
    """All figures of a log of so many rows."""
    log = folder / "log.csv"
    nan, jump = write_log(log, rows)
    figures, report = diagnosed(log, folder / "out")
    found = {f["rule"]: f for incident in report["incidents"] for f in incident["findings"]}
    return {
        "rows": float(rows),
        "file_mib": log.stat().st_size / 2**20,
        **figures,
        "nan_step_off": abs(found["nonfinite"]["evidence"]["last_bad_step"] - nan),
        "jump_steps_late": float(found["level_shift"]["step"] - jump),
    }


def main() -> None:
    parser = harness.arguments(__doc__ or "")
    parser.add_argument("--rows", type=int, help=f"rows of the log (default: {ROWS:,})")
    args = parser.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(args.rows or (QUICK_ROWS if args.quick else ROWS), Path(folder))
    harness.publish(
        args,
        "long_log",
        figures,
        command=harness.command_line(__spec__.name),
        seeds=[SEED],
        minutes=(time.perf_counter() - started) / 60,
        notes=NOTES,
    )


if __name__ == "__main__":
    main()
