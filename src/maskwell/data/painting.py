"""How generated scenes look: coloured shapes, and what all styles share, light and camera.

A painter is a pure function of its generator: (rng, image side, objects) -> uint8 [H, W, 3] RGB.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from maskwell.data import textures as tx
from maskwell.data.placing import Placed
from maskwell.data.shapes import soften
from maskwell.data.words import COLOURS

Floats = NDArray[np.float32]

PALETTE: dict[str, Floats] = {
    name: np.array(rgb, np.float32) / np.float32(255) for name, rgb in COLOURS.items()
}
"""Colour name -> RGB float32 [3] in [0, 1]."""


def paint_shapes(rng: np.random.Generator, size: int, objects: list[Placed]) -> NDArray[np.uint8]:
    """Coloured, textured shapes on a textured ground that differs from each of them."""
    used = [PALETTE[o.item.colour] for o in objects if o.item.colour is not None]
    image = _ground(rng, size, used)
    edge = rng.uniform(0, 0.8) if rng.random() < 0.5 else 0.0
    for o in objects:
        base = PALETTE[str(o.item.colour)] + rng.normal(0, 0.03, 3).astype(np.float32)
        alpha = soften(o.patch, edge)
        tx.blend(image, o.patch.rows, o.patch.cols, alpha, _textured(rng, base, o))
    if rng.random() < 0.5:
        image *= tx.light_field(rng, size, rng.uniform(0.05, 0.25))[..., None]
    return camera(rng, image, noise=0.06, coloured=True)


def _ground(rng: np.random.Generator, size: int, used: list[Floats]) -> Floats:
    best: Floats = np.zeros(3, np.float32)
    best_distance = -1.0
    for _ in range(6):
        colour: Floats = rng.uniform(0.05, 0.95, 3).astype(np.float32)
        grey = np.float32(colour.mean())
        colour = (grey + (colour - grey) * np.float32(rng.uniform(0.1, 0.9))).astype(np.float32)
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


def _textured(rng: np.random.Generator, base: Floats, o: Placed) -> Floats:
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
    textured: Floats = (base + share * (other - base)).astype(np.float32, copy=False)
    return textured


def interior(rng: np.random.Generator, o: Placed, grain: float, rim: float) -> Floats:
    """Brightness [h, w] around 1 inside a nucleus: chromatin grain and a brighter or darker rim."""
    height, width = o.patch.alpha.shape
    field = 1 + np.float32(grain) * tx.smooth_noise(rng, height, width, max(2.0, min(7.0, o.radius / 2)))
    if rim:
        inner = cv2.GaussianBlur(o.patch.alpha, (0, 0), max(1.0, 0.35 * o.radius))
        field += np.float32(rim) * (inner - np.float32(0.75))
    clipped: Floats = np.clip(field, 0.2, 2.0)
    return clipped


def turned_grid(o: Placed) -> tuple[Floats, Floats]:
    """Coordinates (along, across), each [h, w], of the patch's pixels from the object's centre.

    In pixels, on axes that are turned with the object.
    """
    x = np.arange(o.patch.cols.start, o.patch.cols.stop) + 0.5 - o.centre[0]
    y = np.arange(o.patch.rows.start, o.patch.rows.stop) + 0.5 - o.centre[1]
    cos, sin = np.cos(o.angle), np.sin(o.angle)
    along, across = cos * x[None] + sin * y[:, None], cos * y[:, None] - sin * x[None]
    return along.astype(np.float32), across.astype(np.float32)


def camera(
    rng: np.random.Generator, image: Floats, *, noise: float, coloured: bool = False
) -> NDArray[np.uint8]:
    """Blur, noise of up to ``noise`` and JPEG damage, each in some of the images."""
    if rng.random() < 0.25:
        image = tx.blurred(image, rng.uniform(0.4, 0.9))
    if rng.random() < 0.75:
        image = tx.add_noise(rng, image, rng.uniform(0, noise), coloured)
    result = tx.to_uint8(image)
    if rng.random() < 0.15:
        result = tx.jpeg_damaged(result, int(rng.integers(45, 95)))
    return result
