"""Hostile input for every reader: COCO, VOC, YOLO, masks, images, configurations, checkpoints.

Half of the inputs are valid files with one mutation, half are rubbish. Each is either loaded or refused by
one ``UserError``. Counted are tracebacks (any other exception), crashes of the process, hangs (over 10 s),
memory (over 2 GiB for one input), escapes (a file opened outside the input's folder) and executed (a program
started, a socket opened, a forbidden ``_target_`` let through). Resumes block by block.

    python -m benchmarks.fuzz
    python -m benchmarks.fuzz --form coco --number 17     # one input again, with its traceback
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from benchmarks import harness, hostile_readers
from benchmarks.hostile_readers import FORMS

SECONDS = 10
"""Longest processor time of one input; six times as long on the wall."""

MEMORY = 2 * 2**30
"""Most bytes that one input may allocate."""

BLOCK = 100
"""Inputs of one cell."""

COUNTED = ("tracebacks", "crashes", "hangs", "memory", "escapes", "executed")

_EXECUTES = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "socket.connect")
_OPENS = ("open", "os.listdir", "os.scandir", "os.remove", "os.rename", "os.rmdir", "shutil.rmtree")


class Hang(BaseException):
    """Raised by the clock; no ``except Exception`` of a reader may swallow it."""


class Watch:
    """Audit hook of a worker: what an input opens and starts."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.escapes: list[str] = []
        self.executed: list[str] = []
        places = (*sys.path, sys.prefix, sys.base_prefix, harness.ROOT / "conf", "/proc", "/sys", "/dev")
        self._own = tuple({os.path.realpath(place) for place in places if place} - {str(harness.ROOT)})
        sys.addaudithook(self._hook)

    @contextmanager
    def over(self, folder: Path) -> Iterator[None]:
        """Look at what happens inside, and at the clock; a traceback is printed outside: it opens sources."""
        self.escapes, self.executed, self.folder = [], [], folder
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            self.folder = None

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event.startswith(_EXECUTES):
            self.executed.append(f"{event} {arguments[:1]}")
        elif event in _OPENS and arguments and isinstance(arguments[0], str | os.PathLike):
            path = os.path.realpath(os.fspath(arguments[0]))
            if not path.startswith((str(self.folder), *self._own)):
                self.escapes.append(path)


def outcome(form: str, number: int, watch: Watch) -> tuple[str, str]:
    """(what became of one input, evidence): loaded, refused, or one of COUNTED."""
    from maskwell.errors import UserError

    folder = Path(tempfile.mkdtemp(prefix="maskwell-fuzz-")).resolve()
    rng = random.Random(f"{form}/{number}")
    reader = FORMS[form]
    try:
        reader.write(rng, folder / "in", number % 2 == 0)
        try:
            with watch.over(folder):
                reader.read(folder / "in")
            found = "loaded", ""
        except UserError as error:
            found = (
                ("tracebacks", f"several lines: {error}") if "\n" in str(error) else ("refused", str(error))
            )
        except hostile_readers.LetThrough as error:
            found = "executed", str(error)
        except Hang:
            found = "hangs", ""
        except MemoryError:
            found = "memory", traceback.format_exc(limit=-3)
        except Exception:
            found = "tracebacks", traceback.format_exc(limit=-6)
        if watch.executed:
            return "executed", "; ".join(watch.executed)
        return ("escapes", "; ".join(watch.escapes)) if watch.escapes else found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _work(form: str, numbers: range, pipe: Connection) -> None:
    """A process of its own: it may die."""

    def hang(*_: Any) -> None:
        raise Hang

    signal.signal(signal.SIGPROF, hang)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    watch = Watch()
    for number in numbers:
        pipe.send((number, *outcome(form, number, watch)))


def block(form: str, first: int, size: int = BLOCK) -> dict[str, Any]:
    """Counts of one block, and the evidence of what went wrong by number."""
    counts: Counter[str] = Counter()
    evidence: dict[str, str] = {}
    start = first
    while start < first + size:
        ours, theirs = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("fork").Process(
            target=_work, args=(form, range(start, first + size), theirs)
        )
        process.start()
        theirs.close()
        lives = True
        while lives and start < first + size:
            lives, kind, text = _next(ours, process, start)
            counts[kind] += 1
            if kind in COUNTED:
                evidence[str(start)] = f"{kind}: {text}"
            start += 1
        process.join()
    return {"counts": dict(counts), "evidence": evidence}


def _next(pipe: Connection, process: BaseProcess, number: int) -> tuple[bool, str, str]:
    """Whether the worker lives on, and what became of input ``number``."""
    if not pipe.poll(6 * SECONDS):
        process.kill()
        return False, "hangs", "inside a library"
    try:
        reported, kind, text = pipe.recv()
    except EOFError:
        process.join()
        return False, "crashes", f"exit code {process.exitcode}"
    assert reported == number
    return True, kind, text


def arguments() -> argparse.Namespace:
    parser = harness.arguments(__doc__ or "")
    parser.add_argument("--inputs", type=int, help="in all (default 24,000; quick 630)")
    parser.add_argument("--form", choices=sorted(FORMS), help="this one alone")
    parser.add_argument("--number", type=int, help="with --form: this input alone, with its traceback")
    parser.add_argument("--cells", type=Path, default=Path("runs/benchmarks/fuzz.jsonl"))
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.form and args.number is not None:
        print(*outcome(args.form, args.number, Watch()), sep="\n")
        return
    started = time.monotonic()
    hostile_readers.load()
    forms = [args.form] if args.form else sorted(FORMS)
    size = 10 if args.quick else BLOCK
    wanted = args.inputs or (70 * len(forms) if args.quick else 24_000)
    blocks = -(-wanted // (size * len(forms)))
    with tempfile.TemporaryDirectory() as scratch:
        cells = harness.Cells(Path(scratch) / "cells.jsonl" if args.quick else args.cells)
        counts: dict[str, Counter[str]] = {form: Counter() for form in forms}
        for number in range(blocks):
            for form in forms:
                key = {"form": form, "first": number * size, "commit": harness.commit()}
                found = cells.run(key, lambda form=form, number=number: block(form, number * size, size))
                counts[form].update(found["counts"])
                for place, text in found["evidence"].items():
                    print(f"{form} {place}: {text}", flush=True)
    total = sum(counts.values(), Counter())
    figures: dict[str, Any] = {"inputs": sum(total.values())}
    figures |= {name: total[name] for name in (*COUNTED, "loaded", "refused")}
    figures |= {form: {name: counts[form][name] for name in ("loaded", "refused")} for form in forms}
    harness.publish(
        args,
        "fuzz",
        figures,
        command=harness.command_line("benchmarks.fuzz"),
        seeds=[0],
        minutes=(time.monotonic() - started) / 60,
        notes=json.dumps({form: dict(counts[form]) for form in forms}),
    )


if __name__ == "__main__":
    main()
