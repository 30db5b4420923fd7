"""The folder of a run, read: everything its pages show."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from maskwell import runs
from maskwell.errors import UserError
from maskwell.health.findings import Finding, Incident
from maskwell.report import history

LOWER_IS_BETTER = ("loss", "error", "mae", "rmse", "distance", "gap", "ece", "early", "late")
"""Words in the name of a figure of which less is better."""

NEUTRAL = ("detections_per_image", "max_confidence", "threshold", "pseudo_share", "done_mean", "done_highest")
"""Figures that are neither better nor worse for being higher."""


@dataclass(frozen=True)
class Run:
    """A run folder. Files that are missing or damaged read as empty: a killed run has a page too."""

    folder: Path

    @property
    def name(self) -> str:
        """``<family>/<folder>``."""
        return f"{self.family}/{self.folder.resolve().name}"

    @cached_property
    def history(self) -> history.History:
        return history.read(self.folder / "metrics.csv")

    @cached_property
    def config(self) -> DictConfig:
        return runs.load(self.folder)[0]

    @cached_property
    def origin(self) -> runs.Origin:
        return runs.load(self.folder)[1]

    @cached_property
    def family(self) -> str:
        """The part of the model's target that names its family."""
        target = str(OmegaConf.select(self.config, "model._target_") or "")
        parts = target.split(".")
        return parts[parts.index("models") + 1] if "models" in parts else parts[-1] or "run"

    @cached_property
    def health(self) -> dict[str, Any]:
        return _json(self.folder / "health.json")

    @cached_property
    def incidents(self) -> list[Incident]:
        """More than information, the worst first."""
        found = [Incident.from_json(_known(entry)) for entry in self.health.get("incidents", [])]
        serious = [incident for incident in found if incident.severity != "info"]
        return sorted(serious, key=lambda i: (i.severity != "error", i.first_step))

    @cached_property
    def sessions(self) -> list[dict[str, Any]]:
        """From the start and each resume, as ``record.json`` has them."""
        return list(_json(self.folder / "record.json").get("sessions", []))

    @cached_property
    def results(self) -> dict[str, Any]:
        return _json(self.folder / "results.json")

    @cached_property
    def dataset(self) -> dict[str, Any]:
        """Counts and sizes of the data, as the newest session recorded them."""
        return dict((self.sessions[-1].get("dataset") if self.sessions else None) or {})

    def pictures(self, folder: str) -> list[Path]:
        """PNG files of one of its folders, by name."""
        return sorted((self.folder / folder).glob("*.png"))

    @cached_property
    def confusion(self) -> dict[str, Any]:
        """The newest confusion matrix of a validation."""
        files = sorted((self.folder / "confusion").glob("*.json"))
        return _json(files[-1]) if files else {}

    @cached_property
    def evaluations(self) -> list[tuple[Path, dict[str, Any]]]:
        """Folder and figures of every ``evaluate.py`` of this run, oldest first."""
        found = sorted((self.folder / "evaluations").glob("*/metrics.json"))
        return [(path.parent, _json(path)) for path in found]

    @property
    def minutes(self) -> float | None:
        """Of all sessions together; None where none has ended."""
        ended = [session["minutes"] for session in self.sessions if session.get("minutes") is not None]
        return sum(ended) if ended else None

    @property
    def exit(self) -> str:
        """How the last session ended."""
        return str(self.sessions[-1].get("exit", "")) if self.sessions else ""

    def figures(self) -> dict[str, float]:
        """The final figures: of the test split where it was scored, else the last validation's."""
        trained = self.results.get("trained")
        if isinstance(trained, Mapping):
            return {name: float(value) for name, value in trained.items()}
        return {
            series.name.removeprefix("val/"): series.last
            for series in self.history.under("val/")
            if len(series)
        }

    @property
    def figures_of(self) -> str:
        """Where :meth:`figures` come from, in words."""
        if isinstance(self.results.get("trained"), Mapping):
            return f"{self.results.get('split', 'test')} split, {self.results.get('images', '?')} images"
        return "last validation"


def read(folder: Path) -> Run:
    """The run in ``folder``.

    Raises:
        UserError: nothing there looks like a run.
    """
    if not folder.is_dir():
        raise UserError(f"There is no run folder {folder}.")
    if not (folder / runs.CONFIG).is_file():
        raise UserError(f"{folder} is no run folder: it holds no {runs.CONFIG}.")
    return Run(folder)


def better(name: str) -> int:
    """1 where a higher figure is better, -1 where a lower one is, 0 where neither."""
    plain = name.removeprefix("val/").removeprefix("test/")
    if any(plain.startswith(word) for word in NEUTRAL):
        return 0
    return -1 if any(word in plain.split("/")[0] for word in LOWER_IS_BETTER) else 1


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _known(entry: dict[str, Any]) -> dict[str, Any]:
    """An incident of this or a newer version, without the keys that are not known here."""
    names = {field.name for field in fields(Finding)}
    found = [{k: v for k, v in finding.items() if k in names} for finding in entry["findings"]]
    return {**entry, "findings": found}
