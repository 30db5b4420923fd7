"""What every benchmark shares: arguments, paired timing, resumable cells, tables, the results file."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with ``--quick`` and ``--out``; a benchmark adds its own."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--quick", action="store_true", help="a reduced form, under 60 s; writes only where --out says"
    )
    parser.add_argument(
        "--out", type=Path, help="JSON file to write (default: benchmarks/results/<name>.json)"
    )
    return parser


def command_line(module: str) -> str:
    """The command that runs ``module`` (its ``__spec__.name``) again with the same arguments."""
    return shlex.join(["python", "-m", module, *sys.argv[1:]])


def write(
    name: str,
    figures: Mapping[str, Any],
    *,
    command: str,
    seeds: Sequence[int],
    minutes: float,
    notes: str,
    details: Mapping[str, Any] | None = None,
    out: Path | None = None,
) -> Path:
    """Write one published result and return its path.

    Args:
        figures: nested or dotted names to numbers; rates and metrics as fractions in [0, 1].
        seeds: every seed the figures rest on.
        minutes: wall time of the whole command.
        notes: what a reader must know to judge the figures.
        details: what is no number, by name.
        out: another file than ``results/<name>.json``.
    """
    path = out or RESULTS / f"{name}.json"
    record = {
        "name": name,
        "command": command,
        "commit": commit(),
        "date": date.today().isoformat(),
        "machine": machine(),
        "seeds": list(seeds),
        "minutes": round(minutes, 2),
        "figures": _rounded(figures),
        "notes": notes,
        **({"details": dict(details)} if details else {}),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=2) + "\n")
    partial.replace(path)
    return path


def publish(args: argparse.Namespace, name: str, figures: Mapping[str, Any], **record: Any) -> None:
    """Print the figures and :func:`write` them, except in a quick run without ``--out``."""
    print_table(name, ["figure", "value"], list(flat(figures).items()))
    if args.out or not args.quick:
        print(f"Written to {write(name, figures, out=args.out, **record)}")


def commit() -> str:
    """Short hash of HEAD, with ``+changes`` where the code that made the figures is not committed."""
    head = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if head.returncode:
        return "unknown"
    changed = subprocess.run(
        ["git", "diff", "--quiet", "HEAD", "--", ".", ":!benchmarks/results", ":!*.md"], cwd=ROOT, check=False
    )
    return head.stdout.strip() + ("+changes" if changed.returncode else "")


def machine() -> str:
    """Processor, cores that this process may use, memory, and the GPU where there is one."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    parts = [
        _processor(),
        f"{usable_cores()} of {os.cpu_count()} cores",
        f"{memory:.0f} GiB",
        platform.system(),
    ]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join(parts)


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_cores(count: int) -> None:
    """Bind this process (and what it starts) to the ``count`` least busy cores, torch to as many threads.

    Where the system cannot bind processes, only torch is limited.
    """
    if hasattr(os, "sched_setaffinity"):
        load = psutil.cpu_percent(interval=0.5, percpu=True)
        idle_first = sorted(os.sched_getaffinity(0), key=lambda core: load[core])
        os.sched_setaffinity(0, idle_first[:count])
    torch.set_num_threads(count)


