"""Tiles and the merging of their answers, with a model that is exact inside each tile."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from maskwell import tiling
from maskwell.data.sample import Prediction
from maskwell.data.source import Window
from maskwell.errors import UserError
from maskwell.ops import masks as mask_ops

Planes = npt.NDArray[np.bool_]


def discs(size: tuple[int, int], circles: list[tuple[float, float, float]]) -> Planes:
    """Masks [N, H, W] of discs (x, y, radius)."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    return np.stack([(columns - x) ** 2 + (rows - y) ** 2 <= r * r for x, y, r in circles])


def answer(
    masks: Planes, window: Window, labels: list[int] | None = None, scores: list[float] | None = None
) -> Prediction:
    """What an exact model says of a window: everything of it that lies inside."""
    x, y, w, h = window
    seen = masks[:, y : y + h, x : x + w]
    inside = np.flatnonzero(seen.any((1, 2)))
    rles = mask_ops.encode(seen[inside])
    return Prediction(
        size=(h, w),
        boxes=mask_ops.boxes(rles),
        scores=torch.tensor([(scores or [0.9] * len(masks))[i] for i in inside]),
        labels=torch.tensor([(labels or [0] * len(masks))[i] for i in inside], dtype=torch.int64),
        rles=rles,
        present={0: 0.5 + x / 1000},
    )


def merged(masks: Planes, tile: int, overlap: float = 0.25, labels: list[int] | None = None) -> Prediction:
    size = (masks.shape[1], masks.shape[2])
    windows = tiling.grid(size, tile, overlap)
    return tiling.merge(windows, [answer(masks, window, labels) for window in windows], size)


def assert_same_objects(found: Prediction, masks: Planes, iou: float = 1.0) -> None:
    """Each object once and nothing else."""
    assert len(found.scores) == len(masks)
    assert found.rles is not None
    best = mask_ops.iou(mask_ops.encode(masks), found.rles)
    assert (best.max(1).values >= iou - 1e-9).all()
    assert len(set(best.argmax(1).tolist())) == len(masks)


@pytest.mark.parametrize(("size", "tile"), [((100, 230), 64), ((64, 64), 64), ((50, 40), 64), ((65, 64), 64)])
def test_grid_covers_every_pixel_with_the_wanted_overlap(size: tuple[int, int], tile: int) -> None:
    windows = tiling.grid(size, tile, 0.25)
    seen = np.zeros(size, int)
    for x, y, w, h in windows:
        assert x >= 0 and y >= 0 and x + w <= size[1] and y + h <= size[0]
        assert (w, h) == (min(tile, size[1]), min(tile, size[0]))
        seen[y : y + h, x : x + w] += 1
    assert seen.min() == 1 or len(windows) > 1
    for starts in ({x for x, *_ in windows}, {y for _, y, *_ in windows}):
        assert (np.diff(sorted(starts)) <= tile * 0.75).all()


def test_no_tile_is_the_whole_image() -> None:
    assert tiling.grid((30, 50), None) == [(0, 0, 50, 30)]


@pytest.mark.parametrize(("tile", "overlap", "word"), [(8, 0.25, "tile=8"), (64, 1.0, "overlap=1.0")])
def test_bad_grid_is_a_sentence(tile: int, overlap: float, word: str) -> None:
    with pytest.raises(UserError, match=word):
        tiling.grid((100, 100), tile, overlap)


def test_one_window_is_returned_as_it_is() -> None:
    masks = discs((40, 40), [(10, 10, 5)])
    prediction = answer(masks, (0, 0, 40, 40))
    assert tiling.merge([(0, 0, 40, 40)], [prediction], (40, 40)) is prediction


def test_objects_cut_by_borders_come_out_once_and_whole() -> None:
    # Tiles of 64 start at 0, 48, 96: objects on, beside and across the borders and their crossings.
    circles = [
        (x, y, 6.0) for x in (10, 30, 46, 62, 78, 94, 110, 130) for y in (12, 32, 48, 64, 80, 97, 112, 140)
    ]
    masks = discs((160, 160), circles)
    assert_same_objects(merged(masks, 64), masks)


def test_touching_objects_of_a_crowd_stay_apart() -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros((256, 256), int)
    seeds = [
        (x + rng.integers(-2, 3), y + rng.integers(-2, 3))
        for x in range(8, 256, 14)
        for y in range(8, 256, 14)
    ]
    rows, columns = np.mgrid[:256, :256]
    distance = np.stack([(columns - x) ** 2 + (rows - y) ** 2 for x, y in seeds])
    labels = distance.argmin(0)  # cells without a gap between them
    masks = np.stack([(labels == i) & (distance[i] <= 100) for i in range(len(seeds))])
    assert len(masks) == 324
    assert_same_objects(merged(masks, 96), masks)


def test_objects_larger_than_the_overlap_are_put_together() -> None:
    masks = discs((130, 130), [(64, 64, 30), (20, 100, 10)])
    assert_same_objects(merged(masks, 80), masks)


