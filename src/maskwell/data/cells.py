"""Generated microscopy-like images of stained tissue with exact masks: one image at a time.

Three categories that differ by look: *nucleus* (purple, grainy, roundish), *dividing cell* (a pale
body around two parallel dark plates) and *debris* (angular brown fragments).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskwell.data import textures as tx
from maskwell.data.painting import interior
from maskwell.data.phrases import Item
from maskwell.data.placing import Placed, Wanted, place_objects
from maskwell.data.shapes import rasterise, rotated, soften

Floats = NDArray[np.float32]

CATEGORIES = ("nucleus", "dividing cell", "debris")
_SHARES = (0.68, 0.17, 0.15)
_EMPTY_SHARE = 0.03


@dataclass(frozen=True)
class CellImage:
    """``image`` uint8 [H, W, 3] RGB; ``masks`` bool [N, H, W], visible pixels, never empty and never
    overlapping; ``labels`` int64 [N], indices into :data:`CATEGORIES`.
    """

    image: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    labels: NDArray[np.int64]


def generate_cells(seed: int, split: int, index: int, size: int = 256) -> CellImage:
    """Image ``index`` of a split: a pure function of its arguments.

    Args:
        seed: another seed, another dataset.
        split: number of the split; splits share no image.
        size: side of the image in pixels; cells are as large in pixels whatever it is.
    """
    rng = np.random.default_rng([seed, split, index])
    objects, masks = place_objects(rng, size, _plan(rng, size))
    return CellImage(
        image=_paint(rng, size, objects),
        masks=masks,
        labels=np.array([CATEGORIES.index(o.item.kind) for o in objects], np.int64),
    )


def _plan(rng: np.random.Generator, size: int) -> list[Wanted]:
    if rng.random() < _EMPTY_SHARE:
        return []
    count = max(1, round(rng.integers(5, 29) * (size / 256) ** 2))
    base = rng.uniform(9, 17)
    plan = []
    for _ in range(count):
        kind = str(rng.choice(CATEGORIES, p=_SHARES))
        scale = {"nucleus": 1.0, "dividing cell": 1.35, "debris": 0.55}[kind]
        radius = base * scale * float(np.exp(rng.normal(0, 0.18)))
        plan.append(Wanted(Item(kind, 0.0), radius, near=0.4 if kind == "nucleus" else 0.1))
    return plan


def _paint(rng: np.random.Generator, size: int, objects: list[Placed]) -> NDArray[np.uint8]:
    ground = np.array([0.82, 0.74, 0.86], np.float32) + rng.normal(0, 0.03, 3).astype(np.float32)
    ink = np.array([0.38, 0.18, 0.56], np.float32) + rng.normal(0, 0.04, 3).astype(np.float32)
    image = _tissue(rng, size, ground, ink)
    for o in objects:
        if o.item.kind == "nucleus":
            depth = np.float32(rng.uniform(0.55, 1.0)) * interior(rng, o, rng.uniform(0.08, 0.2), -0.35)
            tx.blend(image, o.patch.rows, o.patch.cols, soften(o.patch, 0.7), _stain(ground, ink, depth))
        elif o.item.kind == "dividing cell":
            _paint_dividing(rng, image, o, ground, ink)
        else:
            brown = np.array([0.34, 0.24, 0.12], np.float32) + rng.normal(0, 0.05, 3).astype(np.float32)
            shade = interior(rng, o, 0.25, 0.0)[..., None]
            tx.blend(image, o.patch.rows, o.patch.cols, soften(o.patch, 0.4), brown * shade)
    image *= tx.light_field(rng, size, rng.uniform(0.05, 0.3))[..., None]
    image = tx.blurred(image, rng.uniform(0.4, 0.9)) if rng.random() < 0.5 else image
    return tx.to_uint8(tx.add_noise(rng, image, rng.uniform(0.01, 0.035), coloured=True))


def _tissue(rng: np.random.Generator, size: int, ground: Floats, ink: Floats) -> Floats:
    """Pale ground with clouds, grain and faint out-of-focus shadows that are no objects."""
    clouds = 0.6 * tx.smooth_noise(rng, size, size, 5) + 0.4 * tx.smooth_noise(rng, size, size, 40)
    image = ground + np.float32(rng.uniform(0.03, 0.09)) * clouds[..., None] * (ink - ground)
    shadows = np.clip(tx.smooth_noise(rng, size, size, 9) - 1.1, 0, 1)[..., None]
    shaded: Floats = (image + np.float32(0.18) * shadows * (ink - ground)).astype(np.float32)
    return shaded


def _stain(ground: Floats, ink: Floats, depth: Floats) -> Floats:
    """The colour [h, w, 3] of tissue that took up ``depth`` (0 to about 1) of the stain."""
    return ground + depth[..., None] * (ink - ground)


def _paint_dividing(rng: np.random.Generator, image: Floats, o: Placed, ground: Floats, ink: Floats) -> None:
    """A pale body with a darker border, and two dark plates across its long axis."""
    size = len(image)
    alpha = soften(o.patch, 0.7)
    body = _stain(ground, ink, np.float32(0.22) * interior(rng, o, 0.1, -1.2))
    tx.blend(image, o.patch.rows, o.patch.cols, alpha, body)
    angle = _long_axis(o)
    gap, half = o.radius * rng.uniform(0.2, 0.34), o.radius * rng.uniform(0.42, 0.55)
    plate = np.array([[-0.22, -1], [0.22, -1], [0.3, 0], [0.22, 1], [-0.22, 1], [-0.3, 0]], np.float32)
    for side in (-1, 1):
        centre = (o.centre[0] + side * gap * np.cos(angle), o.centre[1] + side * gap * np.sin(angle))
        patch = rasterise(rotated([plate], angle), centre, half, size)
        if patch is None:
            continue
        # Plates stay inside the body's own visible window.
        coverage = np.zeros((size, size), np.float32)
        coverage[patch.rows, patch.cols] = soften(patch, 0.6)
        inside = coverage[o.patch.rows, o.patch.cols] * alpha
        tx.blend(image, o.patch.rows, o.patch.cols, inside, ink * np.float32(0.62))


def _long_axis(o: Placed) -> float:
    """Angle in radians of the longest extent of an object's pixels."""
    y, x = np.nonzero(o.patch.mask)
    if len(x) < 3:
        return 0.0
    _, vectors = np.linalg.eigh(np.cov(np.stack([x, y])))
    return float(np.arctan2(vectors[1, 1], vectors[0, 1]))
