"""W&B: offline without a key, one id per run folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskwell.callbacks import wandb_logger


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without any key."""
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_no_key(nobody: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not wandb_logger.has_key()
    logger = wandb_logger.WandbLogger(str(nobody / "run"))
    assert logger._offline
    assert "wandb sync" in capsys.readouterr().out


def test_keys_are_found(nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (nobody / ".netrc").write_text("machine api.wandb.ai login user password key\n")
    assert wandb_logger.has_key()
    assert not wandb_logger.WandbLogger(str(nobody / "run"))._offline
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not wandb_logger.has_key()  # the key is for another server
    monkeypatch.setenv("WANDB_API_KEY", "key")
    assert wandb_logger.has_key()
    assert wandb_logger.WandbLogger(str(nobody / "run"), offline=True)._offline


def test_a_resumed_run_keeps_its_id(tmp_path: Path) -> None:
    first = wandb_logger.run_id(tmp_path / "run")
    assert wandb_logger.run_id(tmp_path / "run") == first
    assert wandb_logger.run_id(tmp_path / "other") != first


@pytest.mark.slow
def test_a_server_that_does_not_answer_makes_the_run_offline(
    nobody: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # the port of "discard": nobody listens
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setattr(wandb_logger, "CONNECT_SECONDS", 2.0)
    logger = wandb_logger.WandbLogger(str(nobody / "run"))
    try:
        assert logger.experiment.offline
        logger.log_metrics({"loss": 1.0}, 0)
    finally:
        wandb_logger.wandb.finish()
        wandb_logger.wandb.teardown()
    assert "W&B does not answer" in capsys.readouterr().err
    assert list((nobody / "run" / "wandb").glob("offline-run-*"))


def test_a_step_is_always_passed(nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[tuple[dict[str, float], int]] = []
    monkeypatch.setattr(
        wandb_logger.LightningWandbLogger,
        "log_metrics",
        lambda self, metrics, step: logged.append((metrics, step)),
    )
    logger = wandb_logger.WandbLogger(str(nobody / "run"))
    logger.log_metrics({"a": 1.0}, step=7)
    logger.log_metrics({"b": 2.0})
    assert logged == [({"a": 1.0}, 7), ({"b": 2.0}, 7)]
