"""Generated prompt scenes: images with many kinds of objects, exact masks and phrases for them.

They teach a small promptable segmentation model from nothing. A scene is a pure function of
(seed, index), so that a training can be interrupted and resumed at any of them. Most scenes are
coloured shapes on textured grounds; the others imitate microscopy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from maskwell.data import textures as tx
from maskwell.data.phrases import COLOURS, KINDS, SHAPES, Item, make_phrases
from maskwell.data.shapes import OUTLINES, Patch, rasterise, rotated, soften

Floats = NDArray[np.float32]

STYLES = {"shapes": 0.58, "fluorescence": 0.19, "stained": 0.12, "bright field": 0.06, "smear": 0.05}
"""Style -> its share of the scenes."""

_MIN_DIAMETER = 6.0  # pixels
_MIN_VISIBLE = 0.4  # share of an object's pixels that stays visible, however much is stacked on it


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


@dataclass(frozen=True)
class _Object:
    """A placed object: its patch, and the item that phrases speak of."""

    patch: Patch
    item: Item
    centre: tuple[float, float]
    radius: float


def boxes_of(masks: NDArray[np.bool_]) -> Floats:
    """Tight xyxy boxes float32 [N, 4] of non-empty masks [N, H, W], in pixels."""
    boxes = np.zeros((len(masks), 4), np.float32)
    if len(masks):
        columns, rows = masks.any(1), masks.any(2)
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
) -> Scene:
    """Scene number ``index`` of the endless series ``seed``.

    Args:
        size: side of the square image in pixels, at least 32.
        min_objects, max_objects: range of the number of objects; a crowded image may hold fewer.
        num_prompts: most phrases of a scene, all different.
        negative_share: expected share of phrases that name nothing.
        empty_share: share of scenes without any object.
    """
    if size < 32 or not 1 <= min_objects <= max_objects:
        raise ValueError(f"size={size} >= 32 and 1 <= {min_objects=} <= {max_objects=} must hold.")
    rng = np.random.default_rng([seed, index])
    style = str(rng.choice(list(STYLES), p=list(STYLES.values())))
    count = 0 if rng.random() < empty_share else int(rng.integers(min_objects, max_objects + 1))
    objects, owner = _place_all(rng, size, _plan(rng, style, size, count))
    masks = owner[None] == np.arange(len(objects), dtype=np.int16)[:, None, None]
    areas = masks.sum((1, 2))
    items = [
        replace(o.item, diameter=float(np.sqrt(4 * area / np.pi) / size))
        for o, area in zip(objects, areas, strict=True)
    ]
    image = _PAINTERS[style](rng, size, objects, owner)
    return Scene(
        image=image,
        masks=masks,
        labels=np.array([KINDS.index(item.kind) for item in items], np.int64),
        phrases=make_phrases(rng, items, num_prompts, negative_share),
        style=style,
    )


# What the scene holds ---------------------------------------------------------------------------


def _plan(rng: np.random.Generator, style: str, size: int, count: int) -> list[tuple[Item, float, float]]:
    """(item, radius in pixels, chance to be laid beside another object) of each object to place."""
    if count == 0:
        return []
    largest = size * min(0.6, 1.1 / np.sqrt(count))
    if style == "shapes":
        return [_plan_shape(rng, largest) for _ in range(count)]
    return _plan_cells(rng, style, size, largest, count)


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(max(high, low * 1.01)))))


def _plan_shape(rng: np.random.Generator, largest: float) -> tuple[Item, float, float]:
    kind = SHAPES[int(rng.integers(len(SHAPES)))]
    colour = list(COLOURS)[int(rng.integers(len(COLOURS)))]
    # Thin shapes need length, or nothing of them is left to see.
    smallest = {"bar": 2.2, "ring": 1.6, "crescent": 1.6, "cross": 1.5, "star": 1.4}.get(kind, 1.0)
    diameter = _log_uniform(rng, _MIN_DIAMETER * smallest, largest)
    texture = "plain"
    if diameter > 14 and kind != "bar" and rng.random() < 0.4:
        texture = ("striped", "dotted", "noisy")[int(rng.integers(3))]
    return Item(kind, 0.0, colour, texture), diameter / 2, 0.2


def _plan_cells(
    rng: np.random.Generator, style: str, size: int, largest: float, count: int
) -> list[tuple[Item, float, float]]:
    """Cells of one image resemble each other: one base size, one chance of clusters."""
    base = _log_uniform(rng, _MIN_DIAMETER * 1.2, min(largest, 0.35 * size)) / 2
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
        radius = float(np.clip(base * scale, _MIN_DIAMETER / 2, 0.3 * size))
        if kind == "fibre":
            radius = max(radius, 10.0)
        plan.append((Item(kind, 0.0, tone, None, near_colours), radius, near))
    return plan


def _stain(style: str) -> tuple[str | None, frozenset[str]]:
    """The colour name of a style's cells, and the names that would be arguable for them."""
    if style in ("stained", "smear"):
        return ("purple" if style == "stained" else None), frozenset({"purple", "blue", "pink", "red", "brown"})
    return None, frozenset({"white", "gray", "black", "green", "blue", "cyan"})


