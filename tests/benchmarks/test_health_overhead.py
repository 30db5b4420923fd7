"""The cost of the monitor is measured, on steps of about the wanted length."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Semaphore
from types import SimpleNamespace

import pytest

from benchmarks.health import overhead


def test_both_ways_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overhead, "WARM", 8)
    monkeypatch.setattr(overhead, "STEPS", 32)
    found = overhead.measure(0.001, 2, str(tmp_path))
    assert set(found) == {"share", "share.q1", "share.q3", "ms"} and found["ms"] > 0
    assert found["share.q1"] <= found["share"] <= found["share.q3"]


def test_two_trainings_never_work_at_once() -> None:
    first, second = Semaphore(1), Semaphore(0)
    turns = [overhead.Turn(first, second), overhead.Turn(second, first)]
    working: list[str] = []

    def train(name: str, turn: overhead.Turn) -> None:
        for step in range(3 * overhead.BLOCK):
            turn.on_train_batch_start(SimpleNamespace(global_step=step), None)  # type: ignore[arg-type]
            working.append(name)
        turn.on_train_end(None, None)  # type: ignore[arg-type]

    with ThreadPoolExecutor(2) as pool:
        for run in [pool.submit(train, name, turn) for name, turn in zip("ab", turns, strict=True)]:
            run.result(timeout=30)
    assert "".join(working) == ("a" * overhead.BLOCK + "b" * overhead.BLOCK) * 3
