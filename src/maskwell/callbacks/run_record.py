"""record.json: what ran, on what, from which state of the code, how long, and why it ended."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch
from lightning import Callback, LightningModule, Trainer

from maskwell.callbacks.clock import iteration
from maskwell.data.profile import profile

PACKAGES = (
    "maskwell",
    "torch",
    "lightning",
    "torchmetrics",
    "transformers",
    "peft",
    "hydra-core",
    "albumentations",
)


class RunRecord(Callback):
    """Writes ``record.json`` in the run folder at the start and the end; a resumed run adds a session.

    Args:
        packages: distributions whose versions are noted.
    """

    def __init__(self, packages: Sequence[str] = PACKAGES) -> None:
        super().__init__()
        self.packages = tuple(packages)
        self.session: dict[str, Any] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.session = {
            "start": _now(),
            "command": " ".join(sys.argv),
            "packages": {name: version for name in self.packages if (version := _version(name))},
            "git": git_state(Path.cwd()),
            "seed": int(os.environ.get("PL_GLOBAL_SEED", torch.initial_seed())),
            "dataset": _dataset(getattr(trainer, "datamodule", None)),
            "machine": machine(),
            "devices": trainer.world_size,
            "first_iteration": iteration(trainer, pl_module),
            "end": None,
            "exit": "running or killed",
        }
        self._write(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self.session and not self.session["end"]:  # not one of an evaluation before the fit
            self._finish(trainer, pl_module, exception)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish(trainer, pl_module, None)

    def _finish(self, trainer: Trainer, module: LightningModule, exception: BaseException | None) -> None:
        start = datetime.fromisoformat(self.session["start"])
        self.session |= {
            "end": _now(),
            "minutes": round((datetime.now(UTC) - start).total_seconds() / 60, 3),
            "last_iteration": iteration(trainer, module),
            "peak_memory_gib": peak_memory_gib(),
            "exit": _exit(trainer, exception),
        }
        self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        if not trainer.is_global_zero:
            return
        path = Path(trainer.default_root_dir) / "record.json"
        earlier = json.loads(path.read_text(encoding="utf-8"))["sessions"] if path.exists() else []
        sessions = [s for s in earlier if s["start"] != self.session["start"]] + [self.session]
        beside = path.with_suffix(".json.tmp")
        beside.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps({"format": 1, "sessions": sessions}, indent=2) + "\n", encoding="utf-8")
        beside.replace(path)


def _dataset(data: Any) -> dict[str, Any] | None:
    """The state of the data and its figures; None of data that cannot tell."""
    if not hasattr(data, "fingerprint"):
        return None
    source = getattr(data, "source", None)
    return {**data.fingerprint(), **({} if source is None else profile(source))}


def _exit(trainer: Trainer, exception: BaseException | None) -> str:
    """Why the run ended: an error, the keyboard, what a callback says of its stop, or its full length."""
    if isinstance(exception, KeyboardInterrupt):
        return "interrupted from the keyboard"
    if exception is not None:
        return f"{type(exception).__name__}: {exception}".splitlines()[0]
    callbacks = getattr(trainer, "callbacks", [])
    reasons = [reason for c in callbacks if (reason := getattr(c, "stop_reason", None))]
    return str(reasons[0]) if reasons else "finished"


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit and whether tracked files differ from it; None outside a repository or without git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None


def machine() -> dict[str, Any]:
    """Host, system, processor and accelerators."""
    return {
        "host": platform.node(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def peak_memory_gib() -> dict[str, float]:
    """Highest resident memory of this process, and highest allocation on the GPU where there is one."""
    peak = {"process": _peak_resident() / 2**30}
    if torch.cuda.is_available():
        peak["gpu"] = torch.cuda.max_memory_allocated() / 2**30
    return {name: round(value, 3) for name, value in peak.items()}


def _peak_resident() -> int:
    """Highest resident memory of this process so far, bytes."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
