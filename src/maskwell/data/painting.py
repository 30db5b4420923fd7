"""How generated scenes look: one painter per style, from placed objects to a photograph.

A painter is a pure function of its generator: (rng, image side, objects) -> uint8 [H, W, 3] RGB.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from maskwell.data import textures as tx
from maskwell.data.phrases import COLOURS
from maskwell.data.placing import Placed
from maskwell.data.shapes import soften

Floats = NDArray[np.float32]


def _paint_shapes(rng: np.random.Generator, size: int, objects: list[Placed]) -> NDArray[np.uint8]:
    """Coloured, textured shapes on a textured ground that differs from each of them."""
    palette = {name: np.array(rgb, np.float32) / np.float32(255) for name, rgb in COLOURS.items()}
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


def _paint_fluorescence(rng: np.random.Generator, size: int, objects: list[Placed]) -> NDArray[np.uint8]:
    """Bright nuclei on a dark ground; often so dim that only a stretched contrast shows them."""
    peak = np.float32(np.exp(rng.uniform(np.log(0.1), 0)))
    floor = np.float32(rng.uniform(0, 0.12) * (0.5 + 0.5 * peak))
    signal = np.zeros((size, size), np.float32)
    edge, grain, rim = rng.uniform(0.3, 1.3), rng.uniform(0.02, 0.25), rng.uniform(-0.2, 0.7)
    varied = rng.uniform(0.0, 0.6)
    for o in objects:
        level = np.float32(1 - varied * rng.random())
        light = soften(o.patch, edge) * interior(rng, o, grain, rim) * level
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


def _paint_stained(rng: np.random.Generator, size: int, objects: list[Placed]) -> NDArray[np.uint8]:
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
        depth = np.float32(1 - varied * rng.random()) * interior(rng, o, grain, rim)
        colour = ground + depth[..., None] * (ink - ground)
        tx.blend(image, o.patch.rows, o.patch.cols, soften(o.patch, edge), colour)
    if rng.random() < 0.4:
        image *= tx.light_field(rng, size, rng.uniform(0.05, 0.2))[..., None]
    return _camera(rng, image, noise=0.025, coloured=True)


def _paint_bright_field(rng: np.random.Generator, size: int, objects: list[Placed]) -> NDArray[np.uint8]:
    """Grey cells on a lighter grey ground, contrast low."""
    ground, contrast = rng.uniform(0.55, 0.9), rng.uniform(0.12, 0.5)
    image = np.full((size, size), ground, np.float32)
    image += np.float32(rng.uniform(0, 0.04)) * tx.smooth_noise(rng, size, size, 10)
    edge, grain, rim = rng.uniform(0.3, 1.2), rng.uniform(0.03, 0.25), rng.uniform(-0.7, 0.3)
    for o in objects:
        depth = np.float32(contrast * rng.uniform(0.6, 1)) * interior(rng, o, grain, rim)
        window = image[o.patch.rows, o.patch.cols]
        window += soften(o.patch, edge) * (np.float32(ground) - depth - window)
    image *= tx.light_field(rng, size, rng.uniform(0, 0.25))
    inverted = rng.random() < 0.1
    grey = np.repeat((1 - image if inverted else image)[..., None], 3, axis=2)
    return _camera(rng, grey, noise=0.03)


def _paint_smear(rng: np.random.Generator, size: int, objects: list[Placed]) -> NDArray[np.uint8]:
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
            depth = interior(rng, o, 0.15, 0.4)
            colour = ground + depth[..., None] * (violet - ground)
        tx.blend(image, o.patch.rows, o.patch.cols, soften(o.patch, edge), colour)
    image *= tx.light_field(rng, size, rng.uniform(0, 0.15))[..., None]
    return _camera(rng, image, noise=0.02, coloured=True)


def _camera(
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


Painter = Callable[[np.random.Generator, int, list[Placed]], NDArray[np.uint8]]
PAINTERS: dict[str, Painter] = {
    "shapes": _paint_shapes,
    "fluorescence": _paint_fluorescence,
    "stained": _paint_stained,
    "bright field": _paint_bright_field,
    "smear": _paint_smear,
}
"""Style -> its painter."""
