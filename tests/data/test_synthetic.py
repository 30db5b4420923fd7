"""Generated cells: exact masks, determinism, and a folder that appears whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from maskwell.data import synthetic
from maskwell.data.cells import CATEGORIES, generate_cells
from maskwell.data.synthetic import cache_folder, cached_cells, write_cells
from maskwell.errors import UserError

COUNTS = (5, 2, 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cells") / "data"
    write_cells(root, seed=5, counts=COUNTS, size=128)
    return root


def test_files_decode_to_the_generated_pixels_and_masks(folder: Path) -> None:
    for number, split in enumerate(("train", "val", "test")):
        coco = COCO(folder / f"{split}.json")
        assert len(coco.imgs) == COUNTS[number]
        for index, (image_id, info) in enumerate(sorted(coco.imgs.items())):
            made = generate_cells(5, number, index, 128)
            stored = cv2.imread(str(folder / "images" / info["file_name"]))[..., ::-1]
            assert (stored == made.image).all()
            annotations = coco.loadAnns(coco.getAnnIds(image_id))
            assert [a["category_id"] - 1 for a in annotations] == made.labels.tolist()
            for annotation, mask in zip(annotations, made.masks, strict=True):
                assert (coco.annToMask(annotation).astype(bool) == mask).all()
                y, x = np.nonzero(mask)
                box = [x.min(), y.min(), x.max() + 1 - x.min(), y.max() + 1 - y.min()]
                assert annotation["bbox"] == box
                assert annotation["area"] == mask.sum() > 0


def test_ids_are_unique_over_all_splits(folder: Path) -> None:
    contents = [json.loads((folder / f"{s}.json").read_text()) for s in ("train", "val", "test")]
    ids = [image["id"] for content in contents for image in content["images"]]
    assert len(set(ids)) == len(ids) == sum(COUNTS)


def test_the_same_seed_writes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    write_cells(tmp_path / "again", seed=5, counts=COUNTS, size=128)
    write_cells(tmp_path / "other", seed=6, counts=COUNTS, size=128)
    for path in folder.rglob("*.*"):
        assert (tmp_path / "again" / path.relative_to(folder)).read_bytes() == path.read_bytes()
    name = "images/train_0000.png"
    assert (tmp_path / "other" / name).read_bytes() != (folder / name).read_bytes()


def test_images_hold_what_is_promised() -> None:
    images = [generate_cells(0, 0, i) for i in range(40)]
    labels = np.concatenate([image.labels for image in images])
    shares = np.bincount(labels, minlength=3) / len(labels)
    assert len(CATEGORIES) == 3 and (shares > 0.08).all()
    assert 8 < len(labels) / 40 < 24
    assert all(image.masks.sum(0).max(initial=0) <= 1 for image in images)
    touching = [
        (cv2.dilate(masks[0].astype(np.uint8), np.ones((3, 3))) & masks[1:].any(0)).any()
        for image in images
        if len(masks := image.masks) > 1
    ]
    assert any(touching)


def test_categories_can_be_told_apart_by_their_pixels() -> None:
    """Debris is brown, nuclei are purple, dividing cells are pale: mean colours are well separated."""
    colours: dict[int, list[np.ndarray]] = {0: [], 1: [], 2: []}
    for i in range(30):
        made = generate_cells(1, 0, i)
        for mask, label in zip(made.masks, made.labels, strict=True):
            colours[int(label)].append(made.image[mask].mean(0) - made.image.reshape(-1, 3).mean(0))
    nucleus, dividing, debris = (np.mean(colours[label], 0) for label in range(3))
    assert np.linalg.norm(nucleus - dividing) > 25
    assert debris[2] - debris[0] < nucleus[2] - nucleus[0] - 40


def test_a_filled_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="exists already"):
        write_cells(tmp_path, seed=0, counts=(1, 1, 1), size=64)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(synthetic, "generate_cells", broken)
    with pytest.raises(KeyboardInterrupt):
        write_cells(tmp_path / "data", seed=0, counts=(1, 1, 1), size=64)
    assert list(tmp_path.iterdir()) == []


def test_the_cache_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = cached_cells(seed=1, counts=(1, 1, 1), size=64, cache=tmp_path)
    monkeypatch.setattr(synthetic, "write_cells", pytest.fail)
    assert cached_cells(seed=1, counts=(1, 1, 1), size=64, cache=tmp_path) == first


def test_losing_the_race_for_the_cache_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = synthetic.write_cells

    def slower(root: Path, **options: object) -> None:
        write(root, seed=1, counts=(1, 1, 1), size=64)  # the other process is first
        write(root, seed=1, counts=(1, 1, 1), size=64)

    monkeypatch.setattr(synthetic, "write_cells", slower)
    assert (cached_cells(seed=1, counts=(1, 1, 1), size=64, cache=tmp_path) / "test.json").is_file()


def test_the_environment_names_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("MASKWELL_CACHE", raising=False)
    assert cache_folder() == tmp_path / "xdg" / "maskwell"
    monkeypatch.setenv("MASKWELL_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
