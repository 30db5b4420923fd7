"""Painters of microscopy: fluorescence, stained tissue, bright field and blood smears."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from maskwell.data import textures as tx
from maskwell.data.painting import camera, interior
from maskwell.data.placing import Placed
from maskwell.data.shapes import soften

Floats = NDArray[np.float32]


def paint_fluorescence(rng: np.random.Generator, size: int, objects: list[Placed]) -> NDArray[np.uint8]:
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
    inverted = rng.random() < 0.08
    if not inverted and rng.random() < 0.12:  # a coloured dye
        tint = np.array([[0.2, 0.4, 1.0], [0.2, 1.0, 0.3], [0.2, 0.9, 1.0]][int(rng.integers(3))], np.float32)
    else:
        tint = np.ones(3, np.float32)
    image = (floor + (peak - floor) * signal)[..., None] * tint
    return camera(rng, 1 - image if inverted else image, noise=float(0.05 * peak + 0.005))


def paint_stained(rng: np.random.Generator, size: int, objects: list[Placed]) -> NDArray[np.uint8]:
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
    return camera(rng, image, noise=0.025, coloured=True)


def paint_bright_field(rng: np.random.Generator, size: int, objects: list[Placed]) -> NDArray[np.uint8]:
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
    return camera(rng, grey, noise=0.03)


def paint_smear(rng: np.random.Generator, size: int, objects: list[Placed]) -> NDArray[np.uint8]:
    """A blood smear: translucent pink discs with pale centres, violet white cells and platelets."""
    tints = ([0.84, 0.84, 0.82], [0.88, 0.84, 0.86], [0.8, 0.8, 0.76])
    ground = np.array(tints[int(rng.integers(3))], np.float32) + rng.normal(0, 0.015, 3).astype(np.float32)
    pinks = ([0.76, 0.58, 0.55], [0.74, 0.52, 0.56], [0.72, 0.6, 0.6])
    pink = np.array(pinks[int(rng.integers(3))], np.float32) + rng.normal(0, 0.03, 3).astype(np.float32)
    violet = np.array([0.4, 0.26, 0.68], np.float32) + rng.normal(0, 0.05, 3).astype(np.float32)
    image = np.empty((size, size, 3), np.float32)
    image[:] = ground
    image += np.float32(rng.uniform(0, 0.02)) * tx.smooth_noise(rng, size, size, 6)[..., None]
    edge, pallor, tone = rng.uniform(0.3, 0.9), rng.uniform(0, 0.9), rng.uniform(0.02, 0.2)
    for o in objects:
        alpha = soften(o.patch, edge)
        if o.item.kind == "red blood cell":
            _paint_red_cell(rng, image, o, alpha, (ground, pink), min(1.0, pallor * rng.uniform(0.5, 1.3)))
            continue
        if o.item.kind == "white blood cell":  # pale body, dark lobes
            inner = soften(o.patch, 0.3 * o.radius)
            lobes = tx.smooth_noise(rng, alpha.shape[0], alpha.shape[1], 2.2) + 3.2 * inner - 2.4
            body, sharp = np.float32(rng.uniform(0.25, 0.5)), np.float32(rng.uniform(2, 6))
            share = body + (1 - body) * np.clip(sharp * lobes + 0.5, 0, 1)
            depth = (share * interior(rng, o, 0.1, 0.0)).astype(np.float32)
        else:
            depth = np.float32(rng.uniform(0.5, 1)) * interior(rng, o, 0.15, 0.4)
        tx.blend(image, o.patch.rows, o.patch.cols, alpha, ground + depth[..., None] * (violet - ground))
    if rng.random() < 0.5:
        image *= tx.light_field(rng, size, tone)[..., None]
    return camera(rng, image, noise=0.02, coloured=True)


def _paint_red_cell(
    rng: np.random.Generator,
    image: Floats,
    o: Placed,
    alpha: Floats,
    colours: tuple[Floats, Floats],
    pallor: float,
) -> None:
    """A disc with a paler middle off its centre, through which lower cells shine a little."""
    ground, pink = colours
    middle = cv2.GaussianBlur(o.patch.alpha, (0, 0), max(1.0, 0.35 * o.radius))
    wide = np.float32(rng.uniform(0.7, 0.88))
    pale = np.float32(pallor) * np.clip((middle - wide) * rng.uniform(4, 9), 0, 1)
    shade = np.float32(rng.uniform(0.9, 1.05)) * (1 - np.float32(0.1) * (1 - middle))
    colour = (pink + pale[..., None] * (ground - pink)) * shade[..., None]
    window = image[o.patch.rows, o.patch.cols]
    through = np.minimum(window / ground, 1)  # stains of what lies beneath
    tx.blend(image, o.patch.rows, o.patch.cols, alpha, colour * (1 - np.float32(0.35) * (1 - through)))
