"""Runs and label maps against pycocotools."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from maskwell.data import rle
from maskwell.data.instances import InstanceMasks
from maskwell.data.sample import Rle


def random_planes(seed: int, count: int, size: tuple[int, int], *, overlap: bool) -> np.ndarray:
    rng = np.random.default_rng(seed)
    owner = rng.integers(0, count + 1, size)
    if rng.random() < 0.5:  # coarse blocks: long runs
        owner = np.kron(
            rng.integers(0, count + 1, (size[0] // 7 + 1, size[1] // 7 + 1)), np.ones((7, 7), int)
        )
        owner = owner[: size[0], : size[1]]
    planes = np.stack([owner == i + 1 for i in range(count)]).astype(np.uint8)
    if overlap:
        planes[0] |= planes[1]
    return planes


def compressed(planes: np.ndarray) -> list[Rle]:
    return list(coco_mask.encode(np.asfortranarray(planes.transpose(1, 2, 0))))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("overlap", [False, True])
def test_decoding_whole_and_cropped_equals_pycocotools(seed: int, overlap: bool) -> None:
    rng = np.random.default_rng(seed)
    size = (int(rng.integers(1, 90)), int(rng.integers(1, 200)))
    planes = random_planes(seed, 5, size, overlap=overlap)
    runs = rle.decode(compressed(planes))
    whole, area = rle.crop(runs, (0, 0, size[1], size[0]))
    np.testing.assert_array_equal(area, planes.sum((1, 2)))
    np.testing.assert_array_equal(whole.to_planes(), planes.astype(bool))
    assert (whole.flat is None) == bool((planes.sum(0) > 1).any())
    x, y = int(rng.integers(size[1])), int(rng.integers(size[0]))
    w, h = int(rng.integers(1, size[1] - x + 1)), int(rng.integers(1, size[0] - y + 1))
    cut, area = rle.crop(runs, (x, y, w, h))
    np.testing.assert_array_equal(area, planes[:, y : y + h, x : x + w].sum((1, 2)))
    np.testing.assert_array_equal(cut.to_planes(), planes[:, y : y + h, x : x + w].astype(bool))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("overlap", [False, True])
def test_encoding_equals_pycocotools(seed: int, overlap: bool) -> None:
    planes = random_planes(seed, 4, (37, 53), overlap=overlap)
    planes[3] = 0
    masks = InstanceMasks.from_planes(planes)
    assert [r["counts"] for r in rle.encode(masks)] == [r["counts"] for r in compressed(planes)]


def test_full_empty_and_no_masks() -> None:
    planes = np.stack([np.ones((4, 6), np.uint8), np.zeros((4, 6), np.uint8)])
    masks, _ = rle.crop(rle.decode(compressed(planes)), (0, 0, 6, 4))
    np.testing.assert_array_equal(masks.to_planes(), planes.astype(bool))
    assert rle.encode(InstanceMasks.from_planes(np.zeros((0, 4, 6), np.uint8))) == []
    assert rle.decode([]).count == 0
    nothing = rle.Runs(0, (4, 6), *[np.zeros(0, np.int64)] * 3)
    assert rle.crop(nothing, (0, 0, 6, 4))[0].to_planes().shape == (0, 4, 6)


@pytest.mark.parametrize("counts", [b"", b"0`", b"99", b"\xff0", b"P0"])
def test_broken_strings_are_refused(counts: bytes) -> None:
    good = compressed(np.ones((1, 4, 6), np.uint8))[0]
    with pytest.raises(ValueError):
        rle.decode([good, Rle(size=[4, 6], counts=counts)])


@pytest.mark.parametrize("overlap", [False, True])
def test_areas_boxes_and_selection_agree_in_both_forms(overlap: bool) -> None:
    planes = random_planes(3, 6, (40, 40), overlap=overlap)
    planes[2] = 0
    masks = InstanceMasks.from_planes(planes)
    np.testing.assert_array_equal(masks.areas(), planes.sum((1, 2)))
    for row, box in enumerate(masks.boxes()):
        ys, xs = np.nonzero(planes[row])
        expected = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] if len(xs) else [0, 0, 0, 0]
        assert box.tolist() == expected
    keep = np.array([True, False, True, True, False, True])
    np.testing.assert_array_equal(masks.select(keep).to_planes(), planes[keep].astype(bool))
    flipped = masks.map(lambda plane: plane[:, ::-1])
    np.testing.assert_array_equal(flipped.to_planes(), planes[:, :, ::-1].astype(bool))
