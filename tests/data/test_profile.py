from __future__ import annotations

from pathlib import Path

import numpy as np

from maskwell.data.coco import CocoSource
from maskwell.data.profile import _spread, profile
from tests.data.coco_folder import dataset


def test_spread_in_words() -> None:
    assert _spread([3.0] * 5) == "3" and _spread([]) == ""
    assert _spread(list(np.arange(101.0))) == "10 / 50 / 90"


def test_counts_of_a_coco_folder(tmp_path: Path) -> None:
    source = CocoSource(str(dataset(tmp_path, train=4, val=2, test=2)))
    source.setup()
    found = profile(source)
    train = {"image_size": "60", "objects": 4, "objects_per_image": "1", "object_size": "14"}  # sqrt(20 x 10)
    assert found["splits"]["train"] == train and found["splits"]["val"]["objects"] == 2
    assert found["objects_by_category"] == {"cell": 4}
