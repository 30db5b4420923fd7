"""Generated prompt scenes: images with many kinds of objects, exact masks and phrases for them.

They teach a small promptable segmentation model from nothing. A scene is a pure function of
(seed, index), so that a training can be interrupted and resumed at any of them. Most scenes are
coloured shapes on textured grounds; the others imitate microscopy, plants, roads and documents.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from maskwell.data.painting import paint_shapes
from maskwell.data.painting_cells import paint_bright_field, paint_fluorescence, paint_smear, paint_stained
from maskwell.data.painting_documents import paint_document
from maskwell.data.painting_scenery import paint_leaves, paint_road
from maskwell.data.phrases import make_phrases
from maskwell.data.placing import MIN_RADIUS, Placed, place_objects
from maskwell.data.planning import plan_objects
from maskwell.data.words import KINDS, OBJECT

Floats = NDArray[np.float32]

STYLES: dict[str, tuple[float, Callable[[np.random.Generator, int, list[Placed]], NDArray[np.uint8]]]] = {
    "shapes": (0.42, paint_shapes),
    "fluorescence": (0.15, paint_fluorescence),
    "stained": (0.10, paint_stained),
    "bright field": (0.05, paint_bright_field),
    "smear": (0.08, paint_smear),
    "leaves": (0.08, paint_leaves),
    "road": (0.06, paint_road),
    "document": (0.06, paint_document),
}
"""Style -> its share of the scenes, and its painter."""

MIN_DIAMETER = 2 * MIN_RADIUS


@dataclass(frozen=True)
class Scene:
    """One generated image with its objects and phrases.

    ``image`` uint8 [H, W, 3] RGB; ``masks`` bool [N, H, W], the visible pixels, never empty and
    never overlapping; ``labels`` int64 [N], indices into :data:`maskwell.data.words.KINDS`;
    ``phrases`` pairs of a phrase and the indices of all objects it names (none: a negative).
    """

    image: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    labels: NDArray[np.int64]
    phrases: tuple[tuple[str, tuple[int, ...]], ...]
    style: str

    @property
    def boxes(self) -> Floats:
        """float32 [N, 4], xyxy in pixels around the visible pixels (right and bottom exclusive)."""
        return boxes_of(self.masks)


def boxes_of(masks: NDArray[np.bool_]) -> Floats:
    """Tight xyxy boxes float32 [N, 4] of non-empty masks [N, H, W], in pixels."""
    boxes = np.zeros((len(masks), 4), np.float32)
    if len(masks):
        columns, rows = masks.max(1), masks.max(2)
        boxes[:, 0], boxes[:, 1] = columns.argmax(1), rows.argmax(1)
        boxes[:, 2] = masks.shape[2] - columns[:, ::-1].argmax(1)
        boxes[:, 3] = masks.shape[1] - rows[:, ::-1].argmax(1)
    return boxes


def generate_scene(
    seed: int,
    index: int,
    *,
    size: int,
    min_objects: int,
    max_objects: int,
    num_prompts: int = 4,
    negative_share: float = 0.4,
    near_share: float = 0.6,
    empty_share: float = 0.03,
    min_diameter: float = MIN_DIAMETER,
    generic_share: float = 0.0,
    max_crowd: int = 0,
    crowd_share: float = 0.0,
) -> Scene:
    """Scene number ``index`` of the endless series ``seed``.

    Args:
        size: side of the square image in pixels, at least 32.
        min_objects, max_objects: range of the number of objects; a crowded image may hold fewer.
        num_prompts: most phrases of a scene, all different.
        negative_share: expected share of phrases that name nothing.
        near_share: share of those that are near: "blue circle" where there is a red one.
        empty_share: share of scenes without any object.
        min_diameter: of the smallest objects, pixels; platelets and thin parts may be smaller.
        generic_share: share of scenes with one phrase only, "object", which names everything: boxes
            are learnt from it long before words tell objects apart.
        max_crowd: most objects of a crowd, which are small and of one or two kinds.
        crowd_share: share of scenes that are crowds.
    """
    if size < 32 or not 1 <= min_objects <= max_objects:
        raise ValueError(f"size={size} >= 32 and 1 <= {min_objects=} <= {max_objects=} must hold.")
    rng = np.random.default_rng([seed, index])
    style = str(rng.choice(list(STYLES), p=[share for share, _ in STYLES.values()]))
    crowd = max_crowd > max_objects and rng.random() < crowd_share
    count = int(
        rng.integers(max_objects, max_crowd) + 1 if crowd else rng.integers(min_objects, max_objects + 1)
    )
    count = 0 if rng.random() < empty_share else count
    objects, masks = place_objects(rng, size, plan_objects(rng, style, size, count, min_diameter, crowd))
    image = STYLES[style][1](rng, size, objects)
    items = [
        replace(
            o.item,
            diameter=float(np.sqrt(4 * area / np.pi) / size),
            centre=(float(box[0] + box[2]) / 2 / size, float(box[1] + box[3]) / 2 / size),
        )
        for o, area, box in zip(objects, masks.sum((1, 2)), boxes_of(masks), strict=True)
    ]
    phrases = make_phrases(rng, items, num_prompts, negative_share, near_share)
    if rng.random() < generic_share:
        phrases = ((OBJECT.words[0], tuple(range(len(items)))),)
    return Scene(
        image=image,
        masks=masks,
        labels=np.array([KINDS.index(item.kind) for item in items], np.int64),
        phrases=phrases,
        style=style,
    )
