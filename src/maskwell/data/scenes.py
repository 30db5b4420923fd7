"""Generated prompt scenes: images with many kinds of objects, exact masks and phrases for them.

They teach a small promptable segmentation model from nothing. A scene is a pure function of
(seed, index), so that a training can be interrupted and resumed at any of them. Most scenes are
coloured shapes on textured grounds; the others imitate microscopy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from maskwell.data.painting import PAINTERS
from maskwell.data.phrases import COLOURS, KINDS, SHAPES, Item, make_phrases
from maskwell.data.placing import MIN_RADIUS, Wanted, place_objects

Floats = NDArray[np.float32]

STYLES = {"shapes": 0.58, "fluorescence": 0.19, "stained": 0.12, "bright field": 0.06, "smear": 0.05}
"""Style -> its share of the scenes."""

MIN_DIAMETER = 2 * MIN_RADIUS


@dataclass(frozen=True)
class Scene:
    """One generated image with its objects and phrases.

    ``image`` uint8 [H, W, 3] RGB; ``masks`` bool [N, H, W], the visible pixels, never empty and
    never overlapping; ``labels`` int64 [N], indices into :data:`maskwell.data.phrases.KINDS`;
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
    empty_share: float = 0.03,
    min_diameter: float = MIN_DIAMETER,
    generic_share: float = 0.0,
) -> Scene:
    """Scene number ``index`` of the endless series ``seed``.

    Args:
        size: side of the square image in pixels, at least 32.
        min_objects, max_objects: range of the number of objects; a crowded image may hold fewer.
        num_prompts: most phrases of a scene, all different.
        negative_share: expected share of phrases that name nothing.
        empty_share: share of scenes without any object.
        min_diameter: of the smallest objects, pixels; platelets and thin parts may be smaller.
        generic_share: share of scenes with one phrase only, "object", which names everything: boxes
            are learnt from it long before words tell objects apart.
    """
    if size < 32 or not 1 <= min_objects <= max_objects:
        raise ValueError(f"size={size} >= 32 and 1 <= {min_objects=} <= {max_objects=} must hold.")
    rng = np.random.default_rng([seed, index])
    style = str(rng.choice(list(STYLES), p=list(STYLES.values())))
    count = 0 if rng.random() < empty_share else int(rng.integers(min_objects, max_objects + 1))
    objects, masks = place_objects(rng, size, _plan(rng, style, size, count, min_diameter))
    areas = masks.sum((1, 2))
    items = [
        replace(o.item, diameter=float(np.sqrt(4 * area / np.pi) / size))
        for o, area in zip(objects, areas, strict=True)
    ]
    image = PAINTERS[style](rng, size, objects)
    phrases = make_phrases(rng, items, num_prompts, negative_share)
    if rng.random() < generic_share:
        phrases = (("object", tuple(range(len(items)))),)
    return Scene(
        image=image,
        masks=masks,
        labels=np.array([KINDS.index(item.kind) for item in items], np.int64),
        phrases=phrases,
        style=style,
    )


# What the scene holds ---------------------------------------------------------------------------


def _plan(rng: np.random.Generator, style: str, size: int, count: int, smallest: float) -> list[Wanted]:
    if count == 0:
        return []
    largest = size * min(0.6, 1.1 / np.sqrt(count))
    if style == "shapes":
        return [_plan_shape(rng, smallest, largest) for _ in range(count)]
    return _plan_cells(rng, style, size, (smallest, largest), count)


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(max(high, low * 1.01)))))


def _plan_shape(rng: np.random.Generator, smallest: float, largest: float) -> Wanted:
    kind = SHAPES[int(rng.integers(len(SHAPES)))]
    colour = list(COLOURS)[int(rng.integers(len(COLOURS)))]
    # Thin shapes need length, or nothing of them is left to see.
    stretch = {"bar": 2.2, "ring": 1.6, "crescent": 1.6, "cross": 1.5, "star": 1.4}.get(kind, 1.0)
    diameter = _log_uniform(rng, smallest * stretch, largest)
    texture = "plain"
    if diameter > 14 and kind != "bar" and rng.random() < 0.4:
        texture = ("striped", "dotted", "noisy")[int(rng.integers(3))]
    return Wanted(Item(kind, 0.0, colour, texture), diameter / 2, near=0.2)


def _plan_cells(
    rng: np.random.Generator, style: str, size: int, limits: tuple[float, float], count: int
) -> list[Wanted]:
    """Cells of one image resemble each other: one base size, one chance of clusters."""
    smallest, largest = limits
    base = _log_uniform(rng, smallest * 1.2, min(largest, 0.35 * size)) / 2
    near = float(rng.choice([0.0, 0.3, 0.7]))
    spread = rng.uniform(0.08, 0.35)
    colour, near_colours = _stain(style)
    with_fibres = style != "smear" and rng.random() < 0.12
    plan = []
    for _ in range(count):
        kind, scale, tone = "nucleus", float(np.exp(rng.normal(0, spread))), colour
        if style == "smear":
            draw = rng.random()
            kind = "red blood cell" if draw < 0.72 else "white blood cell" if draw < 0.86 else "platelet"
            scale *= {"red blood cell": 1.0, "white blood cell": 1.5, "platelet": 0.45}[kind]
            tone = None if kind == "red blood cell" else "purple"
        elif with_fibres and rng.random() < 0.3:
            kind, scale, tone = "fibre", 2.5 * scale, None
        radius = float(np.clip(base * scale, smallest / 2, 0.3 * size))
        if kind == "fibre":
            radius = max(radius, 10.0)
        plan.append(Wanted(Item(kind, 0.0, tone, None, near_colours), radius, near))
    return plan


def _stain(style: str) -> tuple[str | None, frozenset[str]]:
    """The colour name of a style's cells, and the names that would be arguable for them."""
    if style in ("stained", "smear"):
        return ("purple" if style == "stained" else None), frozenset(
            {"purple", "blue", "pink", "red", "brown"}
        )
    return None, frozenset({"white", "gray", "black", "green", "blue", "cyan"})