def _place_all(
    rng: np.random.Generator, size: int, plan: list[tuple[Item, float, float]]
) -> tuple[list[_Object], NDArray[np.int16]]:
    """Lay the objects one upon the other; ``owner`` [H, W] is the topmost object's index or -1."""
    owner = np.full((size, size), -1, np.int16)
    visible = np.zeros(len(plan) + 1, np.int64)
    needed = np.zeros(len(plan) + 1)
    objects: list[_Object] = []
    for item, wanted, near in plan:
        for attempt in range(14):
            radius = max(wanted * 0.88**attempt, _MIN_DIAMETER / 2)
            candidate = _candidate(rng, size, item, radius, near if attempt < 4 else 0.0, objects)
            if candidate is None:
                continue
            patch = candidate.patch
            mask = patch.mask
            gained, least = int(np.count_nonzero(mask)), max(6.0, _MIN_VISIBLE * patch.full_area)
            beneath = owner[patch.rows, patch.cols]
            lost = np.bincount(beneath[mask] + 1, minlength=len(visible))[1:]
            if gained < least or (visible[: len(lost)] - lost < needed[: len(lost)]).any():
                continue
            visible[: len(lost)] -= lost
            visible[len(objects)], needed[len(objects)] = gained, least
            beneath[mask] = len(objects)
            objects.append(candidate)
            break
    return objects, owner


def _candidate(
    rng: np.random.Generator, size: int, item: Item, radius: float, near: float, objects: list[_Object]
) -> _Object | None:
    if objects and rng.random() < near:  # touching or slightly overlapping another object
        other = objects[int(rng.integers(len(objects)))]
        distance, angle = (other.radius + radius) * rng.uniform(0.7, 1.05), rng.uniform(0, 2 * np.pi)
        x = other.centre[0] + distance * float(np.cos(angle))
        y = other.centre[1] + distance * float(np.sin(angle))
    else:
        x, y = (float(v) for v in rng.uniform(-0.02 * size, 1.02 * size, 2))
    outline = rotated(OUTLINES[item.kind](rng), rng.uniform(0, 2 * np.pi))
    patch = rasterise(outline, (x, y), radius, size)
    return None if patch is None else _Object(patch, item, (x, y), radius)


# How it looks -----------------------------------------------------------------------------------


def _paint_shapes(
    rng: np.random.Generator, size: int, objects: list[_Object], owner: NDArray[np.int16]
) -> NDArray[np.uint8]:
    """Coloured, textured shapes on a textured ground that differs from each of them."""
    palette = {name: np.array(rgb, np.float32) / 255 for name, rgb in COLOURS.items()}
    used = [palette[o.item.colour] for o in objects if o.item.colour is not None]
    image = _ground(rng, size, used)
    edge = rng.uniform(0, 0.8) if rng.random() < 0.5 else 0.0
    for o in objects:
        base = palette[str(o.item.colour)] + rng.normal(0, 0.03, 3).astype(np.float32)
        alpha = soften(o.patch, edge)
        tx.blend(image, o.patch.rows, o.patch.cols, alpha, _textured(rng, base, o))
    if rng.random() < 0.5:
        image *= tx.light_field(rng, size, rng.uniform(0.05, 0.25))[..., None]
    return _camera(rng, image, noise=0.06, coloured=True)


def _ground(rng: np.random.Generator, size: int, used: list[Floats]) -> Floats:
    best, best_distance = np.zeros(3, np.float32), -1.0
    for _ in range(6):
        colour = rng.uniform(0.05, 0.95, 3).astype(np.float32)
        colour = colour.mean() + (colour - colour.mean()) * np.float32(rng.uniform(0.1, 0.9))
        distance = min((float(np.abs(colour - other).max()) for other in used), default=1.0)
        if distance > best_distance:
            best, best_distance = colour, distance
        if distance > 0.35:
            break
    image = np.empty((size, size, 3), np.float32)
    image[:] = best
    strength = np.float32(rng.uniform(0, 0.07))
    pattern = tx.smooth_noise(rng, size, size, float(rng.choice([3, 8, 24])))
    tint = rng.normal(0, 0.4, 3).astype(np.float32) + 1
    image += strength * pattern[..., None] * tint
    if rng.random() < 0.2:
        bands = tx.stripes(rng, size, size, rng.uniform(6, 24))
        image += np.float32(rng.uniform(0.02, 0.06)) * (bands[..., None] - 0.5)
    return image


