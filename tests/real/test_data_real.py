"""Real data: dsb2018's masks against pycocotools, seeded loading, CamVid's masks."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from maskwell.data import rle
from maskwell.data.coco import CocoSource
from maskwell.data.datamodule import DataModule
from maskwell.data.duplicates import near_duplicate_files
from maskwell.data.prompts import PromptPolicy
from maskwell.data.sample import InputSpec
from maskwell.data.semantic import SemanticSource
from maskwell.data.source import Split
from maskwell.data.transforms import Augmentation

DATA = os.environ.get("MASKWELL_DATA")
pytestmark = pytest.mark.skipif(not DATA, reason="MASKWELL_DATA is not set")
SPEC = InputSpec("square", 64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture(scope="module")
def nuclei() -> CocoSource:
    source = CocoSource(str(Path(str(DATA)) / "dsb2018"))
    source.setup()
    return source


def test_counts_are_those_of_the_data_set(nuclei: CocoSource) -> None:
    splits: tuple[Split, ...] = ("train", "val", "test")
    assert [nuclei.size(split) for split in splits] == [383, 84, 97]
    assert nuclei.num_objects("train") == 15592
    assert nuclei.categories == ("nucleus",)


def test_every_test_mask_equals_pycocotools(nuclei: CocoSource, capsys: pytest.CaptureFixture[str]) -> None:
    reference = COCO(str(Path(str(DATA)) / "dsb2018" / "test.json"))
    for index, image in enumerate(nuclei.index["test"]):
        if index % 4:
            continue
        record = nuclei.read("test", index, 0, None)
        annotations = reference.imgToAnns[image.image_id]
        assert record.masks is not None and len(annotations) == record.masks.count
        expected = np.stack([reference.annToMask(a) for a in annotations]).astype(bool)
        np.testing.assert_array_equal(record.masks.to_planes(), expected)
        encoded = rle.encode(record.masks)
        assert [r["counts"].decode() for r in encoded] == [a["segmentation"]["counts"] for a in annotations]
        np.testing.assert_array_equal(record.image, np.asarray(Image.open(image.path).convert("RGB")))


def test_crops_hold_the_right_part_of_every_mask(nuclei: CocoSource) -> None:
    for index in range(0, 97, 16):
        image = nuclei.index["test"][index]
        height, width = nuclei.image_size("test", index)
        x, y = width // 3, height // 4
        window = (x, y, min(128, width - x), min(128, height - y))
        record = nuclei.read("test", index, 0, window)
        rles = [
            {"size": found["size"], "counts": found["counts"]}
            for found in image.segmentations
            if isinstance(found, dict)
        ]
        planes = coco_mask.decode(rles).astype(bool)[y : y + window[3], x : x + window[2]].transpose(2, 0, 1)
        assert record.masks is not None
        np.testing.assert_array_equal(record.masks.to_planes(), planes[planes.any((1, 2))])


@pytest.mark.parametrize("crop", [64, None])
def test_loading_is_the_same_with_and_without_workers(nuclei: CocoSource, crop: int | None) -> None:
    sums = []
    for workers in (0, 2):
        data = DataModule(
            nuclei,
            batch_size=8,
            num_workers=workers,
            prompts=PromptPolicy({"nucleus": "cell nucleus"}),
            augment=Augmentation(),
            crop=crop,
            limit_train=24,
        )
        data.bind(SPEC)
        data.setup()
        sums.append([float(batch.images.double().sum()) for batch in data.train_dataloader()])
    assert sums[0] == sums[1] and len(sums[0]) == 3


def test_the_official_splits_share_no_near_duplicates_with_training(nuclei: CocoSource) -> None:
    paths = [image.path for split in ("train", "test") for image in nuclei.index[split][:60]]  # type: ignore[index]
    assert near_duplicate_files(paths) == []


def test_one_file_of_real_images_is_split(nuclei: CocoSource, tmp_path: Path) -> None:
    root = Path(str(DATA)).resolve() / "dsb2018"
    (tmp_path / "images").symlink_to(root / "images")
    (tmp_path / "instances_default.json").write_bytes((root / "val.json").read_bytes())
    source = CocoSource(str(tmp_path), val_split=0.2, test_split=0.1)
    lists = source.split_lists()
    assert [len(lists[s]) for s in ("train", "val", "test")] == [59, 17, 8]
    names = {entry["file_name"] for entry in json.loads((root / "val.json").read_text())["images"]}
    assert names == {name for found in lists.values() for name in found}


def test_camvid(tmp_path: Path) -> None:
    source = SemanticSource(str(Path(str(DATA)) / "camvid"))
    data = DataModule(source, batch_size=2)
    data.bind(InputSpec("pad", None, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    data.setup()
    assert [source.size(s) for s in ("train", "val", "test")] == [367, 101, 233]
    batch = next(iter(data.test_dataloader()))
    assert batch.images.shape == (2, 3, 384, 480)
    item = source.index["test"][1]
    expected = torch.from_numpy(np.asarray(Image.open(item.mask)).astype(np.int64))
    sample = batch.samples[1]
    assert sample.truth is not None and sample.truth.semantic is not None
    assert torch.equal(sample.truth.semantic, expected)
    assert sample.semantic is not None and torch.equal(sample.semantic[:360], expected)
    assert (sample.semantic[360:] == 255).all()
