"""Foreign forms to COCO: round trips from exact data, official splits, and errors for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from maskwell.data.cells import CATEGORIES, CellImage, generate_cells
from maskwell.data.convert import convert, main
from maskwell.data.scenes import boxes_of
from maskwell.errors import UserError

SIZE = 96
SPLITS = {"train": 3, "val": 2, "test": 1}


@pytest.fixture(scope="module")
def cells() -> dict[str, dict[str, CellImage]]:
    """split -> stem -> image; with several objects each."""
    made: dict[str, dict[str, CellImage]] = {}
    for number, (split, count) in enumerate(SPLITS.items()):
        images = (generate_cells(9, number, i, SIZE) for i in range(60))
        found = [image for image in images if len(image.labels) >= 2][:count]
        made[split] = {f"{split}{i}": image for i, image in enumerate(found)}
    return made


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def load(root: Path, name: str) -> tuple[COCO, dict[str, dict[str, Any]]]:
    coco = COCO(root / name)
    return coco, {Path(image["file_name"]).stem: image for image in coco.imgs.values()}


def annotations(coco: COCO, image: dict[str, Any]) -> list[dict[str, Any]]:
    names = {c["id"]: c["name"] for c in coco.cats.values()}
    found = coco.loadAnns(coco.getAnnIds(image["id"]))
    return [{**a, "category": names[a["category_id"]]} for a in found]


def write_voc(root: Path, cells: dict[str, dict[str, CellImage]]) -> None:
    (root / "Annotations").mkdir(parents=True)
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for split, images in cells.items():
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(images) + "\n")
        for stem, made in images.items():
            save(root / "JPEGImages" / f"{stem}.png", made.image)
            objects = "".join(
                f"<object><name>{CATEGORIES[label]}</name><difficult>{int(label == 2)}</difficult><bndbox>"
                f"<xmin>{x0 + 1:.0f}</xmin><ymin>{y0 + 1:.0f}</ymin>"
                f"<xmax>{x1:.0f}</xmax><ymax>{y1:.0f}</ymax>"
                "</bndbox></object>"
                for label, (x0, y0, x1, y1) in zip(made.labels, boxes_of(made.masks), strict=True)
            )
            (root / "Annotations" / f"{stem}.xml").write_text(f"<annotation>{objects}</annotation>")


def test_voc_round_trip(cells: dict[str, dict[str, CellImage]], tmp_path: Path) -> None:
    write_voc(tmp_path / "voc", cells)
    convert("voc", tmp_path / "voc", tmp_path / "coco")
    for split, images in cells.items():
        coco, infos = load(tmp_path / "coco", f"{split}.json")
        assert set(infos) == set(images)
        for stem, made in images.items():
            assert (infos[stem]["width"], infos[stem]["height"]) == (SIZE, SIZE)
            found = annotations(coco, infos[stem])
            assert [a["category"] for a in found] == [CATEGORIES[label] for label in made.labels]
            expected = boxes_of(made.masks)
            expected[:, 2:] -= expected[:, :2]
            np.testing.assert_array_equal([a["bbox"] for a in found], expected)
            assert [a.get("difficult", 0) for a in found] == [int(label == 2) for label in made.labels]
            stored = np.asarray(Image.open(tmp_path / "coco" / "images" / infos[stem]["file_name"]))
            assert (stored == made.image).all()


def voc_of_one(root: Path, objects: str, prolog: str = "") -> Path:
    (root / "Annotations").mkdir(parents=True)
    save(root / "JPEGImages" / "a.jpg", np.zeros((20, 30, 3), np.uint8))
    (root / "Annotations" / "a.xml").write_text(f"{prolog}<annotation>{objects}</annotation>")
    return root


def voc_object(x0: float, y0: float, x1: float, y1: float) -> str:
    return (
        f"<object><name>cell</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin>"
        f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
    )


def test_voc_counting_from_zero_is_seen_boxes_are_clipped_and_empty_ones_left_out(tmp_path: Path) -> None:
    objects = voc_object(0, 0, 10, 5) + voc_object(25, 15, 40, 40) + voc_object(7, 7, 7, 9)
    dataset = convert("voc", voc_of_one(tmp_path / "voc", objects), tmp_path / "coco")
    content = json.loads((tmp_path / "coco" / "annotations" / "instances_default.json").read_text())
    assert [a["bbox"] for a in content["annotations"]] == [[0, 0, 10, 5], [25, 15, 5, 5]]
    assert dataset.notes == ["1 objects left out, boxes without area: a.xml"]


def test_voc_trainval_stands_in_for_train(tmp_path: Path) -> None:
    root = voc_of_one(tmp_path / "voc", voc_object(1, 1, 5, 5))
    save(root / "JPEGImages" / "b.jpg", np.zeros((20, 30, 3), np.uint8))
    (root / "Annotations" / "b.xml").write_text("<annotation/>")
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "trainval.txt").write_text("a\nb\n")
    (root / "ImageSets" / "Main" / "val.txt").write_text("b\n")
    dataset = convert("voc", root, tmp_path / "coco")
    assert {s: [p.path.stem for p in found] for s, found in dataset.splits.items()} == {
        "val": ["b"],
        "train": ["a"],
    }


def test_voc_entities_are_refused_unexpanded(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>'
    root = voc_of_one(tmp_path / "voc", "<object><name>&b;</name></object>", bomb)
    with pytest.raises(UserError, match="document type"):
        convert("voc", root, tmp_path / "coco")
    utf16 = (bomb + "<annotation/>").encode("utf-16")
    (root / "Annotations" / "a.xml").write_bytes(utf16)
    with pytest.raises(UserError, match="document type"):
        convert("voc", root, tmp_path / "coco")


def write_yolo(root: Path, cells: dict[str, dict[str, CellImage]], polygons: bool) -> None:
    for split, images in cells.items():
        (root / split / "labels").mkdir(parents=True)
        for stem, made in images.items():
            save(root / split / "images" / f"{stem}.png", made.image)
            lines = []
            for label, mask, box in zip(made.labels, made.masks, boxes_of(made.masks), strict=True):
                if polygons:
                    contours, _ = cv2.findContours(
                        mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
                    )
                    points = max(contours, key=len).reshape(-1) / SIZE
                    lines.append(f"{label} " + " ".join(f"{v:.6f}" for v in points))
                else:
                    x0, y0, x1, y1 = box / SIZE
                    lines.append(
                        f"{label} {(x0 + x1) / 2:.6f} {(y0 + y1) / 2:.6f} {x1 - x0:.6f} {y1 - y0:.6f}"
                    )
            (root / split / "labels" / f"{stem}.txt").write_text("\n".join(lines))
    names = "\n".join(f"  {i}: {name}" for i, name in enumerate(CATEGORIES))
    # As Roboflow writes it: paths that lead out of the folder, and 'valid'.
    (root / "data.yaml").write_text(
        f"train: ../train/images\nval: ../val/images\ntest: ../test/images\nnames:\n{names}\n"
    )


def test_yolo_boxes_round_trip(cells: dict[str, dict[str, CellImage]], tmp_path: Path) -> None:
    write_yolo(tmp_path / "yolo", cells, polygons=False)
    convert("yolo", tmp_path / "yolo", tmp_path / "coco")
    for split, images in cells.items():
        coco, infos = load(tmp_path / "coco", f"{split}.json")
        assert set(infos) == set(images)
        for stem, made in images.items():
            found = annotations(coco, infos[stem])
            assert [a["category"] for a in found] == [CATEGORIES[label] for label in made.labels]
            expected = boxes_of(made.masks)
            expected[:, 2:] -= expected[:, :2]
            np.testing.assert_allclose([a["bbox"] for a in found], expected, atol=2e-3)


def test_yolo_polygons_round_trip(cells: dict[str, dict[str, CellImage]], tmp_path: Path) -> None:
    write_yolo(tmp_path / "yolo", cells, polygons=True)
    convert("yolo", tmp_path / "yolo", tmp_path / "coco")
    overlaps = []
    for split, images in cells.items():
        coco, infos = load(tmp_path / "coco", f"{split}.json")
        for stem, made in images.items():
            for annotation, mask in zip(annotations(coco, infos[stem]), made.masks, strict=True):
                if mask.sum() > 150:
                    drawn = coco.annToMask(annotation).astype(bool)
                    overlaps.append((drawn & mask).sum() / (drawn | mask).sum())
                    assert annotation["area"] == pytest.approx(drawn.sum(), rel=0.15)
    assert len(overlaps) > 5 and min(overlaps) > 0.75


def yolo_of_one(root: Path, line: str) -> Path:
    save(root / "images" / "a.png", np.zeros((20, 30, 3), np.uint8))
    save(root / "images" / "empty.png", np.zeros((20, 30, 3), np.uint8))
    (root / "labels").mkdir(exist_ok=True)
    (root / "labels" / "a.txt").write_text(line)
    (root / "classes.txt").write_text("cell\nother\n")
    return root


def test_yolo_without_yaml_has_no_splits_and_keeps_empty_images(tmp_path: Path) -> None:
    convert("yolo", yolo_of_one(tmp_path / "yolo", "1 0.5 0.5 0.2 0.4\n"), tmp_path / "coco")
    content = json.loads((tmp_path / "coco" / "annotations" / "instances_default.json").read_text())
    assert [i["file_name"] for i in content["images"]] == ["a.png", "empty.png"]
    assert [a["bbox"] for a in content["annotations"]] == [[12, 6, 6, 8]]
    assert content["annotations"][0]["category_id"] == 2


def test_yolo_lists_of_images(tmp_path: Path) -> None:
    root = yolo_of_one(tmp_path / "yolo", "0 0.5 0.5 0.2 0.4\n")
    (root / "train.txt").write_text("./images/a.png\n")
    (root / "data.yaml").write_text("path: /elsewhere/data\ntrain: train.txt\nnames: [cell, other]\n")
    convert("yolo", root, tmp_path / "coco")
    content = json.loads((tmp_path / "coco" / "train.json").read_text())
    assert [i["file_name"] for i in content["images"]] == ["a.png"] and len(content["annotations"]) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 12 8 6 8", "are these pixels"),
        ("7 0.5 0.5 0.2 0.4", "class 7 has no name"),
        ("0 0.5 0.5 0.2", "3 numbers"),
        ("0 0.5 0.5 nan 0.4", "not finite"),
        ("cell 0.5 0.5 0.2 0.4", "could not convert"),
        ("inf 0.5 0.5 0.2 0.4", "infinity"),
    ],
)
def test_yolo_bad_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        convert("yolo", yolo_of_one(tmp_path / "yolo", f"0 0.5 0.5 0.1 0.1\n{line}\n"), tmp_path / "coco")
    assert "a.txt:2" in str(caught.value)
    assert not (tmp_path / "coco").exists()


def test_yolo_stays_in_its_folder(tmp_path: Path) -> None:
    root = yolo_of_one(tmp_path / "yolo", "")
    save(tmp_path / "secret" / "s.png", np.zeros((4, 4, 3), np.uint8))
    (root / "data.yaml").write_text("train: ../secret\nnames: [cell]\n")
    with pytest.raises(UserError, match="not to be found"):
        convert("yolo", root, tmp_path / "coco")
    (root / "data.yaml").write_text("train: list.txt\nnames: [cell]\n")
    (root / "list.txt").write_text("../secret/s.png\n")
    with pytest.raises(UserError, match="no file in"):
        convert("yolo", root, tmp_path / "coco")


@pytest.mark.parametrize("split_folders", [False, True])
def test_masks_round_trip(
    cells: dict[str, dict[str, CellImage]], tmp_path: Path, split_folders: bool
) -> None:
    for split, images in cells.items():
        base = tmp_path / "dsb" / split if split_folders else tmp_path / "dsb"
        for stem, made in images.items():
            save(base / stem / "images" / f"{stem}.png", made.image)
            for i, mask in enumerate(made.masks):
                save(base / stem / "masks" / f"{i:03d}.png", mask.astype(np.uint8) * 255)
    save(base / stem / "masks" / "999.png", np.zeros((SIZE, SIZE), np.uint8))
    dataset = convert("masks", tmp_path / "dsb", tmp_path / "coco", category="cell nucleus")
    assert dataset.notes == [f"1 objects left out, masks without a pixel: {stem}/999.png"]
    for split, images in cells.items():
        name = f"{split}.json" if split_folders else "annotations/instances_default.json"
        coco, infos = load(tmp_path / "coco", name)
        assert [c["name"] for c in coco.cats.values()] == ["cell nucleus"]
        for stem, made in images.items():
            found = annotations(coco, infos[stem])
            assert len(found) == len(made.masks)
            for annotation, mask in zip(found, made.masks, strict=True):
                assert (coco.annToMask(annotation) == mask).all() and annotation["area"] == mask.sum()


def test_masks_of_another_size_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "dsb" / "a" / "images" / "a.png", np.zeros((20, 30, 3), np.uint8))
    save(tmp_path / "dsb" / "a" / "masks" / "m.png", np.full((30, 20), 255, np.uint8))
    with pytest.raises(UserError, match=r"m\.png is 20x30 pixels, its image 30x20"):
        convert("masks", tmp_path / "dsb", tmp_path / "coco")


def test_sizes_follow_the_exif_orientation(tmp_path: Path) -> None:
    root = yolo_of_one(tmp_path / "yolo", "0 0.5 0.5 1 1\n")
    exif = Image.Exif()
    exif[0x0112] = 6
    (root / "images" / "a.png").unlink()
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(root / "images" / "a.jpg", exif=exif)
    convert("yolo", root, tmp_path / "coco")
    content = json.loads((tmp_path / "coco" / "annotations" / "instances_default.json").read_text())
    assert (content["images"][0]["height"], content["images"][0]["width"]) == (30, 20)
    assert content["annotations"][0]["bbox"] == [0, 0, 20, 30]


def test_equal_names_in_two_splits_stay_apart_and_links_share_the_file(tmp_path: Path) -> None:
    for split, grey in (("train", 10), ("val", 200)):
        save(tmp_path / "yolo" / split / "images" / "a.png", np.full((8, 8, 3), grey, np.uint8))
    (tmp_path / "yolo" / "data.yaml").write_text("train: train/images\nval: val/images\nnames: [cell]\n")
    convert("yolo", tmp_path / "yolo", tmp_path / "coco", link=True)
    for split, grey in (("train", 10), ("val", 200)):
        content = json.loads((tmp_path / "coco" / f"{split}.json").read_text())
        stored = tmp_path / "coco" / "images" / content["images"][0]["file_name"]
        assert np.asarray(Image.open(stored))[0, 0, 0] == grey
        assert stored.samefile(tmp_path / "yolo" / split / "images" / "a.png")


def test_the_target_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = yolo_of_one(tmp_path / "yolo", "0 0.5 0.5 0.2 0.4\n")
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "mine.txt").write_text("precious")
    assert main(["yolo", str(root), str(tmp_path / "coco")]) == 2
    assert "exists already" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "coco").iterdir()] == ["mine.txt"]


def test_the_command_line_says_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = yolo_of_one(tmp_path / "yolo", "0 0.5 0.5 0.2 0.4\n")
    assert main(["yolo", str(root), str(tmp_path / "coco")]) == 0
    assert "all: 2 images, 1 objects" in capsys.readouterr().out
    assert main(["voc", str(tmp_path / "nowhere"), str(tmp_path / "x")]) == 2
    assert "is no folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("form", "message"),
    [("voc", "Annotations"), ("yolo", "neither data.yaml"), ("masks", "no folder of the form")],
)
def test_a_folder_of_another_form_is_named(tmp_path: Path, form: str, message: str) -> None:
    (tmp_path / "src").mkdir()
    with pytest.raises(UserError, match=message):
        convert(form, tmp_path / "src", tmp_path / "dst")
    assert not (tmp_path / "dst").exists()


def test_a_broken_image_or_xml_is_named(tmp_path: Path) -> None:
    root = voc_of_one(tmp_path / "voc", voc_object(1, 1, 5, 5))
    (root / "JPEGImages" / "a.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"a\.jpg.* cannot be decoded"):
        convert("voc", root, tmp_path / "coco")
    (root / "Annotations" / "a.xml").write_text("<annotation><object>")
    with pytest.raises(UserError, match=r"a\.xml is no well-formed XML"):
        convert("voc", root, tmp_path / "coco")