def _textured(rng: np.random.Generator, base: Floats, o: _Object) -> Floats:
    """The object's colour, [3] if plain or [h, w, 3] with its texture."""
    height, width = o.patch.alpha.shape
    if o.item.texture == "plain":
        return base
    # The second tone goes towards black on bright colours, towards white on dark ones.
    target = np.float32(0.0 if base.mean() > 0.4 else 1.0)
    other = base + np.float32(rng.uniform(0.4, 0.6)) * (target - base)
    if o.item.texture == "noisy":
        share = rng.random((height, width), np.float32)[..., None]
    else:
        period = max(3.5, o.radius * rng.uniform(0.35, 0.6))
        draw = tx.stripes if o.item.texture == "striped" else tx.dots
        share = draw(rng, height, width, period)[..., None]
    return base + share * (other - base)


def _interior(rng: np.random.Generator, o: _Object, grain: float, rim: float) -> Floats:
    """Brightness [h, w] around 1 inside a nucleus: chromatin grain and a brighter or darker rim."""
    height, width = o.patch.alpha.shape
    field = 1 + np.float32(grain) * tx.smooth_noise(rng, height, width, max(2.0, min(7.0, o.radius / 2)))
    if rim:
        inner = cv2.GaussianBlur(o.patch.alpha, (0, 0), max(1.0, 0.35 * o.radius))
        field += np.float32(rim) * (inner - np.float32(0.75))
    return np.clip(field, 0.2, 2.0)


def _paint_fluorescence(
    rng: np.random.Generator, size: int, objects: list[_Object], owner: NDArray[np.int16]
) -> NDArray[np.uint8]:
    """Bright nuclei on a dark ground; often so dim that only a stretched contrast shows them."""
    peak = np.float32(_log_uniform(rng, 0.1, 1.0))
    floor = np.float32(rng.uniform(0, 0.12) * (0.5 + 0.5 * peak))
    signal = np.zeros((size, size), np.float32)
    edge, grain, rim = rng.uniform(0.3, 1.3), rng.uniform(0.02, 0.25), rng.uniform(-0.2, 0.7)
    varied = rng.uniform(0.0, 0.6)
    for o in objects:
        level = np.float32(1 - varied * rng.random())
        light = soften(o.patch, edge) * _interior(rng, o, grain, rim) * level
        window = signal[o.patch.rows, o.patch.cols]
        # Where nuclei overlap the light adds up a little.
        np.copyto(window, np.maximum(window, light) + 0.2 * np.minimum(window, light))
    if rng.random() < 0.4:  # glow of what is out of focus
        glow = tx.smooth_noise(rng, size, size, 4)
        signal += np.float32(rng.uniform(0.02, 0.12)) * np.maximum(glow, 0)
    if rng.random() < 0.5:
        signal *= tx.light_field(rng, size, rng.uniform(0.1, 0.5))
    if rng.random() < 0.12:  # a coloured dye
        tint = np.array([[0.2, 0.4, 1.0], [0.2, 1.0, 0.3], [0.2, 0.9, 1.0]][int(rng.integers(3))], np.float32)
    else:
        tint = np.ones(3, np.float32)
    image = (floor + (peak - floor) * signal)[..., None] * tint
    inverted = rng.random() < 0.08
    return _camera(rng, 1 - image if inverted else image, noise=float(0.05 * peak + 0.005))


def _paint_stained(
    rng: np.random.Generator, size: int, objects: list[_Object], owner: NDArray[np.int16]
) -> NDArray[np.uint8]:
    """Purple nuclei in pale tissue, or on bare glass."""
    grounds = ([0.76, 0.68, 0.86], [0.92, 0.9, 0.94], [0.9, 0.74, 0.84], [0.8, 0.7, 0.9], [0.88, 0.92, 0.92])
    ground = np.array(grounds[int(rng.integers(5))], np.float32) + rng.normal(0, 0.03, 3).astype(np.float32)
    inks = ([0.36, 0.16, 0.62], [0.45, 0.12, 0.5], [0.3, 0.2, 0.55], [0.5, 0.28, 0.66])
    ink = np.array(inks[int(rng.integers(4))], np.float32) + rng.normal(0, 0.03, 3).astype(np.float32)
    image = np.empty((size, size, 3), np.float32)
    image[:] = ground
    tissue = 0.6 * tx.smooth_noise(rng, size, size, 5) + 0.4 * tx.smooth_noise(rng, size, size, 18)
    image += np.float32(rng.uniform(0.01, 0.1)) * tissue[..., None] * (ink - ground)
    edge, grain, rim = rng.uniform(0.3, 1.0), rng.uniform(0.03, 0.25), rng.uniform(-0.6, 0.3)
    varied = rng.uniform(0.1, 0.5)
    for o in objects:
        depth = np.float32(1 - varied * rng.random()) * _interior(rng, o, grain, rim)
        colour = ground + depth[..., None] * (ink - ground)
        tx.blend(image, o.patch.rows, o.patch.cols, soften(o.patch, edge), colour)
    if rng.random() < 0.4:
        image *= tx.light_field(rng, size, rng.uniform(0.05, 0.2))[..., None]
    return _camera(rng, image, noise=0.025, coloured=True)


