"""Which W&B group a run belongs to: of a search or a multirun the same, and it stays so."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from maskwell import runs, session
from maskwell.sweep import trial_process
from support import composed

pytestmark = pytest.mark.usefixtures("small_family")

TRAINED = ("model=tiny_conv", "data=tiny_scenes")


def _group(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> str | None:
    monkeypatch.delenv(runs.RUN_DIR, raising=False)
    cfg, origin = composed(*TRAINED, *overrides)
    run = session.start(cfg, origin)
    session.begin(run)
    monkeypatch.delenv(runs.RUN_DIR, raising=False)
    stored = runs.load(run.folder)[0].logger  # what a run that goes on reads
    return stored.wandb.group if "wandb" in stored else None


def test_trials_share_the_name_of_their_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [tmp_path / "rates" / trial_process.folder_name(number) for number in (0, 12345)]
    for folder in folders:
        assert _group(monkeypatch, "logger=wandb", f"paths.run_dir={folder}") == "rates"
    other = tmp_path / "rates" / trial_process.folder_name(1)
    assert _group(monkeypatch, "logger=wandb", "logger.wandb.group=mine", f"paths.run_dir={other}") == "mine"
    assert _group(monkeypatch, "logger=csv", f"paths.run_dir={tmp_path / 'csv' / 'trial_0000'}") is None


@pytest.mark.parametrize(
    ("mode", "group"), [(RunMode.MULTIRUN, "2026-11-21_10-00-00"), (RunMode.RUN, None)], ids=["-m", "alone"]
)
def test_the_runs_of_a_multirun_share_its_time(
    mode: RunMode, group: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = SimpleNamespace(mode=mode, sweep=SimpleNamespace(dir="runs/multirun/2026-11-21_10-00-00"))
    monkeypatch.setattr(HydraConfig, "initialized", staticmethod(lambda: True))
    monkeypatch.setattr(HydraConfig, "get", staticmethod(lambda: running))
    found = [_group(monkeypatch, "logger=wandb", f"paths.runs={tmp_path}") for _ in range(2)]
    assert found == [group, group]
