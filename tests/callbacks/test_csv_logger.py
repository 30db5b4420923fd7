"""metrics.csv: history kept, new columns, rows cut for a resume."""

from __future__ import annotations

from pathlib import Path

from maskwell.callbacks import csv_logger
from maskwell.callbacks.csv_logger import CsvLogger


def test_rows_and_columns_grow(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.csv"
    logger = CsvLogger(path)
    logger.log_metrics({"loss": 0.5}, step=0)
    logger.log_metrics({"loss": 0.25, "val/map": 1 / 3}, step=1)
    assert path.read_text() == "step,loss,val/map\n0,0.5,\n1,0.25,0.333333333\n"


def test_an_existing_file_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    CsvLogger(path).log_metrics({"a": 1}, step=0)
    again = CsvLogger(path)
    again.log_metrics({"b": 2}, step=1)
    assert csv_logger.read(path) == [{"step": "0", "a": "1", "b": ""}, {"step": "1", "a": "", "b": "2"}]


def test_what_the_last_row_says_is_not_repeated_after_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    CsvLogger(path).log_metrics({"epoch": 0, "avg": 2}, step=5)
    resumed = CsvLogger(path)
    resumed.log_metrics({"epoch": 0}, step=5)
    resumed.log_metrics({"epoch": 1}, step=5)
    resumed.log_metrics({"epoch": 0}, step=6)
    assert [(row["step"], row["epoch"]) for row in csv_logger.read(path)] == [
        ("5", "0"),
        ("5", "1"),
        ("6", "0"),
    ]


def test_cut_drops_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    assert csv_logger.cut(path, 3) == 0
    assert not path.exists()
    logger = CsvLogger(path)
    for step in (0, 1, 1, 2):
        logger.log_metrics({"a": step}, step=step)
    assert csv_logger.cut(path, 1) == 1
    assert [row["step"] for row in csv_logger.read(path)] == ["0", "1", "1"]
    assert csv_logger.cut(path, 1) == 0
