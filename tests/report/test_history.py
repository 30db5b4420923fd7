from __future__ import annotations

from pathlib import Path

import numpy as np

from maskwell.report import history


def test_columns_become_series_counted_from_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,train/batch_loss,val/map\n0,2.5,\n1,nan,\n1,,0.25\n,9,9\n2,inf,0.5\n")
    read = history.read(path)
    assert read["train/batch_loss"].steps.tolist() == [1, 2, 3]
    assert read["train/batch_loss"].values[0] == 2.5 and np.isnan(read["train/batch_loss"].values[1])
    assert read["val/map"].steps.tolist() == [2, 3] and read["val/map"].last == 0.5
    assert read.length == 3


def test_a_half_written_row_and_a_missing_file_are_no_error(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    assert len(history.read(path)) == 0
    path.write_text("step,train/batch_loss\n0,1.5\n1")
    assert history.read(path)["train/batch_loss"].values.tolist() == [1.5]


def test_long_series_are_averaged_with_their_extremes() -> None:
    values = np.tile([0.0, 10.0], 500)
    values[7] = np.nan
    steps, mean, low, high = history.Series("x", np.arange(1.0, 1001), values).reduced(100)
    assert len(steps) == 100 and steps[0] == 5.5
    assert mean[1] == 5.0 and low[1] == 0.0 and high[1] == 10.0
    assert mean[0] == np.nanmean(values[:10])


def test_epochs_start_where_their_number_first_appears(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,train/epoch\n" + "".join(f"{i},{i // 4}\n" for i in range(10)))
    assert history.read(path).epoch_starts() == {1: 1.0, 2: 5.0, 3: 9.0}
