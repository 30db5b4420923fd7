"""Windows: tiles cover every pixel, training windows stay inside and hold objects."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from maskwell.data.windows import random_window, tiles


@pytest.mark.parametrize("size", [(30, 50), (64, 64), (65, 64), (129, 400), (603, 1272)])
@pytest.mark.parametrize("overlap", [0, 16])
def test_tiles_cover_the_image_and_overlap(size: tuple[int, int], overlap: int) -> None:
    seen = np.zeros(size, int)
    windows = tiles(size, 64, overlap)
    for x, y, w, h in windows:
        assert x >= 0 and x + w <= size[1] and y >= 0 and y + h <= size[0]
        assert w == min(64, size[1]) and h == min(64, size[0])
        seen[y : y + h, x : x + w] += 1
    assert seen.min() >= 1
    columns = sorted({(x, w) for x, _, w, _ in windows})
    assert all(a + w - b >= overlap for (a, w), (b, _) in itertools.pairwise(columns))
    if overlap == 0:
        assert len(windows) == -(-size[0] // 64) * -(-size[1] // 64)


def test_random_windows_hold_objects_and_reach_everywhere() -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([[10, 10, 14, 14], [290, 180, 299, 199]], np.float32)
    with_object, starts = 0, set()
    for _ in range(400):
        x, y, w, h = random_window((200, 300), boxes, 50, rng)
        assert (w, h) == (50, 50) and 0 <= x <= 250 and 0 <= y <= 150
        starts.add((x, y))
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        inside = (centres >= [x, y]) & (centres <= [x + 50, y + 50])
        with_object += bool(inside.all(1).any())
    assert with_object > 340
    assert len(starts) > 40


def test_small_images_and_no_objects() -> None:
    rng = np.random.default_rng(0)
    assert random_window((20, 30), np.zeros((0, 4), np.float32), 64, rng) == (0, 0, 30, 20)
