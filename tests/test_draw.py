"""Drawing: what is drawn where, at which size; nothing leaks into the picture it was given."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from maskwell import draw
from maskwell.data.sample import IGNORE, Prediction, Rle, Truth


def _image(height: int = 64, width: int = 96, value: int = 100) -> draw.Pixels:
    return np.full((height, width, 3), value, np.uint8)


def _rle(height: int, width: int, box: tuple[int, int, int, int]) -> Rle:
    mask = np.zeros((height, width), np.uint8, order="F")
    mask[box[1] : box[3], box[0] : box[2]] = 1
    return coco_mask.encode(mask)


def _truth(
    boxes: list[tuple[int, int, int, int]], *, masks: bool = True, size: tuple[int, int] = (64, 96)
) -> Truth:
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Truth(
        size=size,
        boxes=corners,
        labels=torch.zeros(len(boxes), dtype=torch.int64),
        iscrowd=torch.zeros(len(boxes), dtype=torch.bool),
        area=(corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1]),
        rles=[_rle(*size, box) for box in boxes] if masks else None,
    )


def _prediction(
    boxes: list[tuple[int, int, int, int]], scores: list[float], *, masks: bool = True
) -> Prediction:
    truth = _truth(boxes, masks=masks)
    return Prediction(truth.size, truth.boxes, torch.tensor(scores), truth.labels, truth.rles)


def _native(image: draw.Pixels, objects: Prediction | Truth, **more: object) -> draw.Pixels:
    """Drawn at the image's own scale, so that pixels can be compared."""
    return draw.overlay(image, objects, min_side=1, **more)  # type: ignore[arg-type]


def test_colours_of_twelve_objects_differ() -> None:
    colours = [np.array(draw.colour(i), float) for i in range(12)]
    distances = [np.linalg.norm(a - b) for i, a in enumerate(colours) for b in colours[:i]]
    assert min(distances) > 40


@pytest.mark.parametrize(
    ("size", "drawn"), [((64, 96), (384, 576)), ((400, 500), (400, 500)), ((2048, 1024), (1024, 512))]
)
def test_small_images_are_enlarged_and_large_ones_shrunk(
    size: tuple[int, int], drawn: tuple[int, int]
) -> None:
    assert draw.overlay(_image(*size), _truth([], size=size)).shape == (*drawn, 3)


def test_a_mask_tints_its_inside_and_nothing_else() -> None:
    image = _image()
    drawn = _native(image, _truth([(20, 20, 50, 50)]))
    expected = 100 * 0.65 + np.array(draw.colour(0)) * 0.35
    assert np.abs(drawn[35, 35] - expected).max() <= 1
    assert (drawn[:16] == 100).all() and (drawn[54:] == 100).all() and (drawn[:, 54:] == 100).all()
    assert (image == 100).all()  # the picture given is not drawn on


def test_the_hole_of_a_ring_stays_open() -> None:
    mask = np.zeros((64, 96), np.uint8, order="F")
    mask[10:54, 10:54] = 1
    mask[24:40, 24:40] = 0
    truth = _truth([(10, 10, 54, 54)])
    truth.rles = [coco_mask.encode(mask)]
    assert (_native(_image(), truth)[32, 32] == 100).all()


def test_predictions_below_the_threshold_are_left_out() -> None:
    prediction = _prediction([(5, 30, 25, 50), (60, 30, 80, 50)], [0.9, 0.2])
    drawn = _native(_image(), prediction, threshold=0.5)
    assert (drawn[40, 15] != 100).any() and (drawn[40, 70] == 100).all()


def test_boxes_are_outlined_where_there_are_no_masks() -> None:
    drawn = _native(_image(), _prediction([(20, 30, 60, 50)], [0.9], masks=False))
    assert tuple(drawn[40, 20]) == draw.colour(0) and (drawn[40, 40] == 100).all()


def test_a_box_with_swapped_corners_is_drawn() -> None:
    drawn = _native(_image(), _prediction([(60, 50, 20, 30)], [0.9], masks=False))
    assert tuple(drawn[40, 20]) == draw.colour(0)


