"""One augmentation for everything of a record, a function of its seed; the geometry of the families."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from maskwell.data.instances import InstanceMasks
from maskwell.data.sample import InputSpec
from maskwell.data.source import Record
from maskwell.data.transforms import Augmentation, content_size, network_image, to_sample
from maskwell.errors import UserError

STRONG = Augmentation(scale=(0.6, 1.6), shift=0.2, brightness=0, contrast=0, saturation=0, hue=0)


def record(
    planes: np.ndarray, *, masks: bool = True, iscrowd: tuple[bool, ...] | None = None, semantic: bool = False
) -> Record:
    """An image that is white where objects are: whatever moves, moves visibly."""
    count, height, width = planes.shape
    stack = InstanceMasks.from_planes(planes.astype(np.uint8))
    any_object = planes.any(0)
    return Record(
        image=np.repeat(np.where(any_object, 255, 60).astype(np.uint8)[..., None], 3, 2),
        boxes=stack.boxes(),
        labels=np.arange(count),
        area=stack.areas(),
        iscrowd=np.array(iscrowd or [False] * count, bool),
        visible=np.ones(count, np.float32),
        image_id=1,
        file_name="x.png",
        file_size=(height, width),
        window=(0, 0, width, height),
        masks=stack if masks else None,
        semantic=np.where(any_object, 3, 0).astype(np.uint8) if semantic else None,
    )


def blocks(*corners: tuple[int, int, int, int], size: tuple[int, int] = (48, 64)) -> np.ndarray:
    planes = np.zeros((len(corners), *size), bool)
    for plane, (x1, y1, x2, y2) in zip(planes, corners, strict=True):
        plane[y1:y2, x1:x2] = True
    return planes


APART = blocks((4, 4, 16, 14), (30, 8, 44, 30), (20, 34, 30, 44), (56, 38, 64, 48))
OVERLAPPING = blocks((4, 4, 16, 14), (10, 8, 44, 30), (20, 24, 30, 44), (56, 38, 64, 48))


@pytest.mark.parametrize("planes", [APART, OVERLAPPING], ids=["label map", "planes"])
@pytest.mark.parametrize("seed", range(8))
def test_image_masks_boxes_and_semantic_move_together(planes: np.ndarray, seed: int) -> None:
    before = record(planes, semantic=True)
    after = STRONG(before, seed)
    assert after.masks is not None and after.semantic is not None
    moved = after.masks.to_planes()
    # White pixels are object pixels; linear interpolation leaves a rim of at most a pixel or so.
    bright = after.image[..., 0] > 157
    kept = moved.any(0)
    if len(moved) == len(planes):
        assert (bright != kept).mean() < 0.03
    assert not (kept & ~bright).mean() > 0.03
    for plane, box, label in zip(moved, after.boxes, after.labels, strict=True):
        ys, xs = np.nonzero(plane)
        assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        assert after.area[list(after.labels).index(label)] == plane.sum()
    assert set(after.labels) <= set(range(4)) and len(after.labels) == len(moved)
    outside = after.semantic == 255
    assert ((after.semantic == 3) == (bright & ~outside)).mean() > 0.97
    if outside.any():  # what was padded is black, but for the interpolated rim
        assert (after.image[outside] < 60).mean() > 0.8


@pytest.mark.parametrize("seed", range(8))
def test_boxes_alone_move_as_masks_do(seed: int) -> None:
    with_masks = STRONG(record(APART), seed)
    boxes_only = STRONG(record(APART, masks=False), seed)
    np.testing.assert_array_equal(with_masks.image, boxes_only.image)
    common = sorted(set(with_masks.labels) & set(boxes_only.labels))
    assert len(common) >= max(len(with_masks.labels), len(boxes_only.labels)) - 1
    for label in common:
        a = with_masks.boxes[list(with_masks.labels).index(label)]
        b = boxes_only.boxes[list(boxes_only.labels).index(label)]
        assert np.abs(a - b).max() <= 1.5


@pytest.mark.parametrize("planes", [APART, OVERLAPPING])
def test_the_result_is_a_function_of_the_seed(planes: np.ndarray) -> None:
    augment = Augmentation()
    first = augment(record(planes), 7)
    different = augment(record(planes), 8)
    again = augment(record(planes), 7)
    other_object = Augmentation()(record(planes), 7)
    for same in (again, other_object):
        np.testing.assert_array_equal(first.image, same.image)
        np.testing.assert_array_equal(first.boxes, same.boxes)
    assert first.image.shape != different.image.shape or (first.image != different.image).any()


def test_the_label_map_and_the_planes_give_the_same() -> None:
    flat = record(APART)
    planes = replace(flat, masks=InstanceMasks(4, planes=APART.astype(np.uint8)))
    for seed in range(6):
        a, b = STRONG(flat, seed), STRONG(planes, seed)
        assert a.masks is not None and b.masks is not None
        np.testing.assert_array_equal(a.masks.to_planes(), b.masks.to_planes())
        np.testing.assert_array_equal(a.labels, b.labels)


def test_overlapping_objects_that_are_all_dropped_leave_an_image_without_objects() -> None:
    emptied = record(OVERLAPPING).select(np.zeros(4, bool))
    sample = to_sample(Augmentation()(emptied, 1), InputSpec("square", 16, (0.5,) * 3, (0.5,) * 3))
    assert sample.masks is not None and sample.masks.shape == (0, 16, 16)


@pytest.mark.parametrize("masks", [True, False])
def test_images_without_objects_pass(masks: bool) -> None:
    after = Augmentation()(record(np.zeros((0, 32, 32), bool), masks=masks), 1)
    sample = to_sample(after, InputSpec("square", 16, (0.5,) * 3, (0.5,) * 3))
    assert sample.boxes.shape == (0, 4) and len(sample.labels) == 0
    if masks:
        assert sample.masks is not None and sample.masks.shape == (0, 16, 16)


def test_objects_cut_off_are_dropped_and_zoom_alone_drops_none() -> None:
    half_out = Augmentation((1, 1), 0, 0, 0, 0, 0, 0, 0, 0, min_visible=0.5)
    assert len(half_out(record(APART), 0).labels) == 4
    shrink = Augmentation((0.5, 0.5), 0, 0, 0, 0, 0, 0, 0, 0, min_visible=0.9)
    after = shrink(record(blocks((8, 8, 40, 40))), 0)
    assert after.area == pytest.approx(256, rel=0.1)
    enlarge = Augmentation((2.0, 2.0), 0, 0, 0, 0, 0, 0, 0, 0, min_visible=0.5)
    # The middle half of the image stays: the first block is gone, the second is whole.
    after = enlarge(record(blocks((0, 0, 10, 10), (24, 18, 34, 28), (12, 18, 20, 28))), 0)
    assert after.labels.tolist() == [1, 2][: len(after.labels)] and 0 not in after.labels


@pytest.mark.parametrize("shift", [0.0, None])
def test_what_is_not_in_the_image_has_the_mean_or_the_images_own_median(shift: float | None) -> None:
    still = {"hflip": 0, "vflip": 0, "rotate90": 0, "brightness": 0, "contrast": 0, "saturation": 0, "hue": 0}
    for border, colour in (("mean", 128), ("median", 60)):
        moved = Augmentation((0.5, 0.5), shift, **still, border=border)(
            record(APART), 3, (0.5, 0.5, 0.5)
        ).image
        assert (moved == colour).all(2).mean() >= 0.74
    with pytest.raises(UserError, match=r"data\.augment\.border=reflect: give one of mean, median"):
        Augmentation(border="reflect")  # type: ignore[arg-type]


def test_phrases_follow_the_objects_that_stay() -> None:
    enlarge = Augmentation((2.0, 2.0), 0, 0, 0, 0, 0, 0, 0, 0)
    before = replace(
        record(blocks((0, 0, 10, 10), (24, 18, 34, 28))), phrases=(("both", (0, 1)), ("first", (0,)))
    )
    after = enlarge(before, 0)
    assert after.phrases == (("both", (0,)), ("first", ()))
    assert after.labels.tolist() == [1]


# Geometry ---------------------------------------------------------------------------------------

SQUARE = InputSpec("square", 96, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
PAD = InputSpec("pad", 32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_content_size() -> None:
    assert content_size((40, 60), SQUARE) == (96, 96)
    assert content_size((40, 60), PAD) == (21, 32)
    assert content_size((20, 10), PAD) == (20, 10)
    assert content_size((2000, 1), replace(PAD, size=None)) == (2000, 1)
    assert content_size((2000, 1), PAD) == (32, 1)


@pytest.mark.parametrize("spec", [SQUARE, PAD])
def test_normalisation(spec: InputSpec) -> None:
    colour = np.full((8, 8, 3), (0, 128, 255), np.uint8)
    image = network_image(colour, spec)
    expected = (np.array([0, 128, 255]) / 255 - spec.mean) / spec.std
    assert image.dtype == torch.float32
    np.testing.assert_allclose(image[:, 0, 0].numpy(), expected, atol=1e-5)
    assert image.shape == (3, *content_size((8, 8), spec))


def test_square_geometry_maps_boxes_back_to_the_window() -> None:
    cut = replace(record(APART), window=(100, 50, 64, 48), file_size=(500, 600))
    sample = to_sample(cut, SQUARE)
    assert sample.geometry.window_size == (48, 64)
    np.testing.assert_allclose(sample.geometry.boxes_to_window(sample.boxes).numpy(), cut.boxes, atol=1e-4)
    assert sample.masks is not None and sample.masks.shape == (4, 96, 96)
    share = sample.masks.float().mean((1, 2)).numpy()
    np.testing.assert_allclose(share, APART.mean((1, 2)), rtol=0.1)
    assert sample.points is None


def test_crowds_are_no_targets() -> None:
    sample = to_sample(record(APART, iscrowd=(False, True, False, False)), SQUARE)
    assert sample.labels.tolist() == [0, 2, 3]
    assert sample.masks is not None and len(sample.masks) == len(sample.boxes) == 3


def plain(size: tuple[int, int] = (40, 60)) -> Record:
    """An image whose red and green are its columns and rows."""
    rows, columns = np.indices(size)
    image = np.stack([columns * 4, rows * 4, np.full(size, 200)], -1).astype(np.uint8)
    found = record(np.zeros((0, *size), bool), masks=False, semantic=True)
    return replace(found, image=image, semantic=(columns // 10).astype(np.uint8), valid=np.ones(size, bool))


def test_a_free_zoom_shows_every_part_of_the_image_and_all_of_a_small_one() -> None:
    whole, still = plain(), {"hflip": 0, "vflip": 0, "rotate90": 0, "brightness": 0, "contrast": 0}
    large = Augmentation((2.0, 2.0), None, **still, saturation=0, hue=0)
    small = Augmentation((0.5, 0.5), None, **still, saturation=0, hue=0)
    starts = []
    for seed in range(40):
        near = large(whole, seed)
        assert near.valid is not None and near.valid[1:-1, 1:-1].all()
        assert near.semantic is not None and (near.semantic[1:-1, 1:-1] <= 5).all()
        starts.append((near.image[20, 1, 0] / 4, near.image[1, 30, 1] / 4))
        far = small(whole, seed)
        assert far.valid is not None and far.semantic is not None
        assert abs(int(far.valid.sum()) - 20 * 30) <= 60
        np.testing.assert_array_equal(far.semantic == 255, ~far.valid)
        assert (far.image[far.valid] > 0).any(1).all()
        assert set(np.unique(far.semantic)) == {0, 1, 2, 3, 4, 5, 255}
    lowest, highest = np.min(starts, 0), np.max(starts, 0)
    assert (lowest < 3).all() and (highest > np.array([27, 17])).all()


@pytest.mark.parametrize("mean", [(0.485, 0.456, 0.406), (0.5, 0.5, 0.5), (0.0, 0.0, 0.0)])
def test_what_is_not_in_the_image_has_the_colour_that_is_asked_whatever_the_light(
    mean: tuple[float, float, float],
) -> None:
    spec = InputSpec("pad", None, mean, (0.25, 0.25, 0.25))
    for seed in range(8):
        smaller = Augmentation((0.5, 0.5), 0.0, brightness=0.5, hue=0.1)(record(APART), seed, spec.mean)
        corner = to_sample(smaller, spec).image[:, :2, :2]
        assert corner.abs().max() < 0.01, "half a grey value of 255, normalised"


def test_filled_up_pixels_become_the_mean_and_are_marked() -> None:
    spec = InputSpec("pad", None, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert to_sample(plain(), spec).valid is None
    small = to_sample(Augmentation((0.5, 0.5), None)(plain(), 1), spec)
    assert small.valid is not None and 0.2 < small.valid.float().mean() < 0.3
    assert (small.image * ~small.valid).abs().max() == 0 and small.semantic is not None
    assert (small.semantic[~small.valid] == 255).all()
