"""app.train on a small family: the run folder, exact resume, weights only, Ctrl-C, bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from lightning import Callback, LightningModule, Trainer

from maskwell import app, build, checkpoint, cli, runs
from maskwell.callbacks import csv_logger
from maskwell.data.synthetic import write_cells
from maskwell.errors import UserError
from support import CONF, TINY, TinyConv, composed, train

pytestmark = pytest.mark.usefixtures("small_family")

EPOCHS = "trainer.max_epochs=2"


class CtrlC(Callback):
    """Presses Ctrl-C while the batch of a given iteration runs."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if pl_module.iteration == self.iteration:
            os.kill(os.getpid(), signal.SIGINT)


class KeepEarly(Callback):
    """Keeps checkpoints from the middle and from the end of the first epoch."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if pl_module.iteration == 2:
            self.save(trainer, "middle")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if pl_module.iteration == 3:
            self.save(trainer, "end")

    def save(self, trainer: Trainer, name: str) -> None:
        trainer.save_checkpoint(Path(trainer.default_root_dir) / "checkpoints" / f"{name}.ckpt")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run."""
    with pytest.MonkeyPatch.context() as patch:
        configured = build.callbacks
        patch.setattr(build, "TRUSTED", (*build.TRUSTED, "support."))
        patch.setattr(build, "callbacks", lambda cfg: [*configured(cfg), KeepEarly()])
        return train(tmp_path_factory.mktemp("finished"), EPOCHS)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.read(folder / "checkpoints" / "last.ckpt")["state_dict"]


def assert_same_run(folder: Path, other: Path) -> None:
    """The same weights, optimiser state and log."""
    one, two = weights(folder), weights(other)
    assert one.keys() == two.keys()
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    states = [
        checkpoint.read(f / "checkpoints" / "last.ckpt")["optimizer_states"][0] for f in (folder, other)
    ]
    for key, state in states[0]["state"].items():
        assert torch.equal(state["exp_avg"], states[1]["state"][key]["exp_avg"])
    logs = [csv_logger.read(f / "metrics.csv") for f in (folder, other)]
    assert logs[0] == logs[1]