def peak_memory_gib() -> float:
    """Largest resident memory of this process so far, in GiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20


@dataclass(frozen=True)
class Paired:
    """Seconds of two ways to do the same thing, measured in turns."""

    first: tuple[float, ...]
    second: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """first / second of each turn."""
        return [a / b for a, b in zip(self.first, self.second, strict=True)]

    @property
    def ratio(self) -> float:
        """Median over the turns of first / second: above 1, the second is faster."""
        return statistics.median(self.ratios)

    @property
    def spread(self) -> float:
        """Standard deviation of the ratios."""
        return statistics.stdev(self.ratios) if len(self.ratios) > 1 else 0.0


def paired(
    first: Callable[[], object],
    second: Callable[[], object],
    *,
    repeats: int = 5,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> Paired:
    """Time two callables in turns, A B A B, so that a slow moment of the machine hits both.

    ``clock``: ``time.process_time`` counts this process's own work alone, on a machine that others use.
    """
    for _ in range(warmup):
        first()
        second()
    seconds = [(_seconds(first, clock), _seconds(second, clock)) for _ in range(repeats)]
    return Paired(tuple(a for a, _ in seconds), tuple(b for _, b in seconds))


class Cells:
    """Finished cells of a long benchmark, one JSON line each: a second start goes on where it ended.

    A cell is known by its key (a flat mapping of names to plain values). A last line that was cut
    off by a kill is dropped. Several processes may share a file: one works on a cell, the others that
    want it wait for its result.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._done: dict[str, dict[str, Any]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        # Kept open: the system drops all locks of a process where it closes the file once.
        self._lock = path.with_suffix(".lock").open("a+b")
        with self._held(0):
            lines = path.read_text().splitlines(keepends=True) if path.exists() else []
            whole = [line for line in lines if line.endswith("\n")]
            if len(whole) < len(lines):
                path.write_text("".join(whole))
        self._read()

    def run(self, key: Mapping[str, Any], work: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """The stored result of the cell, or that of ``work()``, which is then stored."""
        name = _key(key)
        if name in self._done:
            return self._done[name]
        with self._held(1 + zlib.crc32(name.encode())):
            self._read()
            if name not in self._done:
                self._append(key, dict(work()))
        return self._done[name]

    def find(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """The stored result of the cell, None where it is not finished."""
        self._read()
        return self._done.get(_key(key))

    def _append(self, key: Mapping[str, Any], result: dict[str, Any]) -> None:
        with self._held(0), self.path.open("a") as file:
            file.write(json.dumps({"key": dict(key), "result": result}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._done[_key(key)] = result

    def _read(self) -> None:
        with self._held(0):
            text = self.path.read_text() if self.path.exists() else ""
        for line in text.splitlines():
            cell = json.loads(line)
            self._done[_key(cell["key"])] = cell["result"]

    @contextmanager
    def _held(self, place: int) -> Iterator[None]:
        """Hold one byte of the lock file against other processes; it goes free where a process is killed."""
        fcntl.lockf(self._lock, fcntl.LOCK_EX, 1, place)
        try:
            yield
        finally:
            fcntl.lockf(self._lock, fcntl.LOCK_UN, 1, place)


def real_data(name: str) -> Path | None:
    """``$MASKWELL_DATA/<name>`` where the variable is set and the folder exists."""
    root = os.environ.get("MASKWELL_DATA")
    folder = Path(root) / name if root else None
    return folder if folder and folder.is_dir() else None


def blood_cells(target: Path = ROOT / "runs" / "data" / "bccd") -> Path:
    """BCCD in COCO form, written to ``target`` where it is not there yet.

    Raises:
        SystemExit: MASKWELL_DATA leads to no bccd.
    """
    from maskwell.data.convert import convert

    source = real_data("bccd")
    if source is None:
        raise SystemExit("Set MASKWELL_DATA to the folder that holds bccd/.")
    with alone(target.parent):
        if not target.exists():
            convert("voc", source, target, link=True)
    return target


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Of benchmarks that are started at once one writes the data in ``folder``, and the others wait."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # closing frees it
        yield


def flat(figures: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested figures with dotted names."""
    result: dict[str, Any] = {}
    for name, value in figures.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{name}.")
        else:
            result[f"{prefix}{name}"] = value
    return result


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table on the console; numbers with four significant digits, right-aligned."""
    table = Table(title=title)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row))
    Console().print(table)


def _seconds(call: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    call()
    return clock() - start


def _key(key: Mapping[str, Any]) -> str:
    return json.dumps(dict(key), sort_keys=True)


def _rounded(value: Any) -> Any:
    """Plain JSON numbers; six significant digits say all that a benchmark knows."""
    if isinstance(value, Mapping):
        return {name: _rounded(entry) for name, entry in value.items()}
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, Sequence):
        return [_rounded(entry) for entry in value]
    number = value.item() if hasattr(value, "item") else value
    return float(f"{number:.6g}") if isinstance(number, float) else number


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
