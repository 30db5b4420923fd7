"""Two processes train as one with the joined batch, every family through the whole program."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import ddp, families


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the processes are forked")
@pytest.mark.parametrize("family", families.FAMILIES)
def test_two_processes_train_as_one(family: str, tmp_path: Path) -> None:
    """Gradients of the first step within 1e-3 of the largest entry: float32 sums in another order."""
    import maskwell.app  # noqa: F401 - before the forks

    found = ddp.compare(family, tmp_path)
    assert found["max_abs_diff"] < 1e-3
    assert found["gradient_diff_of_ranks"] == 0.0  # what each rank steps with
    assert found["loss_diff"] < 0.02  # three steps on, rounding has been stepped with
    assert found["metric_diff"] < 0.02
    assert found["run_folders"] == 1
