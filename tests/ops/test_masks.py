"""Run-length masks against plain arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from maskwell.ops import masks

SIZE = (37, 53)


def random_masks(count: int = 40, size: tuple[int, int] = SIZE, seed: int = 0) -> np.ndarray:
    """Sparse, dense, blob-like, empty and full masks."""
    rng = np.random.default_rng(seed)
    stack = rng.random((count, *size)) < rng.random((count, 1, 1))
    for i in range(0, count, 3):
        y, x = np.mgrid[: size[0], : size[1]]
        stack[i] = (y - rng.integers(size[0])) ** 2 + (x - rng.integers(size[1])) ** 2 < rng.integers(400)
    stack[1], stack[2] = False, True
    return stack


def test_round_trip() -> None:
    stack = random_masks()
    decoded = masks.decode(masks.encode(stack), SIZE)
    assert decoded.dtype == torch.bool
    assert np.array_equal(decoded.numpy(), stack)
    assert (
        masks.encode(torch.from_numpy(stack))
        == masks.encode(stack)
        == masks.encode(stack.astype(np.float32) * 0.3)
    )


def test_nothing() -> None:
    assert masks.encode(np.zeros((0, *SIZE), dtype=bool)) == []
    assert masks.decode([], SIZE).shape == (0, *SIZE)
    assert masks.area([]).shape == (0,)
    assert masks.boxes([]).shape == (0, 4)
    assert masks.iou([], masks.encode(random_masks(3))).shape == (0, 3)
    assert masks.shift([], (1, 1), SIZE) == []


def test_shape_and_size_are_checked() -> None:
    with pytest.raises(ValueError, match="N, H, W"):
        masks.encode(np.zeros(SIZE, dtype=bool))
    with pytest.raises(ValueError, match="does not fit"):
        masks.decode(masks.encode(random_masks(3)), (53, 37))


def test_area_and_boxes() -> None:
    stack = random_masks()
    rles = masks.encode(stack)
    assert masks.area(rles).tolist() == stack.sum((1, 2)).tolist()
    for mask, box in zip(stack, masks.boxes(rles).tolist(), strict=True):
        ys, xs = np.nonzero(mask)
        expected = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] if len(xs) else [0, 0, 0, 0]
        assert box == expected


def test_many_masks_of_one_image() -> None:
    stack = random_masks(600, size=(9, 11))
    rles = masks.encode(stack)
    assert masks.area(rles).tolist() == stack.sum((1, 2)).tolist()
    assert masks.boxes(rles).shape == (600, 4)
    assert np.array_equal(masks.decode(rles, (9, 11)).numpy(), stack)
    assert masks.iou(rles, rles).diagonal().sum() == (stack.any((1, 2))).sum()


def test_iou() -> None:
    first, second = random_masks(20, seed=1), random_masks(15, seed=2)
    shared = np.einsum("ahw,bhw->ab", first.astype(float), second.astype(float))
    area_a, area_b = first.sum((1, 2)).astype(float), second.sum((1, 2)).astype(float)
    union = area_a[:, None] + area_b[None] - shared
    a, b = masks.encode(first), masks.encode(second)
    plain = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    assert np.allclose(masks.iou(a, b).numpy(), plain)
    crowd = [i % 2 == 0 for i in range(15)]
    over_own = np.divide(shared, area_a[:, None], out=np.zeros_like(shared), where=area_a[:, None] > 0)
    assert np.allclose(masks.iou(a, b, crowd).numpy(), np.where(crowd, over_own, plain))


@pytest.mark.parametrize(
    ("offset", "size"),
    [
        ((0, 0), SIZE),
        ((11, 5), (80, 90)),  # pasted into a larger frame
        ((-20, -9), (15, 18)),  # a crop
        ((-20, 9), SIZE),
        ((40, -30), (20, 60)),
        ((500, 0), (20, 60)),  # outside
        ((0, 0), (1, 1)),
        ((0, 3), (37, 53)),
    ],
)
def test_shift(offset: tuple[int, int], size: tuple[int, int]) -> None:
    stack = random_masks()
    expected = np.zeros((len(stack), *size), dtype=bool)
    for y in range(size[0]):
        for x in range(size[1]):
            source_y, source_x = y - offset[1], x - offset[0]
            if 0 <= source_y < SIZE[0] and 0 <= source_x < SIZE[1]:
                expected[:, y, x] = stack[:, source_y, source_x]
    shifted = masks.shift(masks.encode(stack), offset, size)
    assert shifted == masks.encode(expected)


def test_crop_equals_slicing() -> None:
    stack = random_masks(seed=3)
    cropped = masks.crop(masks.encode(stack), (7, 4, 20, 30))
    assert np.array_equal(masks.decode(cropped, (30, 20)).numpy(), stack[:, 4:34, 7:27])


def test_shift_of_a_large_frame() -> None:
    """Counts of several characters, up to a whole empty image of 4,000 x 3,000 pixels."""
    stack = np.zeros((1, 300, 200), dtype=bool)
    stack[0, 40:290, 30:170] = True
    moved = masks.shift(masks.encode(stack), (2500, 3600), (4000, 3000))
    assert masks.area(moved).tolist() == [250 * 140]
    assert masks.boxes(moved).tolist() == [[2530, 3640, 2670, 3890]]
    assert masks.crop(moved, (2500, 3600, 200, 300)) == masks.encode(stack)
