"""Semantic folders and COCO instances read as classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maskwell.data.datamodule import DataModule
from maskwell.data.instances import InstanceMasks
from maskwell.data.sample import IGNORE, InputSpec
from maskwell.data.semantic import CocoSemanticSource, SemanticSource, semantic_of
from maskwell.data.transforms import Augmentation
from maskwell.errors import UserError
from tests.data.coco_folder import box_annotation, content, picture, write, write_images

PAD = InputSpec("pad", None, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def classes_of(number: int) -> np.ndarray:
    mask = np.random.default_rng(number).integers(0, 3, (40, 60)).astype(np.uint8)
    mask[:5] = 9
    return mask


def folder(root: Path, splits: dict[str, int]) -> Path:
    number = 1
    for split, count in splits.items():
        for _ in range(count):
            for kind, pixels in (("images", picture(number)), ("masks", classes_of(number))):
                path = root / kind / split / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
            number += 1
    write(root / "classes.json", {"classes": ["sky", "road", "car"], "ignore_index": 9})
    return root


def test_folders_per_split(tmp_path: Path) -> None:
    source = SemanticSource(str(folder(tmp_path, {"train": 4, "val": 2, "test": 1})))
    data = DataModule(source, batch_size=2, augment=Augmentation(vflip=0, rotate90=0))
    data.bind(PAD)
    data.setup()
    assert data.categories == ("sky", "road", "car")
    assert [len(data.dataset(s)) for s in ("train", "val", "test")] == [4, 2, 1]
    sample = data.dataset("val")[1]
    expected = torch.from_numpy(classes_of(6).astype(np.int64))
    expected[expected == 9] = IGNORE
    assert sample.semantic is not None and sample.truth is not None
    assert torch.equal(sample.semantic, expected)
    assert sample.truth.semantic is not None and torch.equal(sample.truth.semantic, expected)
    assert sample.image_id == 6 and sample.boxes.shape == (0, 4)
    for batch in data.train_dataloader():
        assert batch.images.shape == (2, 3, 64, 64)
        for one in batch.samples:
            assert one.semantic is not None and one.semantic.dtype == torch.int64
            assert set(one.semantic.unique().tolist()) <= {0, 1, 2, IGNORE}
            assert (one.semantic[40:] == IGNORE).all()
    assert data.split_lists()["test"] == ["test/7.png"]


def test_windows_cut_image_and_mask_alike(tmp_path: Path) -> None:
    source = SemanticSource(str(folder(tmp_path, {"train": 1, "val": 1})), ignore=9)
    record = source.read("train", 0, 0, (10, 3, 20, 30))
    np.testing.assert_array_equal(record.image, picture(1)[3:33, 10:30])
    expected = classes_of(1)[3:33, 10:30]
    np.testing.assert_array_equal(record.semantic, np.where(expected == 9, IGNORE, expected))
    assert record.file_size == (40, 60)


def test_one_folder_is_split(tmp_path: Path) -> None:
    source = SemanticSource(str(folder(tmp_path, {"": 10})), val_split=0.2, test_split=0.1)
    assert [source.size(s) for s in ("train", "val", "test")] == [7, 2, 1]
    assert source.image_size("train", 0) == (40, 60)
    without_val = SemanticSource(str(folder(tmp_path / "b", {"train": 10, "test": 1})), val_split=0.3)
    assert [without_val.size(s) for s in ("train", "val", "test")] == [7, 3, 1]


def test_palette_masks_are_read_as_indices(tmp_path: Path) -> None:
    folder(tmp_path, {"train": 1, "val": 1})
    palette = Image.new("P", (60, 40))
    palette.putpalette([value for colour in range(256) for value in (255 - colour, colour, 7)])
    palette.putdata(classes_of(1).ravel().tolist())
    palette.save(tmp_path / "masks" / "train" / "1.png")
    record = SemanticSource(str(tmp_path)).read("train", 0, 0, None)
    expected = classes_of(1)
    np.testing.assert_array_equal(record.semantic, np.where(expected == 9, IGNORE, expected))


def test_coco_instances_as_classes(tmp_path: Path) -> None:
    data = content(2)
    data["annotations"] = [
        box_annotation(1, 1, (0, 0, 30, 30), category_id=5),
        box_annotation(2, 1, (10, 10, 5, 5)),
        box_annotation(3, 1, (40, 0, 10, 40), iscrowd=1),
        box_annotation(4, 2, (5, 5, 10, 10)),
    ]
    data["categories"].append({"id": 5, "name": "tissue"})
    write(tmp_path / "train.json", data)
    write(tmp_path / "val.json", data)
    write_images(tmp_path / "images", data)
    source = CocoSemanticSource(str(tmp_path))
    source.setup()
    assert source.categories == ("background", "cell", "tissue")
    record = source.read("train", 0, 0, None)
    expected = np.zeros((40, 60), int)
    expected[:30, :30] = 2
    expected[10:15, 10:15] = 1
    expected[:, 40:50] = IGNORE
    np.testing.assert_array_equal(record.semantic, expected)
    assert record.masks is None and len(record.boxes) == 0


def test_label_map_and_planes_give_the_same_classes() -> None:
    planes = np.zeros((2, 4, 6), np.uint8)
    planes[0, :2], planes[1, 3:] = 1, 1
    classes = np.array([7, IGNORE])
    flat = semantic_of(InstanceMasks.from_planes(planes), classes)
    np.testing.assert_array_equal(flat, semantic_of(InstanceMasks(2, planes=planes), classes))
    assert flat[0, 0] == 7 and flat[3, 0] == IGNORE and flat[2, 0] == 0


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere' does not exist"):
        SemanticSource(str(tmp_path / "nowhere")).setup()
    root = folder(tmp_path, {"train": 2, "val": 1})
    (root / "masks" / "train" / "2.png").unlink()
    with pytest.raises(UserError, match=r"2\.png' has no mask"):
        SemanticSource(str(root)).setup()
    Image.fromarray(classes_of(2)[:10]).save(root / "masks" / "train" / "2.png")
    with pytest.raises(UserError, match=r"2\.png' is 10x60 pixels .* 40x60"):
        SemanticSource(str(root)).read("train", 1, 0, None)
    Image.fromarray(picture(2)).save(root / "masks" / "train" / "2.png")
    with pytest.raises(UserError, match=r"2\.png' has colours"):
        SemanticSource(str(root)).read("train", 1, 0, None)
    write(root / "classes.json", ["sky", "road"])
    with pytest.raises(UserError, match=r"1\.png' has the value \d, but there are 2 classes"):
        SemanticSource(str(root)).read("train", 0, 0, None)
    (root / "classes.json").write_text(json.dumps(["sky"])[:4])
    with pytest.raises(UserError, match=r"classes\.json' is no complete JSON"):
        _ = SemanticSource(str(root)).categories
    (root / "classes.json").unlink()
    with pytest.raises(UserError, match=r"classes\.json' is missing"):
        _ = SemanticSource(str(root)).categories


def test_boxes_alone_cannot_be_classes(tmp_path: Path) -> None:
    data = content(1)
    data["annotations"][0]["segmentation"] = []
    write(tmp_path / "train.json", data)
    write(tmp_path / "val.json", data)
    write_images(tmp_path / "images", data)
    with pytest.raises(UserError, match="boxes alone"):
        CocoSemanticSource(str(tmp_path)).read("train", 0, 0, None)
