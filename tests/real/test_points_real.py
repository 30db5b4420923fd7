"""Points of real data: the balance of done states, nuclei's centroids, blood cells' centres."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from maskwell.data.coco import CocoSource
from maskwell.data.convert import convert
from maskwell.data.done_balance import done_balance

DATA = os.environ.get("MASKWELL_DATA")
pytestmark = pytest.mark.skipif(not DATA, reason="MASKWELL_DATA is unset")


def test_one_in_thirteen_states_of_blood_cells_is_done(tmp_path: Path) -> None:
    convert("voc", Path(str(DATA)) / "bccd", tmp_path / "coco", link=True)
    found = {(one.split, one.mode, one.sampling): one for one in done_balance(tmp_path / "coco")}
    train = found["train", "mixed", "uniform"]
    assert train.images == 205 and train.expected == pytest.approx(0.080, abs=5e-4)
    assert train.pos_weight == pytest.approx(11.4, abs=0.1)
    low, high = train.sampled.interval
    assert low < train.expected < high


def test_nuclei_have_their_centroids_in_their_boxes() -> None:
    source = CocoSource(str(Path(str(DATA)) / "dsb2018"), object_range=[5, 50], near_duplicates=False)
    assert source.size("test") == 69
    assert sum(image.size == (256, 256) for image in source.index["test"]) == 41
    off_centre = 0
    for index in range(5):
        record = source.read("test", index, 0, None)
        places = record.points()
        assert 5 <= len(places) <= 50
        assert (places >= record.boxes[:, :2]).all() and (places <= record.boxes[:, 2:]).all()
        middles = (record.boxes[:, :2] + record.boxes[:, 2:]) / 2
        off_centre += int((np.linalg.norm(places - middles, axis=1) > 0.5).sum())
    assert off_centre > 5  # they are no centres of boxes
