from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from maskwell.data import prelabels
from maskwell.data.coco import CocoSource
from maskwell.ops import masks


def _discs() -> np.ndarray:
    planes = np.zeros((3, 60, 80), np.uint8)
    for plane, (centre, radius) in zip(planes, (((20, 20), 12), ((60, 40), 6), ((30, 50), 3)), strict=True):
        cv2.circle(plane, centre, radius, 1, -1)
    return planes


def _dataset() -> dict[str, object]:
    rles = masks.encode(torch.from_numpy(_discs()))
    entries = [
        {
            "id": 7 + i,
            "image_id": 1,
            "category_id": 1,
            "bbox": coco_mask.toBbox(rle).tolist(),
            "area": float(coco_mask.area(rle)),
            "score": 0.9 - 0.3 * i,
            "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
            "iscrowd": 0,
        }
        for i, rle in enumerate(rles)
    ]
    images = [{"id": 1, "file_name": "a.png", "width": 80, "height": 60}]
    return {"images": images, "annotations": entries, "categories": [{"id": 1, "name": "disc"}]}


def test_outlines_keep_the_mask() -> None:
    for plane, least in zip(_discs(), (0.95, 0.9, 0.8), strict=True):
        [rle] = masks.encode(torch.from_numpy(plane[None]))
        outline = prelabels.polygons(rle)
        again = coco_mask.merge(coco_mask.frPyObjects(outline, 60, 80))
        assert coco_mask.iou([again], [rle], [0])[0, 0] > least
        assert len(outline[0]) < 60


def test_an_empty_mask_has_no_outline() -> None:
    [rle] = masks.encode(torch.zeros(1, 9, 9, dtype=torch.bool))
    assert prelabels.polygons(rle) == []


def test_what_is_written_is_read_as_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "predictions.json"
    source.write_text(json.dumps(_dataset()))
    (tmp_path / "data" / "images").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "data" / "images" / "a.png"), np.full((60, 80, 3), 99, np.uint8))
    target = tmp_path / "data" / "train.json"
    prelabels.main([str(source), str(target), "--min-score", "0.5"])
    assert "1 images, 2 annotations" in capsys.readouterr().out
    found = CocoSource(str(tmp_path / "data"), val_split=0.0)
    assert found.categories == ("disc",)
    record = found.read("train", 0, 0, None)
    assert record.masks is not None and len(record.labels) == 2
    assert record.area[0] == pytest.approx(float(_discs()[0].sum()), rel=0.05)


def test_a_list_of_results_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "results.json"
    source.write_text("[]")
    with pytest.raises(SystemExit):
        prelabels.main([str(source), str(tmp_path / "out.json")])
    assert "predict.py" in capsys.readouterr().err
