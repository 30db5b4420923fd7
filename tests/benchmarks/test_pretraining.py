"""Figures read back out of runs: the last steps of a trial, the curve and health of a stage."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest

from benchmarks.pretrain_record import curve, stage
from benchmarks.pretraining import last_steps


def metrics_file(path: Path, steps: int) -> None:
    """Steps 0, 1, ... whose box loss is the step, and a validation row between."""
    names = ["step", "train/batch_loss", "train/loss_box", "val/map_50", "val/il_mcc"]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        for step in range(steps):
            writer.writerow({"step": step, "train/batch_loss": 1, "train/loss_box": step})
        writer.writerow({"step": steps - 1, "val/map_50": 0.5, "val/il_mcc": 0.25})


def test_the_last_steps_are_averaged(tmp_path: Path) -> None:
    metrics_file(tmp_path / "metrics.csv", 10)
    assert last_steps(tmp_path / "metrics.csv", window=4) == {"box": pytest.approx(7.5)}


def test_a_curve_has_means_of_equal_stretches() -> None:
    rows = [{"step": str(i), "train/loss_box": str(i)} for i in range(10)]
    points = curve(rows, ["loss_box", "loss_dice"], points=3)
    assert points["step"] == [3, 7, 9]
    assert points["loss_box"] == [1.5, 5.5, 8.5]
    assert all(math.isnan(value) for value in points["loss_dice"])


def test_a_stage_tells_cost_health_and_validation(tmp_path: Path) -> None:
    metrics_file(tmp_path / "metrics.csv", 5)
    (tmp_path / "record.json").write_text(json.dumps({"sessions": [{"minutes": 1.5}, {"minutes": 2.0}]}))
    (tmp_path / "health.json").write_text(json.dumps({"verdict": "healthy", "incidents": []}))
    (tmp_path / "overrides.txt").write_text("experiment=pretrain_tiny\n")
    figures = stage(tmp_path)
    assert figures["steps"] == 5
    assert figures["minutes"] == 3.5
    assert figures["health"]["verdict"] == "healthy"
    assert figures["validation"] == {"map_50": [0.5], "il_mcc": [0.25], "pmf1": [], "step": [4]}
    assert figures["overrides"] == ["experiment=pretrain_tiny"]
