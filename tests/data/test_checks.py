"""Data checks: each fault, sown into a sound dataset, is found under its code and no other."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_api

from maskwell.data.checks import check_dataset, main
from maskwell.data.findings import CODES, Finding
from maskwell.errors import UserError

HEIGHT, WIDTH = 40, 48
Content = dict[str, dict[str, Any]]
BOXES = [(2, 3, 10, 12), (20, 5, 15, 10), (5, 22, 12, 14), (30, 20, 16, 18)]


def sound() -> Content:
    """Two splits, two categories, boxes, polygons and both kinds of run lengths."""
    contents: Content = {}
    for split, count in (("train", 6), ("val", 3)):
        images, annotations = [], []
        for i in range(count):
            images.append({"id": i, "file_name": f"{split}{i}.png", "height": HEIGHT, "width": WIDTH})
            for k, (x, y, w, h) in enumerate(BOXES):
                mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
                mask[y : y + h, x : x + w] = 1
                annotations.append(
                    {
                        "id": 10 * i + k,
                        "image_id": i,
                        "category_id": 1 + k % 2,
                        "bbox": [x, y, w, h],
                        "area": w * h,
                        "iscrowd": 0,
                        "segmentation": _segmentation(mask, k, (x, y, w, h)),
                    }
                )
        categories = [{"id": 1, "name": "cell"}, {"id": 2, "name": "debris"}]
        contents[split] = {"images": images, "annotations": annotations, "categories": categories}
    return contents


def _segmentation(mask: np.ndarray, kind: int, box: tuple[int, int, int, int]) -> Any:
    x, y, w, h = box
    if kind == 0:
        return [[x, y, x + w, y, x + w, y + h, x, y + h]]
    if kind == 1:
        flat = mask.reshape(-1, order="F")
        edges = np.flatnonzero(np.diff(flat)) + 1
        return {"size": [HEIGHT, WIDTH], "counts": np.diff([0, *edges, flat.size]).tolist()}
    encoded = mask_api.encode(mask)
    return {"size": [HEIGHT, WIDTH], "counts": encoded["counts"].decode()}


def write(root: Path, contents: Content) -> Path:
    (root / "images").mkdir(parents=True, exist_ok=True)
    for number, (split, content) in enumerate(contents.items()):
        (root / f"{split}.json").write_text(json.dumps(content))
        for i in range(6 if split == "train" else 3):
            coarse = np.random.default_rng([number, i]).integers(0, 256, (5, 6, 3), np.uint8)
            pixels = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST)
            Image.fromarray(pixels).save(root / "images" / f"{split}{i}.png")
    return root


def serious(findings: list[Finding]) -> dict[str, int]:
    return {f.code: f.count for f in findings if f.severity != "info"}


@pytest.mark.parametrize("fast", [False, True])
def test_a_sound_dataset_has_no_faults(tmp_path: Path, fast: bool) -> None:
    findings = check_dataset(write(tmp_path, sound()), fast=fast)
    assert serious(findings) == {}
    (fact,) = findings
    assert fact.code == "objects-per-image" and "median 4, most 4, 36 in all" in fact.message


def _annotation(contents: Content, number: int = 0) -> dict[str, Any]:
    return contents["train"]["annotations"][number]


def _set(key: str, value: Any, number: int = 0) -> Callable[[Content], None]:
    return lambda contents: _annotation(contents, number).update({key: value})


def _each_box(change: Callable[[list[float]], list[float]]) -> Callable[[Content], None]:
    def mutate(contents: Content) -> None:
        for annotation in contents["train"]["annotations"]:
            annotation["bbox"] = change(annotation["bbox"])
            del annotation["segmentation"]

    return mutate


def _image(key: str, value: Any) -> Callable[[Content], None]:
    return lambda contents: contents["train"]["images"][0].update({key: value})


def _keep_rare(contents: Content) -> None:
    for annotation in contents["train"]["annotations"][1:]:
        annotation["category_id"] = 1
    _annotation(contents)["category_id"] = 2


FAULTS: list[tuple[str, int, Callable[[Content], None]]] = [
    ("category-unknown", 1, _set("category_id", 9)),
    ("image-unknown", 1, _set("image_id", 99)),
    ("entry-malformed", 1, lambda c: c["train"]["annotations"].append({"id": 900})),
    ("entry-malformed", 1, lambda c: c["train"]["categories"].append({"id": 900})),
    ("id-duplicate", 1, _set("id", 1)),
    ("id-duplicate", 1, lambda c: c["train"]["images"].append(c["train"]["images"][0])),
    ("categories-differ", 1, lambda c: c["val"]["categories"][1].update(name="other")),
    ("categories-differ", 1, lambda c: c["val"]["categories"].append({"id": 3, "name": "other"})),
    ("path-outside", 1, lambda c: c["train"]["images"].append(
        {"id": 99, "file_name": "../../x.png", "height": 4, "width": 4})),
    ("path-outside", 1, lambda c: c["train"]["images"].append(
        {"id": 99, "file_name": "C:\\x.png", "height": 4, "width": 4})),
    ("image-missing", 1, _image("file_name", "nowhere.png")),
    ("image-missing", 1, _image("file_name", "x" * 400 + ".png")),
    ("box-invalid", 1, _set("bbox", [1, 2, math.nan, 4])),
    ("box-invalid", 1, _set("bbox", [1, 2, 3])),
    ("box-invalid", 1, _set("bbox", [1, 2, 10**400, 4])),
    ("box-format", 24, _each_box(lambda b: [b[0] / 48, b[1] / 40, b[2] / 48, b[3] / 40])),
    ("polygon-invalid", 1, _set("segmentation", [[2, 3, 12, 15]])),
    ("polygon-invalid", 1, _set("segmentation", [[2, 3, 12, 3, 12, 15, 2]])),
    ("polygon-invalid", 1, _set("segmentation", [[2, 3, 12, math.inf, 12, 15]])),
    ("rle-size", 1, _set("segmentation", {"size": [WIDTH, HEIGHT], "counts": [5, 1915]})),
    ("rle-invalid", 1, _set("segmentation", {"size": [HEIGHT, WIDTH], "counts": [5, 10]})),
    ("rle-invalid", 1, _set("segmentation", {"size": [HEIGHT, WIDTH], "counts": "oooo"})),
    ("box-duplicate", 1, lambda c: c["train"]["annotations"].append({**_annotation(c), "id": 901})),
    ("box-duplicate", 1, lambda c: c["train"]["annotations"].append(
        {**_annotation(c, 3), "id": 901, "bbox": [30.4, 20.2, 16, 18]})),
    ("mask-empty", 1, _set("segmentation", {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]})),
    ("mask-missing", 1, _set("segmentation", [])),
    ("mask-box-disagree", 1, _set("bbox", [25, 20, 10, 12])),
    ("mask-box-disagree", 1, _set("bbox", [30, 25, 6, 7], number=2)),
    ("split-empty", 1, lambda c: c["val"].update(annotations=[])),
    ("category-unused", 1, lambda c: [ct["categories"].append({"id": 3, "name": "x"}) for ct in c.values()]),
    ("class-imbalance", 2, _keep_rare),
]  # fmt: skip


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(("code", "count", "mutate"), FAULTS)
def test_each_fault_is_found_alone(
    tmp_path: Path, code: str, count: int, mutate: Callable[[Content], None], fast: bool
) -> None:
    contents = sound()
    mutate(contents)
    findings = check_dataset(write(tmp_path, contents), fast=fast)
    assert serious(findings) == {code: count}
    finding = next(f for f in findings if f.code == code)
    assert finding.severity == CODES[code][0]
    assert 1 <= len(finding.examples) <= 3 and all(finding.examples)


def test_boxes_given_as_corners_are_recognised(tmp_path: Path) -> None:
    contents = sound()
    _each_box(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])(contents)
    (finding,) = [f for f in check_dataset(write(tmp_path, contents)) if f.severity == "error"]
    assert finding.code == "box-format" and "corners" in finding.examples[0]


def test_boxes_out_of_the_image_and_without_area(tmp_path: Path) -> None:
    contents = sound()
    for number, box in enumerate([[40, 30, 30, 30], [-5, 3, 10, 10], [3, 3, 0, 10], [0.4, 0.2, 48, 40]]):
        _annotation(contents, number).update(bbox=box)
    for annotation in contents["train"]["annotations"]:
        del annotation["segmentation"]
    assert serious(check_dataset(write(tmp_path, contents))) == {"box-outside": 2, "box-zero-area": 1}


def test_sizes_may_be_left_out(tmp_path: Path) -> None:
    contents = sound()
    for image in contents["train"]["images"]:
        del image["height"], image["width"]
    assert serious(check_dataset(write(tmp_path, contents))) == {}


def test_crowds_are_no_objects(tmp_path: Path) -> None:
    contents = sound()
    for annotation in contents["train"]["annotations"]:
        annotation["iscrowd"] = 1
    assert "objects-none" in serious(check_dataset(write(tmp_path, contents)))


def test_the_placeholder_category_of_roboflow_is_no_fault(tmp_path: Path) -> None:
    contents = sound()
    for content in contents.values():
        for category in content["categories"]:
            category["supercategory"] = "cells"
        content["categories"].append({"id": 0, "name": "cells", "supercategory": "none"})
    assert serious(check_dataset(write(tmp_path, contents))) == {}


def test_a_training_split_without_objects_is_an_error(tmp_path: Path) -> None:
    contents = sound()
    contents["train"]["annotations"] = []
    found = serious(check_dataset(write(tmp_path, contents), fast=True))
    assert found["objects-none"] == 1


def test_images_without_objects_are_counted(tmp_path: Path) -> None:
    contents = sound()
    annotations = contents["train"]["annotations"]
    contents["train"]["annotations"] = [a for a in annotations if a["image_id"] > 0]
    (fact,) = [f for f in check_dataset(write(tmp_path, contents)) if f.code == "images-empty"]
    assert (fact.severity, fact.count, fact.examples) == ("info", 1, ("train/train0.png",))
    contents["train"]["annotations"] = [a for a in annotations if a["image_id"] == 0]
    (fact,) = [f for f in check_dataset(write(tmp_path, contents)) if f.code == "images-empty"]
    assert (fact.severity, fact.count) == ("warning", 5)


@pytest.mark.parametrize("fast", [False, True])
def test_leaks_between_splits(tmp_path: Path, fast: bool) -> None:
    root = write(tmp_path, sound())
    (root / "images" / "val0.png").write_bytes((root / "images" / "train0.png").read_bytes())
    (root / "images" / "train2.png").write_bytes((root / "images" / "train1.png").read_bytes())
    assert serious(check_dataset(root, fast=fast)) == {"leak-exact": 1, "image-duplicate": 1}


def test_leaks_are_seen_through_other_encodings_and_small_changes(tmp_path: Path) -> None:
    root = write(tmp_path, sound())
    pixels = np.asarray(Image.open(root / "images" / "train0.png"))
    Image.fromarray(pixels).save(root / "images" / "val0.png", compress_level=0)
    changed = np.clip(np.asarray(Image.open(root / "images" / "train1.png")).astype(int) + 3, 0, 255)
    Image.fromarray(changed.astype(np.uint8)).save(root / "images" / "val1.png")
    findings = check_dataset(root)
    assert serious(findings) == {"leak-exact": 1, "leak-near": 1}
    assert findings[0].examples == ("train/train0.png = val/val0.png",)
    assert findings[1].examples == ("train/train1.png ~ val/val1.png",)


@pytest.mark.parametrize("fast", [False, True])
def test_bad_image_files(tmp_path: Path, fast: bool) -> None:
    root = write(tmp_path, sound())
    (root / "images" / "train0.png").write_bytes(b"no image at all")
    Image.fromarray(np.zeros((WIDTH, HEIGHT, 3), np.uint8)).save(root / "images" / "train1.png")
    assert serious(check_dataset(root, fast=fast)) == {"image-corrupt": 1, "image-size": 1}


def test_only_the_full_form_decodes(tmp_path: Path) -> None:
    contents = sound()
    _image("file_name", "train0.jpg")(contents)
    root = write(tmp_path, contents)
    path = root / "images" / "train0.jpg"
    Image.open(path.with_suffix(".png")).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    assert serious(check_dataset(root, fast=True)) == {}
    assert serious(check_dataset(root)) == {"image-corrupt": 1}


@pytest.mark.parametrize("text", ['{"images": [', "[]", '{"images": [], "annotations": {}}', "", "\xff"])
def test_broken_json_is_a_finding(tmp_path: Path, text: str) -> None:
    root = write(tmp_path, sound())
    (root / "val.json").write_bytes(text.encode("latin-1"))
    assert serious(check_dataset(root)) == {"json-unreadable": 1}


def test_one_file_without_splits(tmp_path: Path) -> None:
    contents = sound()
    root = write(tmp_path, {"train": contents["train"]})
    (root / "annotations").mkdir()
    (root / "train.json").rename(root / "annotations" / "instances_default.json")
    (fact,) = check_dataset(root)
    assert fact.examples[0].startswith("all/train")


def _leaves(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(leaf for key, child in children for leaf in _leaves(child, (*path, key)))]


def test_no_damage_to_the_json_makes_the_checks_raise(tmp_path: Path) -> None:
    root, rng = write(tmp_path, sound()), np.random.default_rng(0)
    junk: list[Any] = [
        None,
        True,
        -1,
        1e308,
        10**400,
        math.nan,
        "x",
        "",
        [],
        {},
        [[]],
        {"size": 3},
        "\0",
        [None],
    ]
    intact = sound()
    places = _leaves(intact["train"])[1:]
    for _ in range(120):
        content = copy.deepcopy(intact["train"])
        place = places[int(rng.integers(len(places)))]
        node = content
        for key in place[:-1]:
            node = node[key]
        node[place[-1]] = junk[int(rng.integers(len(junk)))]
        (root / "train.json").write_text(json.dumps(content))
        for finding in check_dataset(root, fast=True):
            assert finding.count > 0 and finding.code in CODES


def test_the_exit_code_tells_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    contents = sound()
    _keep_rare(contents)
    root = write(tmp_path, contents)
    assert main([str(root)]) == 0
    assert "class-imbalance" in capsys.readouterr().out
    (root / "images" / "train0.png").unlink()
    assert main([str(root), "--fast"]) == 1
    printed = capsys.readouterr().out
    assert "image-missing" in printed and "1 kinds of errors, 1 kinds of warnings" in printed
    assert main([str(root / "nowhere")]) == 2
    with pytest.raises(UserError):
        check_dataset(root / "images")


def test_markup_in_file_names_is_printed_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    contents = sound()
    _image("file_name", "[red]x[/].png")(contents)
    assert main([str(write(tmp_path, contents))]) == 1
    assert "[red]x[/].png" in capsys.readouterr().out