def _paint_bright_field(
    rng: np.random.Generator, size: int, objects: list[_Object], owner: NDArray[np.int16]
) -> NDArray[np.uint8]:
    """Grey cells on a lighter grey ground, contrast low."""
    ground, contrast = rng.uniform(0.55, 0.9), rng.uniform(0.12, 0.5)
    image = np.full((size, size), ground, np.float32)
    image += np.float32(rng.uniform(0, 0.04)) * tx.smooth_noise(rng, size, size, 10)
    edge, grain, rim = rng.uniform(0.3, 1.2), rng.uniform(0.03, 0.25), rng.uniform(-0.7, 0.3)
    for o in objects:
        depth = np.float32(contrast * rng.uniform(0.6, 1)) * _interior(rng, o, grain, rim)
        window = image[o.patch.rows, o.patch.cols]
        window += soften(o.patch, edge) * (np.float32(ground) - depth - window)
    image *= tx.light_field(rng, size, rng.uniform(0, 0.25))
    inverted = rng.random() < 0.1
    grey = np.repeat((1 - image if inverted else image)[..., None], 3, axis=2)
    return _camera(rng, grey, noise=0.03)


def _paint_smear(
    rng: np.random.Generator, size: int, objects: list[_Object], owner: NDArray[np.int16]
) -> NDArray[np.uint8]:
    """A blood smear: pink discs with pale centres, purple white cells and platelets."""
    ground = np.array([0.86, 0.8, 0.8], np.float32) + rng.normal(0, 0.05, 3).astype(np.float32)
    pink = np.array([0.74, 0.5, 0.54], np.float32) + rng.normal(0, 0.04, 3).astype(np.float32)
    violet = np.array([0.42, 0.22, 0.58], np.float32) + rng.normal(0, 0.04, 3).astype(np.float32)
    image = np.empty((size, size, 3), np.float32)
    image[:] = ground
    image += np.float32(rng.uniform(0, 0.02)) * tx.smooth_noise(rng, size, size, 6)[..., None]
    edge, pallor = rng.uniform(0.3, 0.9), rng.uniform(0, 0.7)
    for o in objects:
        if o.item.kind == "red blood cell":
            middle = cv2.GaussianBlur(o.patch.alpha, (0, 0), max(1.0, 0.45 * o.radius))
            pale = np.float32(pallor) * np.clip(middle * 1.6 - 0.6, 0, 1)[..., None]
            colour = pink + pale * (ground - pink)
        else:
            depth = _interior(rng, o, 0.15, 0.4)
            colour = ground + depth[..., None] * (violet - ground)
        tx.blend(image, o.patch.rows, o.patch.cols, soften(o.patch, edge), colour)
    image *= tx.light_field(rng, size, rng.uniform(0, 0.15))[..., None]
    return _camera(rng, image, noise=0.02, coloured=True)


_Painter = Callable[[np.random.Generator, int, list[_Object], NDArray[np.int16]], NDArray[np.uint8]]
_PAINTERS: dict[str, _Painter] = {
    "shapes": _paint_shapes,
    "fluorescence": _paint_fluorescence,
    "stained": _paint_stained,
    "bright field": _paint_bright_field,
    "smear": _paint_smear,
}


def _camera(rng: np.random.Generator, image: Floats, *, noise: float, coloured: bool = False) -> NDArray[np.uint8]:
    """Blur, noise of up to ``noise`` and JPEG damage, each in some of the images."""
    if rng.random() < 0.25:
        image = tx.blurred(image, rng.uniform(0.4, 0.9))
    if rng.random() < 0.75:
        image = tx.add_noise(rng, image, rng.uniform(0, noise), coloured)
    result = tx.to_uint8(image)
    if rng.random() < 0.15:
        result = tx.jpeg_damaged(result, int(rng.integers(45, 95)))
    return result
