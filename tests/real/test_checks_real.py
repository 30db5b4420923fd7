"""The data checks on real data: nuclei are sound, blood cells have the faults that they are known for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from maskwell.data.checks import check_dataset
from maskwell.data.convert import convert

DATA = os.environ.get("MASKWELL_DATA")
pytestmark = pytest.mark.skipif(not DATA, reason="MASKWELL_DATA is unset")


def test_nuclei_have_no_faults() -> None:
    (fact,) = check_dataset(Path(str(DATA)) / "dsb2018", fast=True)
    assert (fact.code, fact.severity, fact.count) == ("objects-per-image", "info", 564)
    assert "evaluate with more than 100 detections" in fact.message


def test_blood_cells_have_boxes_given_twice_and_one_near_leak(tmp_path: Path) -> None:
    convert("voc", Path(str(DATA)) / "bccd", tmp_path / "coco", link=True)
    found = {f.code: f for f in check_dataset(tmp_path / "coco")}
    assert set(found) == {"box-duplicate", "leak-near", "objects-per-image"}
    assert found["box-duplicate"].count == 7
    assert found["leak-near"].examples == ("train/BloodImage_00038.jpg ~ val/BloodImage_00037.jpg",)
