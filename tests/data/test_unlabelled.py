"""Folders of images without labels."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskwell.data.unlabelled import UnlabelledFolder
from maskwell.errors import UserError
from tests.data.coco_folder import picture


def images(folder: Path, numbers: range) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number}.png" for number in numbers]
    for number, path in zip(numbers, paths, strict=True):
        Image.fromarray(picture(number)).save(path)
    return paths


def test_images_of_subfolders_are_found_and_cut(tmp_path: Path) -> None:
    images(tmp_path / "b", range(2))
    images(tmp_path / "a", range(5, 6))
    (tmp_path / "a" / "notes.txt").write_text("no image")
    source = UnlabelledFolder(str(tmp_path))
    source.setup()
    assert source.split_lists() == {"train": ["a/5.png", "b/0.png", "b/1.png"], "val": [], "test": []}
    assert [source.size("train"), source.size("val")] == [3, 0]
    record = source.read("train", 2, 0, (10, 3, 20, 30))
    np.testing.assert_array_equal(record.image, picture(1)[3:33, 10:30])
    assert record.semantic is None and record.file_size == source.image_size("train", 2) == (40, 60)


def test_copies_of_evaluated_images_are_left_out(tmp_path: Path) -> None:
    evaluated = images(tmp_path / "val", range(3))
    images(tmp_path / "more", range(10, 13))
    shutil.copy(evaluated[0], tmp_path / "more" / "renamed.png")
    Image.open(evaluated[1]).save(tmp_path / "more" / "again.jpg", quality=90)
    exact = UnlabelledFolder(str(tmp_path / "more"), evaluated, near_duplicates=False)
    assert [path.name for path in exact.paths] == ["10.png", "11.png", "12.png", "again.jpg"]
    near = UnlabelledFolder(str(tmp_path / "more"), evaluated)
    assert [path.name for path in near.paths] == ["10.png", "11.png", "12.png"]


def test_bad_folders_are_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere' \(data.unlabelled_root\) does not exist"):
        UnlabelledFolder(str(tmp_path / "nowhere")).setup()
    evaluated = images(tmp_path / "val", range(1))
    with pytest.raises(UserError, match="holds no image to train on"):
        UnlabelledFolder(str(tmp_path / "val"), evaluated).setup()