def test_crowds_of_a_truth_are_left_out() -> None:
    truth = _truth([(20, 20, 50, 50)])
    truth.iscrowd = torch.tensor([True])
    assert (_native(_image(), truth) == 100).all()


def test_a_label_carries_the_name_only_where_names_differ() -> None:
    prediction = _prediction([(20, 30, 60, 50)], [0.9], masks=False)
    alone = _native(_image(), prediction, names=["cell"])
    named = _native(_image(), prediction, names=["cell", "debris"])
    in_colour = [(p == np.array(draw.colour(0))).all(-1)[:30].sum() for p in (alone, named)]
    assert 0 < in_colour[0] < in_colour[1]


def test_labels_do_not_cover_one_another() -> None:
    boxes = [(20 + i, 30, 60 + i, 50) for i in range(8)]
    taken: list[tuple[float, float, float, float]] = []
    for box in boxes:
        place = draw._free_place([float(v) for v in box], 30, 12, taken, (96, 64))
        if place is not None:
            assert all(
                place[2] <= t[0] or t[2] <= place[0] or place[3] <= t[1] or t[3] <= place[1] for t in taken
            )
            taken.append(place)
    assert 2 <= len(taken) < len(boxes)


def test_points_are_marked_where_they_lie() -> None:
    drawn = _native(_image(), _truth([], masks=False), points=np.array([[30.0, 20.0], [70.0, 44.0]]))
    assert tuple(drawn[20, 24]) == draw.colour(0) and tuple(drawn[44, 64]) == draw.colour(1)


def test_points_follow_the_enlargement() -> None:
    drawn = draw.overlay(_image(), _truth([], masks=False), points=np.array([[30.0, 20.0]]))
    assert tuple(drawn[120, 174]) == draw.colour(0)


def test_classes_are_tinted_the_background_is_not_and_ignored_pixels_are_dark() -> None:
    truth = _truth([], masks=False)
    truth.semantic = torch.zeros(64, 96, dtype=torch.int64)
    truth.semantic[10:30, 10:30] = 1
    truth.semantic[40:50] = IGNORE
    drawn = _native(_image(), truth, names=["background", "cell"])
    assert (drawn[5, 5] == 100).all() and (drawn[45, 5] == 40).all()
    assert np.abs(drawn[20, 20] - (50 + np.array(draw.colour(1)) * 0.5)).max() <= 1
    assert drawn.shape[0] > 64  # the legend below


def test_a_panel_shows_truth_left_and_prediction_right() -> None:
    picture = draw.panel(_image(), _truth([(20, 20, 50, 50)]), _prediction([], []), side=64)
    left, right = np.split(picture, [picture.shape[1] // 2], axis=1)
    tinted = [(half == 100).all(-1).sum() for half in (left, right)]
    assert tinted[0] < tinted[1] == 64 * 96


def test_title_and_caption_add_strips_and_a_long_caption_wraps() -> None:
    arguments = (_image(), _truth([]), _prediction([], []))
    bare = draw.panel(*arguments)
    titled = draw.panel(*arguments, title="a.png", caption="one")
    wrapped = draw.panel(*arguments, title="a.png", caption="word " * 80)
    assert bare.shape[0] < titled.shape[0] < wrapped.shape[0]
    assert bare.shape[1] == titled.shape[1] == wrapped.shape[1]


def test_no_line_of_wrapped_text_is_too_long() -> None:
    lines = draw._wrapped("some words of different lengths " * 9, 200)
    assert max(draw._font().getlength(line) for line in lines) <= 200
    assert " ".join(lines).split() == ("some words of different lengths " * 9).split()


def test_panels_of_different_widths_are_stacked() -> None:
    sheet = draw.stack([_image(10, 20), _image(30, 50)], gap=4)
    assert sheet.shape == (44, 50, 3) and (sheet[:10, :20] == 100).all()
