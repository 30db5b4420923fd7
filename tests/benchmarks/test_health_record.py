"""A training of a few steps is recorded, with a stop in between, and judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.harness import Cells
from benchmarks.health import __main__ as main
from benchmarks.health import miniature
from benchmarks.health.collect import Finished, collect, stories
from benchmarks.health.injection import Put
from benchmarks.health.monitors import printed, remedy
from benchmarks.health.plan import Cell
from benchmarks.health.record import Training, record
from benchmarks.health.remedies import as_good
from benchmarks.health.tape import Tape
from maskwell.data.synthetic import cached_cells
from maskwell.errors import UserError


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKWELL_CACHE", str(tmp_path))


def nan(start: int, **more: int) -> Training:
    return Training("points", 0, 12, 8, 6, put=((Put("NanLoss"), 2, start),), **more)  # type: ignore[arg-type]


def test_what_the_monitor_heard_is_on_the_tape(tmp_path: Path) -> None:
    made = record(nan(8))
    result = made.result()
    assert (result["steps"], result["onset"], result["ended"]) == (12, 9, "")
    assert result["evaluations"] == [6, 12] and result["monitor"] == "val/f1_9_6"
    assert made.tape.series("loss")[0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 11, 12]
    made.tape.save(tmp_path / "a.npz")
    cell = Cell(nan(8), "nan_step", "numerics", 2, ("overflow", "bad_sample", "bad_batch"))
    figures = collect([Finished(cell, result, lambda: Tape.load(tmp_path / "a.npz"))])
    assert figures["detection"] == 1 and figures["latency"]["nonfinite"]["median"] == 0
    assert figures["monitors"]["megatron"]["detection"] == 1
    assert figures["monitors"]["null"]["detection"] == 0
    lines = printed(made.tape, "points")
    assert [line.step for line in lines][:1] == [9] and lines[0].causes and remedy(lines)
    dead = {**result, "ended": "ValueError: no", "onset": None}
    failed = collect([Finished(c, dead, lambda: made.tape) for c in (cell, Cell(nan(8), "x", "healthy", 0))])
    assert failed == {}
    wrong = Cell(nan(8), "nan_step", "numerics", 2, ("leak",))
    finished = [Finished(c, result, lambda: made.tape) for c in (cell, wrong)]
    assert [line.split(":")[1].split(";")[0] for line in stories(finished)] == [" wants leak"]


def test_a_run_is_stopped_and_resumed() -> None:
    made = record(nan(8, resume_at=7))
    assert made.ended == "" and made.steps == 12 and made.onset == 9
    steps = made.tape.series("loss")[0].tolist()
    assert steps == [1, 2, 3, 4, 5, 6, 7, 8, 11, 12]
    assert "event/resume" in made.tape.names


def test_a_fault_that_ends_the_training_is_a_result() -> None:
    made = record(Training("points", 0, 12, 8, 6, put=((Put("OutOfMemory"), 1, 4),)))
    assert made.ended.startswith("OutOfMemoryError") and made.onset == 5
    assert made.tape.series("system/out_of_memory")[1].tolist() == [1]


def test_generated_cells_are_of_the_miniatures_size(tmp_path: Path) -> None:
    folder = Path(miniature.cells_folder(0, 4))
    assert folder == cached_cells(seed=0, counts=(4, 16, 2), size=miniature.SIZE)
    assert len(list((folder / "images").iterdir())) == 22


def test_a_run_goes_back_by_itself() -> None:
    made = record(Training("points", 0, 16, 8, 8, put=((Put("NanLoss"), 3, 8),), recovers=True))
    assert made.returns >= 1 and made.ended == ""
    assert not len(made.tape)  # its rules act: it is no recording


def test_only_what_the_monitor_printed_may_be_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Training) -> None:
        raise UserError("no such key")

    monkeypatch.setattr(main, "record", refuse)
    monkeypatch.setattr(main, "_recipe", lambda _: "recipe")
    bench = main.Bench(tmp_path, Cells(tmp_path / "cells.jsonl"))
    with pytest.raises(UserError, match="no such key"):
        bench.training(nan(8))
    assert main.Bench(tmp_path, bench.cells, works=False).training(nan(8)) is None
    again = bench.training(nan(9), refusable=True)
    healthy = {"monitor": "val/map", "mode": "max", "metrics": {"val/map": 0.5}}
    assert again is not None and again["refused"] == "no such key" and not as_good(again, healthy)
