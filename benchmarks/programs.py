"""``train.py`` and ``evaluate.py`` as a user starts them; every start is a cell that is not repeated.

A cell is known by the weights of the base, its name and its recipe: the composed configuration. Where
a base, a default or an override changes, the cell is a new one in a folder of its own.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from benchmarks import harness
from benchmarks.figures import Result

RECIPE = ("model", "data", "optim", "trainer", "seed", "split", "tile", "overlap", "max_dets")
"""The parts of a configuration on which figures depend."""


class NotFinished(Exception):
    """A cell is missing and this process only collects what is there."""


@dataclass(frozen=True)
class Base:
    """The weights that everything starts from.

    ``folder`` in Hub layout, a copy beside the runs: the original may be replaced meanwhile;
    ``hash`` of the weights; ``megabytes``: 10^6 bytes of all its files.
    """

    folder: Path
    hash: str
    parameters: int
    megabytes: float


def snapshot(base: str, runs: Path) -> Base:
    """Copy a base (``tiny`` or a folder in Hub layout) to ``runs/<hash>/base``."""
    from maskwell.models.sam_lora.base_model import TINY, load_base, weight_hash

    source = Path(str(resources.files("maskwell") / "assets" / "tiny")) if base == TINY else Path(base)
    model, _ = load_base(str(source))
    digest = weight_hash(model)
    target = runs / digest[:8] / "base"
    if not target.exists():
        partial = target.with_name(f".base.{os.getpid()}")
        shutil.copytree(source, partial)
        try:
            partial.rename(target)
        except OSError:  # another process was faster
            shutil.rmtree(partial)
    size = sum(path.stat().st_size for path in target.iterdir())
    return Base(target, digest, sum(p.numel() for p in model.parameters()), size / 1e6)


@dataclass(frozen=True)
class Programs:
    """Starts the programs, or looks up what earlier starts gave.

    ``base``: None where each configuration names its own. ``works``: False where missing cells are an error
    instead of work.
    """

    base: Base | None
    folder: Path
    cells: harness.Cells
    works: bool = True

    def train(
        self,
        name: str,
        *overrides: str,
        start: Result | None = None,
        read: Callable[[Path], Result] | None = None,
    ) -> Result:
        """One training: its folder, what it cost, and what ``read`` finds there.

        Args:
            name: of the cell.
            overrides: of the configuration.
            start: the training whose weights it starts from.
            read: of the run folder; None: what was reached on val, and how much of the base was trained.
        """
        arguments = [*self._of_base(), *overrides]
        recipe = recipe_of("train", *arguments)
        folder = self.folder / f"{name}-{recipe}"
        key = {**self._key(), "train": name, "recipe": recipe}
        if start is not None:  # which weights is no part of the recipe
            key["of"] = start["folder"]
            arguments.append(f"init_from={start['folder']}")
        return self.cell(key, lambda: {**training(folder, arguments), **(read or self._reached)(folder)})

    def score(self, name: str, training: Result | None, *overrides: str) -> Result:
        """Metrics of a training's best checkpoint, or of the base alone, by ``evaluate.py``."""
        folder = training["folder"] if training else None
        model = [f"ckpt={folder}"] if folder else self._of_base()
        recipe = recipe_of("evaluate", *model, *overrides)
        output = self.folder / "scores" / f"{name}-{Path(folder or 'base').name}-{recipe}"
        key = {**self._key(), "score": name, "of": folder, "recipe": recipe}
        return self.cell(key, lambda: _score(output, [*model, *overrides]))

    def cell(self, key: Mapping[str, Any], work: Callable[[], Mapping[str, Any]]) -> Result:
        """The result of a cell.

        Raises:
            NotFinished: it is missing and this process does not work.
        """
        return cell(self.cells, key, work, works=self.works)

    def _key(self) -> dict[str, Any]:
        return {} if self.base is None else {"base": self.base.hash}

    def _of_base(self) -> list[str]:
        return [] if self.base is None else [f"model.base={relative(self.base.folder)}"]

    def _reached(self, folder: Path) -> Result:
        reached = {"val_map_50": best_val((folder / "metrics.csv").read_text())}
        if self.base is None:
            return reached
        trained = _trained_parameters(folder)
        share = trained / self.base.parameters
        return {**reached, "trainable_parameters": trained, "trainable_share": share}


