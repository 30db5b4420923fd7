"""The cost of the monitor is measured, on steps of about the wanted length."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.health import overhead


def test_both_ways_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overhead, "WARM", 2)
    monkeypatch.setattr(overhead, "STEPS", 4)
    found = overhead.measure(0.001, 2, str(tmp_path))
    assert set(found) == {"share", "share.low", "share.high", "ms"} and found["ms"] > 0
    assert found["share.low"] <= found["share"] <= found["share.high"]
