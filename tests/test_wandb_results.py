from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from maskwell import wandb_results
from tests.report.run_folder import incident, write_run


class _Artifact:
    def __init__(self, name: str, type: str, metadata: dict[str, Any]) -> None:
        self.name, self.type, self.metadata, self.files = name, type, metadata, []

    def add_file(self, path: str, name: str) -> None:
        assert Path(path).is_file()
        self.files.append(name)


class _Run:
    id = "abc"

    def __init__(self) -> None:
        self.summary: dict[str, str] = {}
        self.alerts: list[tuple[str, str]] = []
        self.artifacts: list[_Artifact] = []
        self.told: dict[str, Any] = {}
        self.config = SimpleNamespace(update=lambda content, allow_val_change: self.told.update(content))

    def alert(self, title: str, text: str) -> None:
        self.alerts.append((title, text))

    def log_artifact(self, artifact: _Artifact) -> None:
        self.artifacts.append(artifact)


def test_an_open_run_gets_configuration_verdict_and_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _Run()
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=run, Artifact=_Artifact))
    folder = write_run(tmp_path / "run", trained={"map": 0.4}, incidents=(incident(5, "it explodes"),))
    assert wandb_results.log(folder)
    assert run.summary == {"health": "look at"} and run.alerts == [("run: look at", "it explodes")]
    assert run.told["optim"] == {"lr": 1e-4}
    [artifact] = run.artifacts
    assert artifact.name == "run-abc" and artifact.files == ["results.json", "health.json", "config.yaml"]


def test_nothing_happens_without_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=None))
    assert not wandb_results.log(tmp_path)
    monkeypatch.delitem(sys.modules, "wandb")
    assert not wandb_results.log(tmp_path)
