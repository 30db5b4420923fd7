"""The page that every run leaves: by one process only, and never at the cost of the run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from maskwell import run_report, runs
from maskwell.report import page


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("RANK", "WORLD_SIZE", "NODE_RANK", "SLURM_PROCID", runs.RUN_DIR):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "metrics.csv").write_text("step,train/batch_loss\n0,1.0\n")
    return SimpleNamespace(cfg=SimpleNamespace(report=True), folder=tmp_path)


@pytest.mark.parametrize(("rank", "written"), [("0", 1), ("1", 0)])
def test_of_processes_that_a_launcher_started_the_first_writes(
    run: Any, rank: str, written: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages: list[Path] = []
    monkeypatch.setattr(page, "write", lambda folder: pages.append(folder) or folder)
    monkeypatch.setattr(run_report.wandb_results, "log", lambda folder: None)
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "2")
    run_report.write(run)
    assert len(pages) == written


def test_a_fault_in_the_page_is_a_warning(
    run: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(folder: Path) -> Path:
        raise ValueError("no such curve")

    monkeypatch.setattr(page, "write", fails)
    run_report.write(run)
    assert "no such curve" in capsys.readouterr().out