def test_an_object_across_more_than_two_tiles_is_put_together() -> None:
    masks = np.zeros((2, 60, 400), bool)
    masks[0, 10:25, 5:395] = True
    masks[1, 30:45, 5:395] = True
    assert_same_objects(merged(masks, 64), masks)


def test_an_object_that_just_fills_the_overlap_is_kept() -> None:
    masks = np.zeros((1, 64, 112), bool)
    masks[0, 20:40, 48:64] = True  # tiles 0..64 and 48..112
    assert tiling.grid((64, 112), 64, 0.25) == [(0, 0, 64, 64), (48, 0, 64, 64)]
    assert_same_objects(merged(masks, 64), masks)


def test_different_labels_on_one_place_are_different_objects() -> None:
    masks = np.concatenate([discs((64, 112), [(56, 30, 6)])] * 2)
    found = merged(masks, 64, labels=[0, 1])
    assert sorted(found.labels.tolist()) == [0, 1]


def test_two_detections_of_one_tile_are_never_compared() -> None:
    masks = np.concatenate([discs((64, 112), [(20, 30, 6)])] * 2)
    assert len(merged(masks, 64).scores) == 2


def test_a_whole_detection_wins_over_a_part_with_a_higher_score() -> None:
    masks = discs((64, 112), [(56, 30, 12)])  # tile 0 sees x < 64, tile 1 sees x >= 48
    windows = tiling.grid((64, 112), 64, 0.25)
    # The second tile's model overshoots to the left edge of its tile, so that both count as cut.
    parts = [answer(masks, windows[0], scores=[0.9]), answer(masks, windows[1], scores=[0.4])]
    found = tiling.merge(windows, parts, (64, 112))
    assert_same_objects(found, masks)
    whole = discs((64, 112), [(53, 30, 10)])  # 43..63 in tile 0: cut by tile 1 only
    parts = [answer(whole, windows[0], scores=[0.5]), answer(whole, windows[1], scores=[0.8])]
    found = tiling.merge(windows, parts, (64, 112))
    assert_same_objects(found, whole)


def test_a_weak_whole_detection_does_not_remove_a_strong_large_one() -> None:
    big = discs((96, 112), [(56, 48, 40)])
    speck = discs((96, 112), [(52, 20, 3)])
    windows = tiling.grid((96, 112), 64, 0.25)
    predictions = []
    for window in windows:
        prediction = answer(np.concatenate([big, speck]), window, scores=[0.9, 0.06])
        predictions.append(prediction)
    found = tiling.merge(windows, predictions, (96, 112))
    assert found.scores.max() == pytest.approx(0.9)
    assert found.rles is not None
    assert float(mask_ops.iou(mask_ops.encode(big), found.rles).max()) == pytest.approx(1.0)


def test_best_score_first_and_presence_of_the_best_tile() -> None:
    masks = discs((64, 160), [(10, 30, 6), (70, 30, 6), (140, 30, 6)])
    windows = tiling.grid((64, 160), 64, 0.25)
    found = tiling.merge(windows, [answer(masks, w, scores=[0.2, 0.9, 0.5]) for w in windows], (64, 160))
    assert found.scores.tolist() == pytest.approx([0.9, 0.5, 0.2])
    assert found.present == {0: pytest.approx(0.5 + windows[-1][0] / 1000)}
    assert found.size == (64, 160)


def test_nothing_found_anywhere() -> None:
    found = merged(np.zeros((1, 100, 100), bool), 64)
    assert len(found.scores) == 0 and found.boxes.shape == (0, 4) and found.rles == []


def test_boxes_without_masks() -> None:
    masks = discs((112, 112), [(20, 20, 8), (56, 56, 7), (90, 56, 7)])
    windows = tiling.grid((112, 112), 64, 0.25)
    predictions = [answer(masks, window) for window in windows]
    for prediction in predictions:
        prediction.rles = None
    found = tiling.merge(windows, predictions, (112, 112))
    assert found.rles is None
    truth = mask_ops.boxes(mask_ops.encode(masks))
    assert sorted(found.boxes.tolist()) == sorted(truth.tolist())


def test_noisy_detections_of_a_crowd_come_out_about_once() -> None:
    """Every tile's model is off by a pixel, of its own: duplicates still fall together."""
    rng = np.random.default_rng(1)
    circles = [(x, y, 6.0) for x in range(10, 200, 15) for y in range(10, 200, 15)]
    windows = tiling.grid((210, 210), 96, 0.25)
    predictions = []
    for window in windows:
        moved = [
            (x + rng.uniform(-1, 1), y + rng.uniform(-1, 1), r + rng.uniform(-0.7, 0.7))
            for x, y, r in circles
        ]
        scores = rng.uniform(0.3, 0.9, len(circles)).tolist()
        predictions.append(answer(discs((210, 210), moved), window, scores=scores))
    found = tiling.merge(windows, predictions, (210, 210))
    assert_same_objects(found, discs((210, 210), circles), iou=0.6)
