"""Logs of several frameworks as rows: what is read, what is left out, what is refused in a sentence."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from maskwell.errors import UserError
from maskwell.health.columns import kind_of
from maskwell.logs import csv_file, tensorboard_folder, wandb_run
from maskwell.logs.rows import Notes, Row


def rows_of(path: Path) -> tuple[list[Row], Notes]:
    notes = Notes()
    return list(csv_file.read(path, notes)), notes


def test_a_csv_is_read_row_by_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("step,train_loss,note,val/miou\n1,2.5,start,\n2,,,0.25\n\n3,nan,x,\n")
    rows, notes = rows_of(path)
    assert [r.step for r in rows] == [1, 2, 3]
    assert rows[0].values == {"step": 1.0, "train_loss": 2.5} and rows[1].values["val/miou"] == 0.25
    assert rows[2].values["train_loss"] != rows[2].values["train_loss"]  # NaN is a number of a log
    assert notes.dropped == {"note": "holds no numbers"}


def test_without_steps_rows_are_counted_and_other_separators_are_known(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("epoch;loss\n0;3.0\n0;2.0\n1;1.0\n")
    rows, notes = rows_of(path)
    assert [(r.step, r.epoch) for r in rows] == [(1, 0.0), (2, 0.0), (3, 1.0)]
    assert any("no step column" in message for message in notes.messages)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        ("1,2,3\n4,5,6\n", "has no header"),
        ("name,colour\na,red\n", "holds no numbers"),
    ],
)
def test_what_is_no_log_is_refused_in_a_sentence(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=reason):
        rows_of(path)


def test_binary_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xff\xfe\x00\x81" * 100)
    with pytest.raises(UserError, match="cannot be read"):
        rows_of(path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train/batch_loss", ("loss", "train/batch_loss")),
        ("Loss", ("loss", "loss")),
        ("train/loss_fm", ("part", "loss_fm")),
        ("Loss_CE", ("part", "loss_ce")),
        ("val_loss", ("metric", "val/loss")),
        ("val/train_miou", ("metric", "evaluated_train/miou")),
        ("eval/accuracy", ("metric", "val/accuracy")),
        ("loss/val", ("metric", "val/loss")),
        ("train/learning_rate_generator", ("rate", "generator")),
        ("lr-SGD", ("rate", "sgd")),
        ("learning_rate", ("rate", "all")),
        ("train/grad_norm", ("gradient", "all")),
        ("train/grad_norm_clipped", ("none", "train/grad_norm_clipped")),
        ("train/st_count", ("fact", "st_count")),
        ("health/rising", ("none", "health/rising")),
        ("_runtime", ("none", "_runtime")),
        ("test/map", ("none", "test/map")),
    ],
)
def test_names_of_several_frameworks_are_understood(name: str, expected: tuple[str, str]) -> None:
    assert kind_of(name) == expected


def test_tensorboard_scalars(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(tmp_path / "run"))
    for step in range(3):
        writer.add_scalar("train_loss", 1.0 / (step + 1), step)
        writer.add_scalar("lr", 0.1, step)
    writer.add_histogram("weights", np.array([1.0, 2.0]), 3)
    writer.close()
    assert tensorboard_folder.runs(tmp_path) == [tmp_path / "run"]
    rows = list(tensorboard_folder.read(tmp_path / "run", Notes()))
    assert [r.step for r in rows] == [0, 1, 2]
    assert rows[1].values == {"train_loss": 0.5, "lr": pytest.approx(0.1)}


def _log_file(contents: list[bytes]) -> bytes:
    """A LevelDB log with W&B's header, records cut at blocks as the format has it."""
    out = bytearray(b":W&B" + struct.pack("<HB", 0xBEE1, 0))
    for content in contents:
        at = 0
        while True:
            left = wandb_run.BLOCK - len(out) % wandb_run.BLOCK
            if left < wandb_run.HEADER.size:
                out += b"\0" * left
                continue
            part = content[at : at + left - wandb_run.HEADER.size]
            begins, ends = at == 0, at + len(part) == len(content)
            kind = {(True, True): 1, (True, False): 2, (False, False): 3, (False, True): 4}[begins, ends]
            out += wandb_run.HEADER.pack(0, len(part), kind) + part
            at += len(part)
            if ends:
                break
    return bytes(out)


def test_a_wandb_file_is_read_over_block_borders_and_a_torn_end(tmp_path: Path) -> None:
    from wandb.proto import wandb_internal_pb2

    records = []
    for step in range(400):
        record = wandb_internal_pb2.Record()
        for key, value in (("train/batch_loss", 2.0 - step / 400), ("_step", step), ("caption", "x" * 120)):
            record.history.item.add(key=key, value_json=json.dumps(value))
        records.append(record.SerializeToString())
    path = tmp_path / "run-abc.wandb"
    path.write_bytes(_log_file(records)[:-5])
    assert path.stat().st_size > 2 * wandb_run.BLOCK
    rows = list(wandb_run.read(path, Notes()))
    assert [r.step for r in rows] == list(range(399))
    assert rows[200].values == {"train/batch_loss": 1.5}


def test_another_file_is_no_wandb_run(tmp_path: Path) -> None:
    path = tmp_path / "run-abc.wandb"
    path.write_bytes(b"hello world")
    with pytest.raises(UserError, match="no W&B run file"):
        list(wandb_run.read(path, Notes()))
