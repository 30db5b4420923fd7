"""The classical control on drawn nuclei."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from benchmarks.classical import (
    BlobSettings,
    Settings,
    blobs,
    contrast_channel,
    distance_peaks,
    segment,
    split,
)
from maskwell.ops import masks
from maskwell.ops.points import match_points

CENTRES = [(20, 20), (20, 60), (60, 30), (60, 47), (95, 95)]
"""(y, x) of discs of radius 10; the third and fourth overlap."""


def discs(size: int = 120, radius: float = 10.0) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    return np.array([(y - cy) ** 2 + (x - cx) ** 2 <= radius**2 for cy, cx in CENTRES])


def picture(bright: bool) -> np.ndarray:
    rng = np.random.default_rng(0)
    inside = discs().any(0)
    grey = np.where(inside == bright, 200, 40) + rng.normal(0, 4, inside.shape)
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize("bright", [True, False])
def test_finds_and_splits_nuclei_of_either_polarity(bright: bool) -> None:
    prediction = segment(picture(bright), Settings())
    assert prediction.rles is not None
    overlap = masks.iou(prediction.rles, masks.encode(discs()))
    assert overlap.shape == (5, 5)
    assert (overlap.max(0).values > 0.85).all()
    assert sorted(overlap.argmax(0).tolist()) == [0, 1, 2, 3, 4]
    assert torch.equal(prediction.boxes, masks.boxes(prediction.rles))
    assert torch.equal(prediction.scores, prediction.scores.sort(descending=True).values)
    assert ((prediction.scores > 0) & (prediction.scores <= 1)).all()


def test_nothing_in_an_even_image() -> None:
    prediction = segment(np.full((40, 50, 3), 128, dtype=np.uint8))
    assert prediction.rles == []
    assert prediction.boxes.shape == (0, 4)
    assert prediction.size == (40, 50)


def test_small_objects_are_dropped() -> None:
    image = picture(True)
    image[110:113, 10:13] = 220
    assert len(segment(image, Settings(min_area=20)).scores) == 5
    assert len(segment(image, Settings(min_area=5, blur=0)).scores) == 6


def test_split_covers_the_foreground_without_overlap() -> None:
    foreground = discs().any(0)
    labels = split(foreground, peak_blur=1.0, peak_distance=5)
    assert np.array_equal(labels > 0, foreground)
    assert labels.max() == 5
    # Equal discs are cut half-way between their centres.
    left, right = labels[60, 30], labels[60, 47]
    assert left != right
    assert labels[60, 38] == left
    assert labels[60, 39] == right


def test_the_channel_with_contrast_is_used() -> None:
    image = np.full((60, 60, 3), 230, dtype=np.uint8)
    image[20:40, 20:40] = (90, 200, 220)
    assert np.array_equal(contrast_channel(image), image[..., 0])


@pytest.mark.parametrize("bright", [True, False])
@pytest.mark.parametrize("find", [distance_peaks, lambda image: blobs(image, BlobSettings(5.0, 9.0))])
def test_points_are_the_centres_of_nuclei(find: Callable[..., torch.Tensor], bright: bool) -> None:
    found = find(picture(bright))
    centres = torch.tensor(CENTRES, dtype=torch.float32).flip(1) + 0.5
    pairs = match_points(found, centres, 5.0)
    assert found.shape == (5, 2) and len(pairs[0]) == 5


def test_no_points_in_an_even_image() -> None:
    even = np.full((40, 50, 3), 128, dtype=np.uint8)
    assert distance_peaks(even).shape == blobs(even).shape == (0, 2)
