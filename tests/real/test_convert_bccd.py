"""The blood-cell dataset from VOC to COCO, against counts taken from its text with regular expressions."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import pytest
from pycocotools.coco import COCO

from maskwell.data.convert import convert

DATA = os.environ.get("MASKWELL_DATA")
pytestmark = pytest.mark.skipif(not DATA, reason="MASKWELL_DATA is unset")


def test_bccd_keeps_its_splits_and_boxes(tmp_path: Path) -> None:
    source = Path(str(DATA)) / "bccd"
    dataset = convert("voc", source, tmp_path / "coco", link=True)
    assert dataset.categories == ("Platelets", "RBC", "WBC")
    assert len(dataset.notes) == 1 and dataset.notes[0].startswith("2 objects left out")
    for split, count in {"train": 205, "val": 87, "test": 72}.items():
        coco = COCO(tmp_path / "coco" / f"{split}.json")
        listed = (source / "ImageSets" / "Main" / f"{split}.txt").read_text().split()
        assert [Path(i["file_name"]).stem for i in coco.imgs.values()] == listed
        assert len(listed) == count
        for image in coco.imgs.values():
            stem = Path(image["file_name"]).stem
            text = (source / "Annotations" / f"{stem}.xml").read_text()
            written = Counter()
            corner = r".*?<{}>(\d+)</{}>"
            pattern = r"<name>(\w+)</name>" + "".join(
                corner.format(k, k) for k in ("xmin", "ymin", "xmax", "ymax")
            )
            for name, *corners in re.findall(pattern, text, re.DOTALL):
                x0, y0, x1, y1 = map(int, corners)
                if x1 > x0:
                    written[(name, x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1)] += 1
            found = coco.loadAnns(coco.getAnnIds(image["id"]))
            assert Counter((coco.cats[a["category_id"]]["name"], *a["bbox"]) for a in found) == written
