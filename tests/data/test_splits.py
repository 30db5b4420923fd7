"""Seeded splits and the near-duplicate search behind them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from maskwell.data.duplicates import near_duplicate_files, near_duplicates, signature
from maskwell.data.splits import components, split_images
from maskwell.errors import UserError
from tests.data.coco_folder import picture


def test_single_images_meet_the_shares_exactly() -> None:
    parts = split_images([None] * 50, 0.2, 0.1, seed=1)
    assert [len(parts[s]) for s in ("train", "val", "test")] == [35, 10, 5]
    assert sorted(i for found in parts.values() for i in found) == list(range(50))
    assert split_images([None] * 50, 0.2, 0.1, seed=1) == parts
    assert split_images([None] * 50, 0.2, 0.1, seed=2) != parts


@pytest.mark.parametrize("seed", range(5))
def test_groups_and_links_are_never_parted(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = [None if rng.random() < 0.3 else str(rng.integers(8)) for _ in range(60)]
    links = [(int(a), int(b)) for a, b in rng.integers(0, 60, (6, 2))]
    parts = split_images(groups, 0.25, 0.15, seed, links)
    place = {i: split for split, found in parts.items() for i in found}
    together = components(groups, links)
    for part in np.unique(together):
        assert len({place[int(i)] for i in np.flatnonzero(together == part)}) == 1
    assert all(parts.values())


def test_links_join_groups() -> None:
    found = components(["a", "a", "b", None, None], [(1, 2)])
    assert found[0] == found[1] == found[2]
    assert len({found[0], found[3], found[4]}) == 3


def test_a_split_that_was_asked_for_is_not_empty_where_groups_are_large() -> None:
    parts = split_images(["a"] * 10 + ["b"] * 20 + ["c"] * 30, 0.1, 0.0, seed=0)
    assert parts["val"] == list(range(10)) and len(parts["train"]) == 50


def test_one_group_alone_trains() -> None:
    assert split_images(["a"] * 10, 0.2, 0.1, seed=0)["train"] == list(range(10))
    with pytest.raises(UserError, match="must be in"):
        split_images(["a"], 0.9, 0.2, seed=0)


def changed(image: np.ndarray, how: str) -> np.ndarray:
    if how == "jpeg":
        return np.asarray(cv2.imdecode(cv2.imencode(".jpg", image, [1, 50])[1], 1))
    if how == "small":
        return np.asarray(cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    if how == "dark":
        return (image * 0.7).astype(np.uint8)
    return np.clip(image + np.random.default_rng(0).normal(0, 6, image.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("how", ["jpeg", "small", "dark", "noisy"])
def test_changed_copies_are_found_and_others_are_not(how: str) -> None:
    images = [picture(seed, (120, 160)) for seed in range(30)]
    images += [changed(images[seed], how) for seed in range(5)]
    hashes, thumbnails = (np.stack(found) for found in zip(*map(signature, images), strict=True))
    assert near_duplicates(hashes, thumbnails) == [(seed, 30 + seed) for seed in range(5)]


def test_empty_fields_are_no_duplicates(tmp_path: Path) -> None:
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 3, (64, 64, 3)).astype(np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{number}.png")
    paths = sorted(tmp_path.iterdir())
    assert near_duplicate_files(paths) == []
    assert near_duplicate_files(paths[:1]) == []
