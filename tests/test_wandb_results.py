"""What W&B gets of a run: told to a fake one, and read back from what a real offline run has written."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskwell import wandb_results
from maskwell.logs import wandb_run
from tests.report.run_folder import incident, write_run


class _Artifact:
    def __init__(self, name: str, type: str, metadata: dict[str, Any]) -> None:
        self.name, self.type, self.metadata, self.files = name, type, metadata, []

    def add_file(self, path: str, name: str) -> None:
        assert Path(path).is_file()
        self.files.append(name)


class _Run:
    id = "abc"
    offline = False

    def __init__(self) -> None:
        self.summary: dict[str, str] = {}
        self.alerts: list[tuple[str, str]] = []
        self.artifacts: list[_Artifact] = []

    def alert(self, title: str, text: str) -> None:
        self.alerts.append((title, text))

    def log_artifact(self, artifact: _Artifact) -> None:
        self.artifacts.append(artifact)


def test_an_open_run_gets_verdict_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = _Run()
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=run, Artifact=_Artifact))
    folder = write_run(tmp_path / "run", trained={"map": 0.4}, incidents=(incident(5, "it explodes"),))
    assert wandb_results.log(folder)
    assert run.summary == {"health": "look at"} and run.alerts == [("run: look at", "it explodes")]
    [artifact] = run.artifacts
    assert artifact.name == "run-abc" and artifact.files == ["results.json", "health.json", "config.yaml"]


def test_nothing_happens_without_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=None))
    assert not wandb_results.log(tmp_path)
    monkeypatch.delitem(sys.modules, "wandb")
    assert not wandb_results.log(tmp_path)


def _finished(folder: Path) -> Path:
    """A run folder with all that a training leaves for W&B."""
    write_run(folder, trained={"map": 0.4}, incidents=(incident(5, "it explodes"),))
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "best.ckpt").write_bytes(b"weights")
    (folder / "report.html").write_text("<p>fine</p>")
    (folder / "cases").mkdir()
    Image.fromarray(np.full((8, 8, 3), 7, np.uint8)).save(folder / "cases" / "cases.png")
    scores = "image,error,measure,count_error\n12,0.5,pq,2\nb.png,0,pq,\n"
    (folder / "cases" / "images.csv").write_text(scores)
    return folder


@pytest.mark.slow
def test_an_offline_run_holds_all_of_it_and_needs_no_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from wandb.proto import wandb_internal_pb2

    from maskwell.callbacks import wandb_logger

    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_RUN_GROUP", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = _finished(tmp_path / "run")
    logger = wandb_logger.WandbLogger(str(folder), group="rates")
    try:
        logger.log_metrics({"train/batch_loss": 1.5}, 3)
        logger.log_image("panels", [np.full((8, 8, 3), 9, np.uint8)], step=3)
        assert wandb_results.log(folder)
    finally:
        wandb_logger.wandb.finish()
        wandb_logger.wandb.teardown()
    assert capsys.readouterr().out.count(f"wandb sync {folder}/wandb/offline-run-*") == 2

    [path] = wandb_run.runs(folder)
    records = []
    with path.open("rb") as file:
        for content in wandb_run.records(file, path):
            records.append(wandb_internal_pb2.Record())
            records[-1].ParseFromString(content)
    told: dict[str, list[Any]] = {}
    for record in records:
        kind = record.WhichOneof("record_type")
        told.setdefault(kind, []).append(getattr(record, kind))
    assert told["run"][0].run_group == "rates" and told["run"][0].project == "maskwell"
    config = {item.key: json.loads(item.value_json) for one in told["config"] for item in one.update}
    assert config["optim"] == {"lr": 1e-4}
    assert [one.title for one in told["alert"]] == ["run: look at"]
    logged = {i.key or i.nested_key[0] for one in told["history"] for i in one.item}
    assert {"train/batch_loss", "panels", "cases", "images"} <= logged
    files = {entry.path for one in told["artifact"] for entry in one.manifest.contents}
    assert {"checkpoints/best.ckpt", "report.html", "results.json"} <= files
    media = [file.name.partition("_")[0] for file in (path.parent / "files" / "media").rglob("*.*")]
    assert sorted(media) == ["cases", "images", "panels"]
