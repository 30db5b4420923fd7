"""Signals of a queue, a full disk, a vanished server: the run is never lost."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from omegaconf import OmegaConf

from maskwell import app, build, checkpoint, results, runs
from maskwell.callbacks import csv_logger
from maskwell.callbacks.interrupt import GracefulInterrupt
from maskwell.callbacks.shelter import shelter_callback, shelter_logger
from maskwell.errors import UserError
from support import TINY, TinyConv, composed, train

pytestmark = pytest.mark.usefixtures("small_family")

EPOCHS = "trainer.max_epochs=2"


@pytest.fixture(autouse=True)
def hears_hangups() -> Iterator[None]:
    """Under nohup the tests inherit that SIGHUP is ignored, which the program would respect."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


class Signal(Callback):
    """Sends a signal to the program while the batch of a given iteration runs."""

    def __init__(self, number: int, at: int) -> None:
        self.number, self.at = number, at

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if pl_module.iteration == self.at:
            os.kill(os.getpid(), self.number)


def add(monkeypatch: pytest.MonkeyPatch, *callbacks: Callback) -> None:
    configured = build.callbacks
    monkeypatch.setattr(build, "callbacks", lambda cfg: [*configured(cfg), *callbacks])


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGHUP"])
def test_a_queue_stops_the_run_and_the_same_command_goes_on(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tiny_conv" / "mine"
    command = [EPOCHS, f"paths.run_dir={folder}", f"ckpt_path={folder}"]
    before = signal.getsignal(getattr(signal, name))
    with monkeypatch.context() as patch:
        add(patch, Signal(getattr(signal, name), 4))
        with pytest.raises(SystemExit) as stopped:
            train(tmp_path, *command)
    assert stopped.value.code == 75
    assert f"({name})" in capsys.readouterr().out
    assert signal.getsignal(getattr(signal, name)) == before
    assert checkpoint.read(folder / "checkpoints" / "last.ckpt")["iteration"] == 5
    assert train(tmp_path, *command) == folder
    content = checkpoint.read(folder / "checkpoints" / "last.ckpt")
    assert content["iteration"] == 6
    rows = csv_logger.read(folder / "metrics.csv")
    assert [row["step"] for row in rows if row["train/batch_loss"]] == [str(step) for step in range(6)]


def test_a_signal_before_the_training_leaves_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "_evaluate", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    folder = tmp_path / "mine"
    command = ["trainer.max_steps=1", f"paths.run_dir={folder}", f"ckpt_path={folder}"]
    with pytest.raises(SystemExit) as stopped:
        train(tmp_path, *command)
    assert stopped.value.code == 75
    monkeypatch.undo()
    monkeypatch.setattr(build, "TRUSTED", (*build.TRUSTED, "support."))
    (folder / "metrics.csv").write_text("step,train/batch_loss\n0,7.5\n1,7.25\n")  # and killed in training
    cfg, origin = composed(*TINY, f"paths.runs={tmp_path}", "test=false", *command)
    app.train(cfg, origin)  # it was never saved, so it starts anew
    assert checkpoint.read(folder / "checkpoints" / "last.ckpt")["iteration"] == 1
    rows = csv_logger.read(folder / "metrics.csv")
    assert [row["step"] for row in rows if row["train/batch_loss"]] == ["0"]


def test_a_run_that_accumulates_stops_after_an_optimiser_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["trainer.accumulate_grad_batches=2", "data.epoch_size=8", "trainer.max_epochs=1"]
    with monkeypatch.context() as patch:
        add(patch, Signal(signal.SIGTERM, 0))
        with pytest.raises(SystemExit):
            train(tmp_path, *command)
    [folder] = (tmp_path / "tiny_conv").iterdir()
    assert checkpoint.read(folder / "checkpoints" / "last.ckpt")["iteration"] == 2


def test_an_ignored_signal_stays_ignored() -> None:
    """What nohup asks for."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        callback = GracefulInterrupt(Path("unused"))
        callback.on_train_start(Trainer(logger=False, accelerator="cpu", devices=1), None)  # type: ignore[arg-type]
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        callback.on_train_end()
    finally:
        signal.signal(signal.SIGHUP, before)


class FullDisk(Callback):
    """From one iteration to another no file of the run grows beyond some bytes."""

    def __init__(self, start: int, end: int, limit: int) -> None:
        self.start, self.end, self.limit = start, end, limit

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        if pl_module.iteration == self.start:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit, most))
        if pl_module.iteration == self.end:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def test_a_full_disk_costs_files_but_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = train(tmp_path / "reference", "trainer.max_epochs=3")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    add(monkeypatch, FullDisk(2, 7, 200))
    try:
        folder = train(tmp_path / "full", "trainer.max_epochs=3")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    said = capsys.readouterr().err
    assert "last.ckpt could not be written ([Errno 27]" in said
    assert said.count("its rows wait") == 1
    one, two = (checkpoint.read(f / "checkpoints" / "last.ckpt") for f in (reference, folder))
    assert all(torch.equal(value, two["state_dict"][name]) for name, value in one["state_dict"].items())
    assert csv_logger.read(folder / "metrics.csv") == csv_logger.read(reference / "metrics.csv")
    assert not [path for path in (folder / "checkpoints").iterdir() if path.suffix == ".tmp"]
    assert json.loads((folder / "results.json").read_text())["iteration"] == 9


def test_a_best_model_that_was_not_written_is_not_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors of 3, 1 and 2, and a full disk at the second: 2 is the best that there is."""
    errors, lost = iter([3.0, 1.0, 2.0]), iter([False, False, True, True])  # best and last of each epoch
    whole = checkpoint.write

    def write(content: dict[str, Any], path: Path) -> None:
        if next(lost, False):
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(content, path)

    monkeypatch.setattr(checkpoint, "write", write)
    monkeypatch.setattr(TinyConv, "compute_metrics", lambda *_: {"error": torch.tensor(next(errors))})
    folder = train(tmp_path, "trainer.max_epochs=3", "evaluate_base=false", "test=false")
    best = checkpoint.read(folder / "checkpoints" / "best.ckpt")
    assert best["iteration"] == 9
    [state] = [state for name, state in best["callbacks"].items() if name.startswith("RunCheckpoint")]
    assert float(state["best_model_score"]) == 2.0


def test_a_temporary_file_of_a_killed_run_is_removed(tmp_path: Path) -> None:
    folder = train(tmp_path, "trainer.max_steps=1")
    left = folder / "checkpoints" / ".last.ckpt.4711.tmp"
    left.write_bytes(b"half")
    train(tmp_path, f"ckpt_path={folder}", "trainer.max_steps=2")
    assert not left.exists()


@pytest.mark.parametrize("key", ["paths.runs", "paths.run_dir"])
def test_a_place_that_cannot_be_written_is_one_sentence(key: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=rf"(cannot be made|can be made in).*{key}|{key}.*cannot be made"):
        train(tmp_path, f"{key}={tmp_path / 'file' / 'runs'}")


def test_results_are_told_where_they_cannot_be_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert results.update(tmp_path / "gone", iteration=7)["iteration"] == 7
    assert '{"iteration": 7}' in capsys.readouterr().err


class Failing(Callback):
    """Cannot write; knows that it was asked."""

    def __init__(self, error: Exception) -> None:
        self.error, self.asked = error, 0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.asked += 1
        raise self.error


def test_a_callback_that_cannot_write_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    callback = Failing(OSError(errno.EROFS, "Read-only file system"))
    add(monkeypatch, callback)
    train(tmp_path, EPOCHS)
    assert callback.asked == 2
    assert capsys.readouterr().err.count("Failing could not do its work (OSError: [Errno 30]") == 1


def test_faults_and_mistakes_are_not_sheltered() -> None:
    for error in (ValueError("a fault"), UserError("a mistake")):
        with pytest.raises(type(error)):
            shelter_callback(Failing(error)).on_train_epoch_end(None, None)  # type: ignore[arg-type]


def test_a_logger_whose_server_vanishes_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    class Remote(csv_logger.CsvLogger):
        def log_metrics(self, *_: Any, **__: Any) -> None:
            raise ConnectionError("server is gone")

    logger = shelter_logger(Remote("unused"))
    for step in range(3):
        logger.log_metrics({"loss": 1.0}, step)
    assert capsys.readouterr().err.count("Remote could not do its work (ConnectionError") == 1


def test_ranks_see_the_old_configuration_or_the_new_one(tmp_path: Path) -> None:
    cfg = OmegaConf.create({"seed": 1})
    runs.save(tmp_path, cfg, runs.Origin())
    (tmp_path / f".{runs.CONFIG}.tmp").mkdir()  # a write that fails half-way
    with pytest.raises(OSError):
        runs.save(tmp_path, OmegaConf.create({"seed": 2}), runs.Origin())
    assert runs.load(tmp_path)[0].seed == 1
    shutil.rmtree(tmp_path / f".{runs.CONFIG}.tmp")
