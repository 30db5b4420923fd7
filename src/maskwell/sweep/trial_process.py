"""One trial of a search: a training in a process of its own, watched through what it writes."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from maskwell import runs
from maskwell.callbacks import csv_logger

LOG = "train.log"
"""What the program of a trial prints, in its folder."""

GRACE = 300.0
"""Seconds that a trial which is stopped has for its checkpoint."""

_RANKS = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT", runs.RUN_DIR)


def folder_name(number: int) -> str:
    """Of trial ``number`` in the folder of its search."""
    return f"trial_{number:04d}"


def is_trial(folder: Path) -> bool:
    """Whether a run folder is one that a search gave to a trial."""
    return re.fullmatch(r"trial_\d{4,}", folder.name) is not None


@dataclass(frozen=True)
class Ended:
    """How a trial's process ended: its exit code, ``reason`` where it was stopped from here."""

    code: int
    reason: str | None = None


class TrialProcess:
    """A training in ``folder``: a new one, or the rest of the one that was cut off there.

    Args:
        program: command that trains.
        folder: of the run.
        overrides: of the trial.
    """

    def __init__(self, program: Sequence[str], folder: Path, overrides: Sequence[str]) -> None:
        self.folder = folder
        if (folder / "checkpoints" / "last.ckpt").is_file():
            arguments = [runs.override("ckpt_path", folder)]
        else:
            shutil.rmtree(folder, ignore_errors=True)  # cut off before its first checkpoint
            arguments = [*overrides, runs.override("paths.run_dir", folder)]
        folder.mkdir(parents=True, exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if name not in _RANKS}
        with (folder / LOG).open("ab") as log:
            # a session of its own: Ctrl-C goes to the search, which stops the trial
            self.process = subprocess.Popen(
                [*program, *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def watch(self, every: float, look: Callable[[], str | None]) -> Ended:
        """Wait for the end, calling ``look`` every so many seconds; what it returns ends the trial.

        An exception out of here (Ctrl-C) leaves no process behind.
        """
        try:
            while self.process.poll() is None:
                if reason := look():
                    self.stop()
                    return Ended(self.process.returncode, reason)
                self._wait(every)
            return Ended(self.process.returncode, look() if self.process.returncode == 0 else None)
        except BaseException:
            self.stop()
            raise

    def _wait(self, seconds: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)

    def stop(self) -> None:
        """Let it save and end; by force where it does not."""
        if self.process.poll() is None:
            end(psutil.Process(self.process.pid))
        self.process.wait()

    def last_words(self) -> str:
        """The last line that the program printed, to say why it failed."""
        lines = (self.folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")


def end(process: psutil.Process, grace: float = GRACE) -> None:
    """SIGTERM, and after ``grace`` seconds SIGKILL for it and what it started."""
    family = [process, *process.children(recursive=True)]
    process.terminate()
    with contextlib.suppress(psutil.TimeoutExpired):
        process.wait(grace)
    for member in family:
        if member.is_running():
            member.kill()


def identity(pid: int | None = None) -> list[float]:
    """Number and time of creation of a process (this one), by which another one finds it again."""
    process = psutil.Process(pid)
    return [process.pid, process.create_time()]


def still_runs(identity: Sequence[float]) -> psutil.Process | None:
    """The process of an :func:`identity`, where it lives."""
    try:
        found = psutil.Process(int(identity[0]))
        return found if abs(found.create_time() - identity[1]) < 1 else None
    except psutil.Error:
        return None


def values(folder: Path, metric: str) -> list[tuple[int, float]]:
    """(step, value) of a metric in a run's log so far, finite ones only."""
    found = [(row["step"], row[metric]) for row in csv_logger.read(folder / "metrics.csv") if row.get(metric)]
    return [(int(step), float(value)) for step, value in found if step and math.isfinite(float(value))]


def broken(folder: Path) -> str | None:
    """Where to read why the run's monitor calls it broken; None where it does not."""
    path = folder / "health.json"
    if path.is_file() and json.loads(path.read_text(encoding="utf-8"))["verdict"] == "broken":
        return f"health: broken, see {path}"
    return None
