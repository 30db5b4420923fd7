"""The benchmark of long logs puts two faults into one and finds them where they are."""

from __future__ import annotations

from pathlib import Path

from benchmarks.long_log import measure, write_log


def test_the_log_is_as_long_as_asked_and_holds_its_faults(tmp_path: Path) -> None:
    nan, jump = write_log(tmp_path / "a.csv", 3000)
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert len(lines) == 3001 and lines[1 + nan].split(",")[1] == "nan"
    assert sum(line.count(",") == 2 and not line.endswith(",") for line in lines[1:]) == 3
    before, after = (float(lines[1 + jump + at].split(",")[1]) for at in (-1, 0))
    assert after > 1.5 * before


def test_both_faults_are_found(tmp_path: Path) -> None:
    """In a log beyond the length from which the rules are asked less often."""
    figures = measure(60_000, tmp_path)
    assert figures["nan_step_off"] == 0 and 0 < figures["jump_steps_late"] <= 160
    assert figures["peak_mib"] > 50 and figures["cpu_seconds"] > 0