def test_run_folder_explains_the_run(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert {
        "config.yaml",
        "overrides.txt",
        "record.json",
        "checkpoints",
        "metrics.csv",
        "results.json",
    } <= names
    assert {"best.ckpt", "last.ckpt"} <= {path.name for path in (finished / "checkpoints").iterdir()}
    results = json.loads((finished / "results.json").read_text())
    assert results["split"] == "test"
    assert results["base"]["error"] != results["trained"]["error"]
    assert results["iteration"] == 6
    assert EPOCHS in (finished / "overrides.txt").read_text().splitlines()


def test_checkpoint_holds_the_configuration_and_loads_as_data(finished: Path) -> None:
    header = checkpoint.read(finished / "checkpoints" / "best.ckpt")["maskwell"]
    assert header["family"] == "tiny_conv"
    assert header["format"] == checkpoint.FORMAT
    assert "width: 4" in header["config"] and "${" not in header["config"]


def test_log_rows_of_a_run(finished: Path) -> None:
    rows = csv_logger.read(finished / "metrics.csv")
    assert [int(row["step"]) for row in rows if row["train/batch_loss"]] == list(range(6))
    assert [int(row["step"]) for row in rows if row["val/error"]] == [2, 5]


def test_ctrl_c_in_mid_epoch_and_resume_equal_the_uninterrupted_run(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        configured = build.callbacks
        patch.setattr(build, "callbacks", lambda cfg: [*configured(cfg), CtrlC(4)])
        with pytest.raises(SystemExit) as stopped:
            train(tmp_path, EPOCHS)
    assert stopped.value.code == 130
    told = capsys.readouterr().out
    [folder] = (tmp_path / "tiny_conv").iterdir()
    assert f"checkpoint: {folder / 'checkpoints' / 'last.ckpt'}" in told
    assert f"ckpt_path={folder}" in told
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    assert train(tmp_path, EPOCHS, "ckpt_path=last") == folder
    assert_same_run(finished, folder)


@pytest.mark.parametrize("name", ["middle", "end"])
def test_killed_run_goes_on_from_an_earlier_checkpoint(finished: Path, tmp_path: Path, name: str) -> None:
    copied = tmp_path / "tiny_conv" / finished.name  # all rows of the killed run are still in its log
    shutil.copytree(finished, copied)
    train(tmp_path, f"ckpt_path={copied / 'checkpoints' / f'{name}.ckpt'}")
    assert_same_run(finished, copied)


def test_overrides_go_on_top_of_the_stored_configuration(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = tmp_path / "tiny_conv" / finished.name
    shutil.copytree(finished, copied)
    train(tmp_path, f"ckpt_path={copied}", "trainer.max_epochs=3")
    assert "overrides on top: trainer.max_epochs=3" in capsys.readouterr().out
    assert checkpoint.read(copied / "checkpoints" / "last.ckpt")["iteration"] == 9
    assert [r["step"] for r in csv_logger.read(copied / "metrics.csv") if r["val/error"]] == ["2", "5", "8"]


def test_checkpoint_outside_a_run_folder_starts_a_new_one(finished: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.ckpt"
    shutil.copy(finished / "checkpoints" / "last.ckpt", alone)
    folder = train(tmp_path / "runs", f"ckpt_path={alone}", "trainer.max_epochs=3")
    assert folder != finished and folder.parent.parent == tmp_path / "runs"
    assert (folder / "metrics.csv").is_file()
    assert checkpoint.read(folder / "checkpoints" / "last.ckpt")["iteration"] == 9


def test_init_from_takes_weights_only(finished: Path, tmp_path: Path) -> None:
    folder = train(
        tmp_path, f"init_from={finished}", "trainer.max_steps=1", "optim.lr=0", "evaluate_base=false"
    )
    best = checkpoint.read(finished / "checkpoints" / "best.ckpt")["state_dict"]
    assert all(torch.equal(value, best[name]) for name, value in weights(folder).items())
    assert checkpoint.read(folder / "checkpoints" / "last.ckpt")["iteration"] == 1


def test_weights_of_another_shape_are_one_sentence(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="do not fit this model"):
        train(tmp_path, f"init_from={finished}", "model.width=5")
    assert not list((tmp_path / "tiny_conv").iterdir())  # the folder made for it is gone


def test_a_checkpoint_of_another_family_is_refused(finished: Path, tmp_path: Path) -> None:
    content = torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)
    content["maskwell"]["family"] = "s4gan"
    checkpoint.write(content, tmp_path / "other.ckpt")
    for key in ("ckpt_path", "init_from"):
        with pytest.raises(UserError, match="family 's4gan', not of 'tiny_conv'"):
            train(tmp_path / "runs", f"{key}={tmp_path / 'other.ckpt'}")


def test_resume_and_init_exclude_each_other(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="one of them"):
        train(tmp_path, f"ckpt_path={finished}", f"init_from={finished}")


def test_a_resume_that_cannot_start_changes_nothing(finished: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    middle = finished / "checkpoints" / "middle.ckpt"
    for wrong in ("trainer.devices=4096", "model.width=x", "model.width=5"):
        with pytest.raises(UserError):
            train(tmp_path, f"ckpt_path={middle}", wrong)
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()} == before


def test_a_finished_run_says_so(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copied = tmp_path / "tiny_conv" / finished.name
    shutil.copytree(finished, copied)
    train(tmp_path, f"ckpt_path={copied}")
    assert "nothing was left to train" in capsys.readouterr().out


def test_an_optimiser_that_the_family_does_not_use_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TinyConv, "own_rates", "model.speed")
    with pytest.raises(UserError, match=r"^optim.lr=0.1: model=tiny_conv does not use .* by model.speed"):
        train(tmp_path, "optim.lr=0.1")
    assert not list((tmp_path / "tiny_conv").iterdir())


def test_a_folder_that_was_there_is_neither_overwritten_nor_removed(finished: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    with pytest.raises(UserError, match="holds a run already"):
        train(tmp_path, f"paths.run_dir={finished}")
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("kept")
    with pytest.raises(UserError, match="do not fit"):
        train(tmp_path, f"paths.run_dir={tmp_path / 'mine'}", f"init_from={finished}", "model.width=5")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "kept"


def test_fast_dev_run_goes_through_everything(tmp_path: Path) -> None:
    folder = train(tmp_path, "trainer.fast_dev_run=true")
    assert {"base", "trained"} <= json.loads((folder / "results.json").read_text()).keys()


@pytest.mark.parametrize(("rate", "learns"), [(0.03, True), (0.0, False)])
def test_overfit_preset_says_whether_the_loss_fell(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    rate: float,
    learns: bool,
) -> None:
    monkeypatch.chdir(tmp_path)
    cfg, origin = composed(
        *TINY[:2], "health=none", "debug=overfit", f"optim.lr={rate}", "callbacks.panels=null"
    )
    if learns:
        app.train(cfg, origin)
        assert "overfit: the loss on one batch went from" in capsys.readouterr().out
    else:
        with pytest.raises(UserError, match="Overfitting failed"):
            app.train(cfg, origin)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["debug"]


def test_profiler_preset_writes_where_the_time_went(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cfg, origin = composed(*TINY[:2], "health=none", "debug=profiler", "callbacks.panels=null")
    app.train(cfg, origin)
    [folder] = (tmp_path / "runs" / "debug" / "tiny_conv").iterdir()
    assert "run_training_batch" in (folder / "fit-profile.txt").read_text()


def test_return_value_is_the_monitored_metric(tmp_path: Path) -> None:
    cfg, origin = composed(
        "model=tiny_conv",
        "data=tiny_scenes",
        "trainer=cpu",
        "trainer.max_epochs=1",
        "callbacks=none",
        "health=none",
        "test=false",
        f"paths.runs={tmp_path}",
    )
    score = app.train(cfg, origin)
    [folder] = (tmp_path / TinyConv.family).iterdir()
    rows = csv_logger.read(folder / "metrics.csv")
    assert score == pytest.approx(float(next(row["val/error"] for row in rows if row["val/error"])))


def test_multirun_makes_one_run_for_each_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sweep = ["seed=1,2", "trainer.max_steps=1", "callbacks=none", "test=false"]
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", "--config-dir", str(CONF), *TINY[:4], *sweep])
    cli.main("train")
    found = sorted((tmp_path / "runs" / "tiny_conv").iterdir())
    assert [runs.load(folder)[0].seed for folder in found] == [1, 2]
    assert all((folder / "metrics.csv").is_file() for folder in found)
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}


def test_a_multirun_of_several_devices_is_refused_with_the_search_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(build, "cpu_cores", lambda: 2)
    sweep = ["seed=1,2", "trainer.devices=2"]
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", "--config-dir", str(CONF), *TINY[:3], *sweep])
    with pytest.raises(SystemExit) as stopped:
        cli.main("train")
    assert stopped.value.code == 2
    wanted = f"python -m maskwell.sweep --config-dir {CONF} {' '.join(TINY[:3])} seed=1,2 trainer.devices=2"
    assert wanted in capsys.readouterr().err
    assert not (tmp_path / "runs" / "tiny_conv").exists()


@pytest.mark.slow
def test_devices_2_is_enough_for_two_processes_in_one_run(tmp_path: Path) -> None:
    script = Path(__file__).with_name("small_train.py")
    more = ["data.epoch_size=8", "data.num_val=3", "trainer.max_epochs=1", "trainer.devices=2"]
    run = subprocess.run(
        [sys.executable, str(script), "--config-dir", str(CONF), *TINY, *more, f"paths.runs={tmp_path}"],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(script.parents[1] / "src"), str(script.parent)]),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("run folder:") == 1  # the second rank asks nobody and says nothing
    [folder] = (tmp_path / "tiny_conv").iterdir()
    assert checkpoint.read(folder / "checkpoints" / "last.ckpt")["iteration"] == 2
    rows = csv_logger.read(folder / "metrics.csv")
    assert [row["step"] for row in rows if row["train/batch_loss"]] == ["0", "1"]


def test_data_findings_and_splits_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_cells(tmp_path / "cells", seed=0, counts=(4, 2, 2), size=32)
    path = tmp_path / "cells" / "val.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"] = [-9, 0, 5, 5]
    path.write_text(json.dumps(content))
    where = ["data=coco", f"data.root={tmp_path / 'cells'}", "data.batch_size=2", "data.num_workers=0"]
    folder = train(tmp_path / "runs", *where, "data.near_duplicates=false", "trainer.max_epochs=1")
    said = capsys.readouterr().out
    assert "data warning" in said and "(box-outside, 1 times)" in said
    splits = json.loads((folder / "splits.json").read_text())
    assert {split: len(names) for split, names in splits.items()} == {"train": 4, "val": 2, "test": 2}
    assert json.loads((folder / "results.json").read_text())["images"] == 2


def test_data_without_objects_is_refused(tmp_path: Path) -> None:
    write_cells(tmp_path / "cells", seed=0, counts=(2, 1, 1), size=32)
    path = tmp_path / "cells" / "train.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))
    with pytest.raises(UserError, match="0 objects"):
        train(tmp_path / "runs", "data=coco", f"data.root={tmp_path / 'cells'}", "data.near_duplicates=false")
    assert not list((tmp_path / "runs" / "tiny_conv").iterdir())


def test_loader_workers_leave_ctrl_c_to_the_training() -> None:
    cfg, _ = composed(*TINY, "data.num_workers=1", "data.epoch_size=40")
    data = build.datamodule(cfg, build.task(cfg))
    batches = iter(data.train_dataloader())
    next(batches)
    workers = psutil.Process().children()
    assert workers
    for worker in workers:
        worker.send_signal(signal.SIGINT)  # as a terminal does with all processes of the program
    assert len(list(batches)) == 19