def cell(
    cells: harness.Cells,
    key: Mapping[str, Any],
    work: Callable[[], Mapping[str, Any]],
    *,
    works: bool,
) -> Result:
    """The result of a cell; where it is missing, that of ``work()`` if this process works.

    Raises:
        NotFinished: it is missing and this process only collects.
    """
    if works:
        return cells.run(key, work)
    if (found := cells.find(key)) is None:
        raise NotFinished(json.dumps(dict(key)))
    return found


def training(folder: Path, arguments: Sequence[str]) -> Result:
    """Run ``train.py`` in ``folder``, or the rest of a run that was cut off there; what it cost."""
    resumes = (folder / "checkpoints" / "last.ckpt").is_file()
    if not resumes:
        shutil.rmtree(folder, ignore_errors=True)  # cut off before its first checkpoint
    start("train.py", *training_arguments(folder, arguments, resumes))
    sessions = json.loads((folder / "record.json").read_text())["sessions"]
    ended = [session for session in sessions if "minutes" in session]  # one that is killed tells nothing
    return {
        "folder": relative(folder),
        "minutes": sum(session["minutes"] for session in ended),
        "peak_gib": max(session["peak_memory_gib"]["process"] for session in ended),
    }


@cache
def recipe_of(root: str, *overrides: str) -> str:
    """Eight hex digits of the configuration that the overrides give, of the parts in RECIPE.

    Keys that are null do not count: an option that is added and left off changes nothing.
    """
    from maskwell import compose

    cfg, _ = compose.compose(root, overrides)
    plain = OmegaConf.to_container(cfg, resolve=False)  # paths from the environment do not count
    assert isinstance(plain, dict)
    parts = _without_null({name: plain.get(name) for name in RECIPE})
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=4).hexdigest()


def training_arguments(folder: Path, arguments: Sequence[str], resumes: bool) -> list[str]:
    """Of ``train.py``: a new run in ``folder``, or the rest of the one that was cut off there."""
    return [f"ckpt_path={folder}"] if resumes else [*arguments, f"paths.run_dir={folder}"]


def best_val(table: str, metric: str = "val/map_50") -> float:
    """The best value of a metric in the text of a run's metrics.csv."""
    return max(logged(table, metric))


def logged(table: str, name: str) -> list[float]:
    """All values of a name in the text of a run's metrics.csv, in their order."""
    rows = csv.DictReader(table.splitlines())
    return [float(row[name]) for row in rows if row.get(name)]


def tested(folder: Path, column: str = "trained") -> Result:
    """A run's metrics on the test split, if written: ``trained``, or ``base`` before its first step."""
    scored: Result = json.loads((folder / "results.json").read_text()).get(column, {})
    return {name: value for name, value in scored.items() if not name.startswith("loss")}


def start(script: str, *arguments: str) -> None:
    """Run a program of the repository on one thread, unless OMP_NUM_THREADS says otherwise."""
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    subprocess.run([sys.executable, script, *arguments], cwd=harness.ROOT, check=True, env=environment)


def _score(output: Path, arguments: Sequence[str]) -> Result:
    started = time.monotonic()
    start("evaluate.py", *arguments, f"output={output}")
    metrics = json.loads((output / "metrics.json").read_text())["metrics"]
    return {**metrics, "minutes": (time.monotonic() - started) / 60}


def _trained_parameters(folder: Path) -> int:
    import torch

    state = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    return sum(tensor.numel() for tensor in state.values())


def relative(folder: Path) -> str:
    """Relative to the repository, so that a moved one finds its cells again."""
    return str(folder.relative_to(harness.ROOT)) if folder.is_relative_to(harness.ROOT) else str(folder)


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_null(entry) for key, entry in value.items() if entry is not None}
    return value
