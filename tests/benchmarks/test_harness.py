"""The shared parts of the benchmarks."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pytest

from benchmarks import harness


def test_write_makes_the_published_form(tmp_path: Path) -> None:
    path = harness.write(
        "loader",
        {"speedup": 2.123456789, "deep": {"count": np.int64(3)}},
        command="python -m benchmarks.loader",
        seeds=[0, 1],
        minutes=1.234,
        notes="one core",
        out=tmp_path / "new" / "loader.json",
    )
    record = json.loads(path.read_text())
    assert list(record) == [
        "name",
        "command",
        "commit",
        "date",
        "machine",
        "seeds",
        "minutes",
        "figures",
        "notes",
    ]
    assert record["figures"] == {"speedup": 2.12346, "deep": {"count": 3}}
    assert record["seeds"] == [0, 1]
    assert [p.name for p in path.parent.iterdir()] == ["loader.json"]


@pytest.mark.parametrize(("options", "written"), [([], True), (["--quick"], False)])
def test_quick_runs_write_nothing_unless_told(
    options: list[str], written: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    record = {"command": "x", "seeds": [0], "minutes": 0.0, "notes": ""}
    args = harness.arguments("").parse_args(options)
    harness.publish(args, "some", {"a": 1.0}, **record)
    assert (tmp_path / "results" / "some.json").exists() == written
    args = harness.arguments("").parse_args([*options, "--out", str(tmp_path / "here.json")])
    harness.publish(args, "some", {"a": 1.0}, **record)
    assert (tmp_path / "here.json").exists()
    assert isinstance(args, argparse.Namespace)


def test_paired_runs_in_turns() -> None:
    calls: list[str] = []
    timing = harness.paired(lambda: calls.append("a"), lambda: calls.append("b"), repeats=3, warmup=1)
    assert calls == ["a", "b"] * 4
    assert len(timing.first) == len(timing.second) == 3


def test_ratio_is_the_median_of_the_turns() -> None:
    timing = harness.Paired((2.0, 9.0, 4.0), (1.0, 1.0, 2.0))
    assert timing.ratios == [2.0, 9.0, 2.0]
    assert timing.ratio == 2.0
    assert timing.spread == pytest.approx(np.std([2, 9, 2], ddof=1))


def test_cells_are_run_once_and_survive_a_cut(tmp_path: Path) -> None:
    path = tmp_path / "cells" / "study.jsonl"
    calls: list[int] = []

    def work(value: int) -> dict[str, int]:
        calls.append(value)
        return {"value": value}

    cells = harness.Cells(path)
    assert cells.run({"seed": 0, "rate": 0.1}, lambda: work(1)) == {"value": 1}
    assert cells.run({"rate": 0.1, "seed": 0}, lambda: work(2)) == {"value": 1}
    cells.run({"seed": 1, "rate": 0.1}, lambda: work(3))
    path.write_text(path.read_text()[:-5])  # killed while writing the second cell
    again = harness.Cells(path)
    assert again.run({"seed": 0, "rate": 0.1}, lambda: work(4)) == {"value": 1}
    assert again.run({"seed": 1, "rate": 0.1}, lambda: work(5)) == {"value": 5}
    assert calls == [1, 3, 5]
    assert len(path.read_text().splitlines()) == 2


def _slow_cell(path: Path, started: Event, log: Path) -> None:
    def work() -> dict[str, int]:
        started.set()
        time.sleep(0.3)
        with log.open("a") as file:
            file.write("worked\n")
        return {"value": 7}

    harness.Cells(path).run({"cell": 1}, work)


def test_processes_wait_for_each_other_s_cells(tmp_path: Path) -> None:
    path, log = tmp_path / "cells.jsonl", tmp_path / "log"
    here = harness.Cells(path)
    context = multiprocessing.get_context("fork")
    started = context.Event()
    other = context.Process(target=_slow_cell, args=(path, started, log))
    other.start()
    assert started.wait(20)
    assert here.find({"cell": 1}) is None
    assert here.run({"cell": 2}, lambda: {"value": 0}) == {"value": 0}  # not held up by the other
    assert not log.exists()
    assert here.run({"cell": 1}, lambda: {"value": 8}) == {"value": 7}
    other.join()
    assert len(path.read_text().splitlines()) == 2


def test_real_data_wants_variable_and_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASKWELL_DATA", raising=False)
    assert harness.real_data("dsb2018") is None
    monkeypatch.setenv("MASKWELL_DATA", str(tmp_path))
    assert harness.real_data("dsb2018") is None
    (tmp_path / "dsb2018").mkdir()
    assert harness.real_data("dsb2018") == tmp_path / "dsb2018"


def test_flat_and_memory() -> None:
    assert harness.flat({"a": {"b": 1, "c": {"d": 2}}, "e.f": 3}) == {"a.b": 1, "a.c.d": 2, "e.f": 3}
    assert 0.01 < harness.peak_memory_gib() < 1000
    assert harness.machine()
