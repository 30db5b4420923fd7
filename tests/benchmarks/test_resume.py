"""Kills at random moments, a few of them: the resumed run is the uninterrupted one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from benchmarks import families, resume


def test_unequal_leaves_are_named() -> None:
    one = {"a": [torch.zeros(2), {"b": 1}], "c": torch.tensor([1.0, float("nan")])}
    same = {"a": [torch.zeros(2), {"b": 1}], "c": torch.tensor([1.0, float("nan")])}
    assert resume.unequal(one, same) == []
    other = {"a": [torch.tensor([0.0, 1e-30]), {"b": 2}], "c": torch.tensor([1.0, 2.0])}
    assert resume.unequal(one, other) == ["/a/0", "/a/1/b", "/c"]
    assert resume.unequal({"a": 1}, {"b": 1}, "x") == ["x"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the runs are forked")
@pytest.mark.parametrize("family", families.FAMILIES)
def test_a_killed_run_goes_on_bit_for_bit(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One kill in mid-epoch and one while a checkpoint is written, with loader workers."""
    import maskwell.app  # noqa: F401 - before the forks

    monkeypatch.setattr(resume, "STEPS", 4)
    monkeypatch.setattr(resume, "EPOCHS", 2)
    families.write_data(tmp_path / "cells")
    resume.finish(family, tmp_path, tmp_path / "whole", workers=1)
    for number, wanted in ((1, "mid_epoch"), (0, "while_writing")):
        found = resume.kill(family, tmp_path, number, workers=1)
        assert found["differences"] == []
        assert found["killed"] and found["after_checkpoint"], (wanted, found)
