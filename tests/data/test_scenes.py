"""Generated scenes: determinism, exact masks, and phrases that are true."""

from __future__ import annotations

import numpy as np
import pytest

from maskwell.data.phrases import Item, make_phrases
from maskwell.data.scenes import STYLES, Scene, generate_scene
from maskwell.data.shapes import OUTLINES, rasterise
from maskwell.data.words import COLOURS, KINDS, NOUNS, VOCABULARY


def scene(index: int, seed: int = 3, size: int = 64, low: int = 1, high: int = 6) -> Scene:
    return generate_scene(seed, index, size=size, min_objects=low, max_objects=high)


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
    microscopy = np.mean([s.style != "shapes" for s in scenes])
    assert 0.32 < microscopy < 0.52
    labels = np.concatenate([s.labels for s in scenes])
    assert len(set(labels.tolist())) >= 14 and labels.max() < len(KINDS)


def test_phrases_use_the_vocabulary_and_the_share_of_negatives(scenes: list[Scene]) -> None:
    phrases = [p for s in scenes for p in s.phrases]
    assert {word for text, _ in phrases for word in text.split()} <= set(VOCABULARY)
    assert len(VOCABULARY) >= 60
    assert 0.33 < np.mean([not objects for _, objects in phrases]) < 0.53
    for s in scenes:
        assert len({text for text, _ in s.phrases}) == len(s.phrases) <= 4


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


ITEMS = [
    Item("circle", 0.1, "red", "plain"),
    Item("circle", 0.4, "blue", "striped"),
    Item("bar", 0.18, "red", "plain"),
]


def test_phrases_name_every_object_that_satisfies_them() -> None:
    found: dict[str, tuple[int, ...]] = {}
    for seed in range(300):
        found.update(make_phrases(np.random.default_rng(seed), ITEMS, 4, 0.4))
    expected = {
        "red object": (0, 2), "circle": (0, 1), "disc": (0, 1), "large circle": (1,), "small disc": (0,),
        "striped object": (1,), "object": (0, 1, 2), "bar": (2,), "red circle": (0,), "plain thing": (0, 2),
        "green circle": (), "star": (), "blue bar": (),
    }  # fmt: skip
    assert {text: found.get(text) for text in expected} == expected


def test_arguable_negatives_are_never_said() -> None:
    nuclei = [Item("nucleus", 0.17, None, None, frozenset({"white", "gray"}))]
    said = {
        text
        for seed in range(400)
        for text, objects in make_phrases(np.random.default_rng(seed), nuclei, 4, 1.0)
        if not objects
    }
    assert "star" in said and "orange nucleus" in said and "large cell" in said
    assert not said & {"circle", "ellipse", "blob", "cell", "white nucleus", "small nucleus", "tiny cell"}


def test_nothing_there_means_only_negatives() -> None:
    phrases = make_phrases(np.random.default_rng(0), [], 5, 0.0)
    assert len(phrases) == 5 and all(objects == () for _, objects in phrases)


def test_nouns_cover_every_kind() -> None:
    assert frozenset().union(*(n.kinds for n in NOUNS[:-1])) == frozenset(KINDS) <= frozenset(OUTLINES)


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
