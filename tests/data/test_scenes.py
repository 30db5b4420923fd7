"""Generated scenes: determinism, exact masks, styles and crowds. Their phrases: test_phrases.py."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from maskwell.data.placing import place_objects
from maskwell.data.planning import plan_objects
from maskwell.data.scenes import STYLES, Scene, generate_scene
from maskwell.data.shapes import OUTLINES, rasterise
from maskwell.data.words import COLOURS, GROUPS, KINDS


def scene(index: int, seed: int = 3, size: int = 64, low: int = 1, high: int = 6) -> Scene:
    return generate_scene(seed, index, size=size, min_objects=low, max_objects=high)


def crowds(index: int, share: float) -> Scene:
    return generate_scene(
        3, index, size=96, min_objects=1, max_objects=6, max_crowd=100, crowd_share=share, empty_share=0.0
    )


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [scene(i) for i in range(300)]


def test_a_scene_is_a_function_of_seed_and_index(scenes: list[Scene]) -> None:
    again = scene(17)
    assert (again.image == scenes[17].image).all() and (again.masks == scenes[17].masks).all()
    assert again.phrases == scenes[17].phrases
    assert (scene(17, seed=4).image != scenes[17].image).any()
    assert (scene(18).image != scenes[17].image).any()


def test_masks_are_visible_pixels(scenes: list[Scene]) -> None:
    for s in scenes:
        assert s.image.shape == (64, 64, 3) and s.image.dtype == np.uint8
        assert s.masks.shape == (len(s.labels), 64, 64) and s.masks.dtype == np.bool_
        assert s.masks.sum(0).max() <= 1, "visible pixels belong to one object"
        assert (s.masks.sum((1, 2)) >= 2).all(), "no object is empty"


def test_boxes_are_tight(scenes: list[Scene]) -> None:
    for s in scenes[:40]:
        for mask, box in zip(s.masks, s.boxes, strict=True):
            y, x = np.nonzero(mask)
            assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_number_of_objects_keeps_the_range(scenes: list[Scene]) -> None:
    counts = np.array([len(s.labels) for s in scenes])
    assert counts.max() == 6
    assert 1 <= (counts == 0).sum() <= 25, "about 3 % of the scenes are empty"
    crowded = [len(scene(i, size=128, low=8, high=12).labels) for i in range(60)]
    assert np.mean([8 <= n <= 12 for n in crowded if n]) > 0.95


def test_styles_and_kinds_all_occur(scenes: list[Scene]) -> None:
    assert {s.style for s in scenes} == set(STYLES)
    assert sum(share for share, _ in STYLES.values()) == pytest.approx(1)
    assert 0.3 < np.mean([s.style == "shapes" for s in scenes]) < 0.54
    labels = np.concatenate([s.labels for s in scenes])
    assert len(set(labels.tolist())) >= 26 and labels.max() < len(KINDS) <= len(OUTLINES)
    for s in scenes:  # what is together in an image belongs together
        kinds = {KINDS[label] for label in s.labels}
        assert any(kinds <= set(group) for group in GROUPS)


@pytest.mark.parametrize("style", STYLES)
def test_a_hundred_objects_find_their_place(style: str) -> None:
    rng = np.random.default_rng(5)
    plan = plan_objects(rng, style, 128, 100, 6.0, crowd=True)
    objects, masks = place_objects(rng, 128, plan)
    assert len(plan) == 100 and len(objects) >= 75
    assert len({o.item.kind for o in objects} - {"road"}) <= 2
    assert masks.sum((1, 2)).min() >= 4 and masks.sum(0).max() == 1
    assert np.median(masks.sum((1, 2))) < 150, "objects of a crowd are small"


def test_crowds_come_at_their_share() -> None:
    counts = np.array([len(crowds(i, 0.5).labels) for i in range(60)])
    assert 0.3 < (counts > 6).mean() < 0.65 and counts.max() > 60
    assert max(len(crowds(i, 0.0).labels) for i in range(60)) == 6


def test_markings_lie_on_the_road() -> None:
    """But for those at the ends of a bend."""
    shares = []
    for i in range(500):
        s = scene(i, size=96, high=8)
        kinds = [KINDS[label] for label in s.labels]
        if s.style != "road" or "lane marking" not in kinds:
            continue
        road = s.masks[kinds.index("road")].astype(np.uint8)
        around = cv2.morphologyEx(road, cv2.MORPH_CLOSE, np.ones((25, 25), np.uint8)).astype(bool)
        markings = s.masks[[k == "lane marking" for k in kinds]].any(0)
        shares.append(around[markings].mean())
    assert len(shares) >= 5 and np.mean(shares) > 0.8


def test_named_colours_are_seen_in_the_image(scenes: list[Scene]) -> None:
    """Independent of how items are planned: the pixels under 'red ...' are nearest to red."""
    names = list(COLOURS)
    reference = np.array([COLOURS[n] for n in names], float)
    right = []
    for s in scenes:
        if s.style != "shapes":
            continue
        for text, objects in s.phrases:
            first = text.split()[0]
            if first in ("red", "green", "blue", "yellow", "white", "black"):
                for i in objects:
                    pixels = s.image[s.masks[i]].astype(float)
                    votes = np.linalg.norm(pixels[:, None] - reference, axis=2).argmin(1)
                    right.append(names.index(first) in votes)
    assert len(right) > 25 and np.mean(right) > 0.9


@pytest.mark.parametrize(("kind", "share"), [("circle", np.pi / 4), ("square", 0.5), ("hexagon", 0.6495)])
def test_rasterised_area_is_the_geometric_one(kind: str, share: float) -> None:
    outline = OUTLINES[kind](np.random.default_rng(0))
    patch = rasterise(outline, (50.0, 50.0), 30.0, 100)
    assert patch is not None
    assert patch.mask.sum() == patch.full_area == pytest.approx(share * 60**2, rel=0.05)


def test_ring_has_a_hole_and_the_border_cuts() -> None:
    ring = rasterise(OUTLINES["ring"](np.random.default_rng(1)), (32.0, 32.0), 20.0, 64)
    assert ring is not None and ring.mask.any()
    assert not ring.mask[32 - ring.rows.start, 32 - ring.cols.start]
    circle = OUTLINES["circle"](np.random.default_rng(1))
    cut = rasterise(circle, (0.0, 32.0), 20.0, 64)
    assert cut is not None and cut.cols.start == 0
    assert cut.mask.sum() == pytest.approx(cut.full_area / 2, rel=0.08)
    assert rasterise(circle, (-200.0, 0.0), 20.0, 64) is None


def test_senseless_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="min_objects"):
        scene(0, low=5, high=2)
