from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from lightning import LightningDataModule

from maskwell.callbacks.early_stopping import EarlyStopping
from maskwell.callbacks.run_record import RunRecord, git_state
from tests.callbacks.modules import Automatic, loader, trainer


def _sessions(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "record.json").read_text())["sessions"]  # type: ignore[no-any-return]


class Data(LightningDataModule):
    def train_dataloader(self) -> Any:
        return loader()

    def fingerprint(self) -> dict[str, Any]:
        return {"digest": "abc"}


def test_a_finished_run_is_recorded(tmp_path: Path) -> None:
    trainer(tmp_path, RunRecord(("torch", "no-such-package"))).fit(Automatic(), datamodule=Data())
    (session,) = _sessions(tmp_path)
    assert session["exit"] == "finished" and session["dataset"] == {"digest": "abc"}
    assert list(session["packages"]) == ["torch"] and session["last_iteration"] == 12
    assert session["end"] > session["start"] and session["peak_memory_gib"]["process"] > 0.05
    assert {"host", "cpus", "python"} <= session["machine"].keys()


def test_the_reason_of_an_early_stop_is_recorded(tmp_path: Path) -> None:
    module = Automatic()
    module.val_losses = [1.0, 2.0, 3.0]
    trainer(tmp_path, RunRecord(), EarlyStopping(patience=1)).fit(module, loader(), loader())
    assert _sessions(tmp_path)[0]["exit"].startswith("val/loss has not improved")


def test_a_crash_is_recorded(tmp_path: Path) -> None:
    def crash(step: int, loss: Any) -> Any:
        raise ValueError("first line\nsecond line")

    with pytest.raises(ValueError, match="first line"):
        trainer(tmp_path, RunRecord()).fit(Automatic(spoil=crash), loader())
    assert _sessions(tmp_path)[0]["exit"] == "ValueError: first line"


def test_ctrl_c_is_recorded(tmp_path: Path) -> None:
    def interrupt(step: int, loss: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit):
        trainer(tmp_path, RunRecord()).fit(Automatic(spoil=interrupt), loader())
    assert _sessions(tmp_path)[0]["exit"] == "interrupted from the keyboard"


def test_while_it_runs_the_record_says_so(tmp_path: Path) -> None:
    seen = []

    def look(step: int, loss: Any) -> Any:
        seen.append(_sessions(tmp_path)[0]["exit"])
        return loss

    trainer(tmp_path, RunRecord(), max_epochs=1).fit(Automatic(spoil=look), loader())
    assert set(seen) == {"running or killed"}


def test_a_resumed_run_adds_a_session(tmp_path: Path) -> None:
    for _ in range(2):
        trainer(tmp_path, RunRecord()).fit(Automatic(), loader())
    assert [s["exit"] for s in _sessions(tmp_path)] == ["finished"] * 2


def test_git_state(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "a")
    clean = git_state(tmp_path)
    (tmp_path / "a").write_text("2")
    changed = git_state(tmp_path)
    assert clean is not None and changed is not None
    assert len(clean["commit"]) == 40 and (clean["dirty"], changed["dirty"]) == (False, True)


def test_no_git_state_outside_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state(tmp_path) is None
