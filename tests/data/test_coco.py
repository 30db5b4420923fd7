"""The COCO source against pycocotools; the layouts it knows; bad files as sentences."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from maskwell.data.coco import CocoSource
from maskwell.data.source import Split
from maskwell.errors import UserError
from tests.data.coco_folder import box_annotation, content, dataset, picture, write, write_images


def sizes(source: CocoSource) -> list[int]:
    splits: tuple[Split, ...] = ("train", "val", "test")
    return [source.size(split) for split in splits]


@pytest.fixture
def all_forms(tmp_path: Path) -> Path:
    """One image with polygons (one object of two), both kinds of RLE, a crowd, and category gaps."""
    data = content(1)
    plane = np.zeros((40, 60), np.uint8)
    plane[5:25, 30:50] = np.random.default_rng(0).random((20, 20)) > 0.4
    compressed = coco_mask.encode(np.asfortranarray(plane))
    crowd = np.zeros((40, 60), np.uint8)
    crowd[20:38, 2:30] = 1
    flat = crowd.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    text = {"size": [40, 60], "counts": compressed["counts"].decode()}
    triangles = [[2.5, 3.0, 17.2, 8.0, 6.0, 19.9], [20, 2, 28, 2, 24, 9.5]]
    data["annotations"] = [
        box_annotation(1, 1, (2.5, 2, 25.5, 17.9), segmentation=triangles, category_id=90),
        box_annotation(2, 1, tuple(coco_mask.toBbox(compressed)), segmentation=text, category_id=7),
        box_annotation(
            3, 1, (2, 20, 28, 18), segmentation={"size": [40, 60], "counts": counts}, category_id=7, iscrowd=1
        ),
    ]
    data["categories"] = [{"id": 90, "name": "zebra"}, {"id": 7, "name": "cell"}]
    write(tmp_path / "train.json", data)
    write(tmp_path / "val.json", data)
    write_images(tmp_path / "images", data)
    return tmp_path


@pytest.mark.parametrize("window", [None, (0, 0, 60, 40), (10, 4, 25, 20), (28, 0, 32, 40), (0, 39, 3, 1)])
def test_masks_boxes_and_labels_equal_pycocotools(
    all_forms: Path, window: tuple[int, int, int, int] | None
) -> None:
    source = CocoSource(str(all_forms))
    source.setup()
    assert (source.categories, source.category_ids) == (("cell", "zebra"), (7, 90))
    record = source.read("train", 0, 0, window)
    x, y, w, h = window or (0, 0, 60, 40)
    np.testing.assert_array_equal(record.image, picture(1)[y : y + h, x : x + w])
    reference = COCO(str(all_forms / "train.json"))
    rows = 0
    for number, label in ((1, 1), (2, 0), (3, 0)):
        whole = reference.annToMask(reference.anns[number]).astype(bool)
        cut = whole[y : y + h, x : x + w]
        if not cut.any():
            continue
        assert record.masks is not None
        np.testing.assert_array_equal(record.masks.to_planes()[rows], cut)
        assert record.labels[rows] == label
        assert record.iscrowd[rows] == (number == 3)
        assert record.visible[rows] == pytest.approx(cut.sum() / whole.sum())
        if cut.sum() == whole.sum():
            bx, by, bw, bh = reference.anns[number]["bbox"]
            assert record.boxes[rows] == pytest.approx([bx - x, by - y, bx + bw - x, by + bh - y])
            assert record.area[rows] == pytest.approx(reference.anns[number]["area"])
        else:
            ys, xs = np.nonzero(cut)
            assert record.boxes[rows].tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            assert record.area[rows] == cut.sum()
        rows += 1
    assert len(record.labels) == rows


def test_reading_twice_gives_the_same_and_masks_stay_encoded(all_forms: Path) -> None:
    source = CocoSource(str(all_forms))
    first, second = (source.read("train", 0, epoch, None) for epoch in (0, 5))
    assert first.masks is not None and second.masks is not None
    np.testing.assert_array_equal(first.masks.to_planes(), second.masks.to_planes())
    assert all(isinstance(found, dict) for found in source.index["train"][0].segmentations)


def test_boxes_alone_are_cut_at_the_window(tmp_path: Path) -> None:
    dataset(tmp_path)
    for split in ("train", "val", "test"):
        data = json.loads((tmp_path / f"{split}.json").read_text())
        for annotation in data["annotations"]:
            annotation["segmentation"] = []
        write(tmp_path / f"{split}.json", data)
    source = CocoSource(str(tmp_path))
    record = source.read("train", 0, 0, (14, 0, 46, 40))
    assert record.masks is None
    assert record.boxes.tolist() == [[0, 6, 10, 16]]
    assert record.visible.tolist() == [0.5]
    assert record.area.tolist() == [100]
    assert len(source.read("train", 0, 0, (24, 0, 36, 40)).boxes) == 0


def test_an_object_with_a_box_alone_among_masks_is_its_filled_box(tmp_path: Path) -> None:
    dataset(tmp_path)
    data = json.loads((tmp_path / "train.json").read_text())
    data["annotations"].append(box_annotation(99, 1, (30, 20, 10, 5), segmentation=[]))
    data["annotations"].append(box_annotation(98, 1, (50, 2, 4, 4), segmentation=[[1, 2, 3, 4]]))
    write(tmp_path / "train.json", data)
    record = CocoSource(str(tmp_path)).read("train", 0, 0, None)
    assert record.masks is not None
    assert record.masks.areas().tolist() == [200, 50, 16]


def test_missing_boxes_come_from_the_masks(all_forms: Path) -> None:
    data = json.loads((all_forms / "train.json").read_text())
    boxes = [annotation.pop("bbox") for annotation in data["annotations"]]
    write(all_forms / "train.json", data)
    found = CocoSource(str(all_forms)).index["train"][0].boxes
    for box, (x, y, w, h) in zip(found, boxes, strict=True):
        assert np.abs(box - [x, y, x + w, y + h]).max() <= 0.11


def test_images_without_annotations_and_without_sizes(tmp_path: Path) -> None:
    dataset(tmp_path)
    data = json.loads((tmp_path / "train.json").read_text())
    data["annotations"] = data["annotations"][:1]
    for entry in data["images"]:
        del entry["height"], entry["width"]
    write(tmp_path / "train.json", data)
    source = CocoSource(str(tmp_path))
    source.setup()
    assert source.num_objects("train") == 1
    record = source.read("train", 3, 0, None)
    assert record.masks is not None and record.masks.to_planes().shape == (0, 40, 60)
    assert source.image_size("train", 3) == (40, 60)


# Layouts ----------------------------------------------------------------------------------------


def test_one_file_per_split(tmp_path: Path) -> None:
    source = CocoSource(str(dataset(tmp_path)))
    assert sizes(source) == [4, 2, 2]
    assert source.split_lists()["val"] == ["5.png", "6.png"]


def test_training_without_validation_file_is_split(tmp_path: Path) -> None:
    dataset(tmp_path, train=10)
    (tmp_path / "val.json").unlink()
    assert sizes(CocoSource(str(tmp_path), val_split=0.3)) == [7, 3, 2]


@pytest.mark.parametrize("suffix", ["", "2017"])
@pytest.mark.parametrize("folder", ["images", "{split}{suffix}", "images/{split}{suffix}"])
def test_instances_files(tmp_path: Path, suffix: str, folder: str) -> None:
    for split, first in (("train", 1), ("val", 5)):
        data = content(4, first)
        write(tmp_path / "annotations" / f"instances_{split}{suffix}.json", data)
        write_images(tmp_path / folder.format(split=split, suffix=suffix), data)
    source = CocoSource(str(tmp_path))
    assert sizes(source) == [4, 4, 0]
    np.testing.assert_array_equal(source.read("val", 0, 0, None).image, picture(5))


def test_roboflow(tmp_path: Path) -> None:
    for word, first in (("train", 1), ("valid", 5), ("test", 7)):
        data = content(2, first)
        data["categories"] = [
            {"id": 0, "name": "cells", "supercategory": "none"},
            {"id": 1, "name": "cell", "supercategory": "cells"},
        ]
        write(tmp_path / word / "_annotations.coco.json", data)
        write_images(tmp_path / word, data)
    source = CocoSource(str(tmp_path))
    assert sizes(source) == [2, 2, 2]
    assert (source.categories, source.category_ids) == (("cell",), (1,))
    assert source.read("test", 1, 0, None).labels.tolist() == [0]


@pytest.mark.parametrize("name", ["annotations/instances_default.json", "result.json"])
def test_one_file_is_split_by_group_seeded(tmp_path: Path, name: str) -> None:
    data = content(40)
    for entry in data["images"]:
        entry["patient"] = entry["id"] // 4
    write(tmp_path / name, data)
    write_images(tmp_path / "images", data)
    source = CocoSource(str(tmp_path), val_split=0.2, test_split=0.1, group_key="patient", seed=3)
    lists = source.split_lists()
    assert sum(map(len, lists.values())) == 40
    assert 4 <= len(lists["val"]) <= 8 and 1 <= len(lists["test"]) <= 4
    patients = {split: {int(file[:-4]) // 4 for file in files} for split, files in lists.items()}
    assert not patients["train"] & patients["val"] and not patients["test"] & (
        patients["train"] | patients["val"]
    )
    again = CocoSource(str(tmp_path), val_split=0.2, test_split=0.1, group_key="patient", seed=3)
    other = CocoSource(str(tmp_path), val_split=0.2, test_split=0.1, group_key="patient", seed=4)
    assert again.split_lists() == lists != other.split_lists()


def test_near_duplicates_stay_together(tmp_path: Path) -> None:
    data = content(20)
    write(tmp_path / "all.json", data)
    write_images(tmp_path / "images", data)
    for number in range(2, 11):  # half of the images show the same, a little brighter each
        pixels = np.clip(picture(1).astype(int) + number, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    same = {f"{number}.png" for number in range(1, 11)}
    for seed in range(5):
        lists = CocoSource(str(tmp_path), val_split=0.3, test_split=0.1, seed=seed).split_lists()
        assert sum(bool(same & set(files)) for files in lists.values()) == 1
    parted = CocoSource(str(tmp_path), val_split=0.3, near_duplicates=False).split_lists()
    assert sum(bool(same & set(files)) for files in parted.values()) > 1


def test_explicit_paths(tmp_path: Path) -> None:
    data = content(2)
    write(tmp_path / "a.json", data)
    write(tmp_path / "b.json", content(2, 3))
    write_images(tmp_path / "pictures", data)
    write_images(tmp_path / "pictures", content(2, 3))
    source = CocoSource(str(tmp_path), images="pictures", train="a.json", val="b.json")
    assert sizes(source) == [2, 2, 0]


# Bad input --------------------------------------------------------------------------------------


def broken(root: Path, **changes: Any) -> CocoSource:
    """A dataset whose training file has ``images[0]`` or ``annotations[0]`` changed."""
    dataset(root)
    data = json.loads((root / "train.json").read_text())
    for key, change in changes.items():
        data[key][0] |= change
    write(root / "train.json", data)
    return CocoSource(str(root))


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere' does not exist.*data\.root"):
        CocoSource(str(tmp_path / "nowhere")).setup()


def test_folder_without_annotations(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no COCO annotations"):
        CocoSource(str(tmp_path)).setup()


def test_several_files_of_unknown_use(tmp_path: Path) -> None:
    write(tmp_path / "a.json", content(1))
    write(tmp_path / "b.json", content(1))
    with pytest.raises(UserError, match=r"a\.json, b\.json.*data\.train"):
        CocoSource(str(tmp_path)).setup()


def test_named_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.val names .*none\.json.*does not exist"):
        CocoSource(str(dataset(tmp_path)), train="train.json", val="none.json").setup()


def test_json_cut_off_half_way(tmp_path: Path) -> None:
    dataset(tmp_path)
    text = (tmp_path / "train.json").read_text()
    (tmp_path / "train.json").write_text(text[: len(text) // 2])
    with pytest.raises(UserError, match=r"train\.json' is no complete JSON.*cut off"):
        CocoSource(str(tmp_path)).setup()


@pytest.mark.parametrize("data", [[], {"images": 3}, {"images": []}, {"images": [], "categories": 1}])
def test_json_that_is_no_coco_file(tmp_path: Path, data: object) -> None:
    dataset(tmp_path)
    write(tmp_path / "train.json", data)
    with pytest.raises(UserError, match=r"train\.json' is no COCO file"):
        CocoSource(str(tmp_path)).setup()


def test_annotation_to_an_unknown_image(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Annotation 10 in .*train\.json' belongs to image 77"):
        broken(tmp_path, annotations={"image_id": 77}).setup()


def test_unknown_category(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Annotation 10 in .*train\.json' has the category 5"):
        broken(tmp_path, annotations={"category_id": 5}).setup()


@pytest.mark.parametrize("name", ["../../x.png", "/etc/passwd", "a/../../x.png", "..\\x.png", "C:\\x.png"])
def test_file_name_that_leaves_the_root(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"file_name '.*train\.json' leaves the image folder"):
        broken(tmp_path, images={"file_name": name}).setup()


def test_file_name_with_dots_inside_is_fine(tmp_path: Path) -> None:
    source = broken(tmp_path, images={"file_name": "sub/../..2.png"})
    Image.fromarray(picture(1)).save(tmp_path / "images" / "..2.png")
    source.setup()


@pytest.mark.parametrize(
    "box",
    [[float("nan"), 1, 2, 3], [1, 2, -3, 4], [1, 2, 3, float("inf")], [1, 2, 3], "box", [1, 2, 3, None]],
)
def test_bad_boxes(tmp_path: Path, box: object) -> None:
    with pytest.raises(UserError, match=r"Annotation 10 in .*train\.json' has the box"):
        broken(tmp_path, annotations={"bbox": box}).setup()


def test_zero_objects(tmp_path: Path) -> None:
    dataset(tmp_path)
    data = json.loads((tmp_path / "train.json").read_text())
    data["annotations"] = [data["annotations"][0] | {"iscrowd": 1}]
    write(tmp_path / "train.json", data)
    with pytest.raises(UserError, match=r"have 0 objects"):
        CocoSource(str(tmp_path)).setup()


def test_missing_image(tmp_path: Path) -> None:
    source = broken(tmp_path)
    (tmp_path / "images" / "3.png").unlink()
    with pytest.raises(UserError, match=r"1 of 4 images of .*train\.json' are missing.*3\.png"):
        source.setup()


def test_no_image_found(tmp_path: Path) -> None:
    source = broken(tmp_path)
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"'1\.png'\) were not found .*data\.images"):
        source.setup()


def test_image_that_does_not_decode(tmp_path: Path) -> None:
    source = broken(tmp_path)
    (tmp_path / "images" / "1.png").write_bytes(b"nothing")
    source.setup()
    with pytest.raises(UserError, match=r"1\.png' cannot be decoded"):
        source.read("train", 0, 0, None)


def test_image_of_another_size(tmp_path: Path) -> None:
    source = broken(tmp_path, images={"height": 60, "width": 40})
    with pytest.raises(UserError, match=r"1\.png' is 40x60 pixels .* annotations are for 60x40"):
        source.read("train", 0, 0, None)


@pytest.mark.parametrize(
    "mask",
    [
        {"size": [40, 60], "counts": "0"},
        {"size": [10, 10], "counts": [50, 50]},
        {"size": [40, 60], "counts": [1, 2, 3]},
        {"size": [40, 60]},
        [[1.0, 2.0, float("nan"), 4.0, 5.0, 9.0]],
    ],
)
def test_masks_that_do_not_decode(tmp_path: Path, mask: object) -> None:
    source = broken(tmp_path, annotations={"segmentation": mask})
    with pytest.raises(UserError, match=r"nnotation 10 (on|in) .*cannot be (decoded|used)"):
        source.read("train", 0, 0, None)


def test_ids_twice_and_categories_that_disagree(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Two images .* have the id 2"):
        broken(tmp_path / "a", images={"id": 2}).setup()
    dataset(tmp_path / "b")
    data = json.loads((tmp_path / "b" / "val.json").read_text())
    renamed = copy.deepcopy(data)
    renamed["categories"][0]["name"] = "nucleus"
    write(tmp_path / "b" / "val.json", renamed)
    with pytest.raises(UserError, match=r"Category 1 is 'nucleus' in .*val\.json.*'cell'"):
        CocoSource(str(tmp_path / "b")).setup()
    data["categories"].append({"id": 2, "name": "cell"})
    write(tmp_path / "b" / "val.json", data)
    with pytest.raises(UserError, match="'cell' has several ids"):
        CocoSource(str(tmp_path / "b")).setup()


@pytest.mark.parametrize(("val", "test"), [(1.0, 0.0), (0.5, 0.5), (-0.1, 0.1)])
def test_shares_that_leave_nothing(tmp_path: Path, val: float, test: float) -> None:
    data = content(4)
    write(tmp_path / "all.json", data)
    write_images(tmp_path / "images", data)
    with pytest.raises(UserError, match=r"data\.val_split"):
        CocoSource(str(tmp_path), val_split=val, test_split=test).setup()
