"""Painters of leaves on the ground and of roads seen from above."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from maskwell.data import textures as tx
from maskwell.data.painting import PALETTE, camera, interior, turned_grid
from maskwell.data.placing import Placed
from maskwell.data.shapes import soften

Floats = NDArray[np.float32]

_SOILS = ([0.36, 0.27, 0.19], [0.3, 0.38, 0.2], [0.86, 0.85, 0.8], [0.55, 0.5, 0.44], [0.2, 0.17, 0.14])
_FIELDS = ([0.42, 0.5, 0.3], [0.6, 0.55, 0.42], [0.5, 0.5, 0.48], [0.3, 0.4, 0.22])


def _rough_ground(rng: np.random.Generator, size: int, tones: tuple[list[float], ...]) -> Floats:
    """Soil, grass or paper: one tone, clouds and grain."""
    tone = np.array(tones[int(rng.integers(len(tones)))], np.float32) + rng.normal(0, 0.03, 3)
    clouds = 0.6 * tx.smooth_noise(rng, size, size, 5) + 0.5 * tx.smooth_noise(rng, size, size, size / 3)
    field = tone.astype(np.float32) * (1 + np.float32(rng.uniform(0.03, 0.2)) * clouds[..., None])
    return np.asarray(field, np.float32)


def _shadow(image: Floats, o: Placed, shift: tuple[int, int], depth: float) -> None:
    """Darken what lies (x, y) = ``shift`` pixels beside the object, as far as its patch reaches."""
    move = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32)
    moved = cv2.warpAffine(soften(o.patch, 1.0), move, o.patch.alpha.shape[::-1])
    image[o.patch.rows, o.patch.cols] *= 1 - np.float32(depth) * moved[..., None]


def _tone(rng: np.random.Generator, colour: str | None, spread: float = 0.04) -> Floats:
    """The named colour as paint in the open, a little off its pure form."""
    noise = rng.normal(0, spread, 3).astype(np.float32)
    return PALETTE[colour or "gray"] * np.float32(rng.uniform(0.85, 1.05)) + noise


def paint_leaves(rng: np.random.Generator, size: int, objects: list[Placed]) -> NDArray[np.uint8]:
    """Leaves with veins, flowers, fruits and twigs on soil, grass or paper."""
    image = _rough_ground(rng, size, _SOILS)
    shift, depth = (int(rng.integers(-2, 3)), int(rng.integers(-2, 3))), rng.uniform(0, 0.5)
    edge, vein = rng.uniform(0, 0.7), np.float32(rng.uniform(0.1, 0.4))
    for o in objects:
        _shadow(image, o, shift, depth)
        along, across = (axis / np.float32(o.radius) for axis in turned_grid(o))
        base = _tone(rng, o.item.colour)
        shade = interior(rng, o, rng.uniform(0.02, 0.14), 0.0)
        if o.item.kind == "leaf":
            midrib = np.exp(-((across * o.radius / max(0.8, 0.035 * o.radius)) ** 2))
            veins = np.abs(np.sin((along - 0.8 * np.abs(across)) * rng.uniform(11, 16))) < 0.16
            side = 1 + np.float32(rng.uniform(-0.1, 0.1)) * np.sign(across)
            lighter = vein * (midrib + 0.35 * veins * (o.radius > 9))[..., None]
            colour = base * (shade * side)[..., None] + lighter * (np.float32(0.85) - base)
        elif o.item.kind == "flower":
            angle, distance = np.arctan2(across, along), np.hypot(across, along)
            rays = 1 - 0.12 * np.abs(np.sin(angle * rng.integers(3, 8))) - 0.15 * (1 - distance)
            heart = np.array([0.85, 0.68, 0.15], np.float32) * np.float32(rng.uniform(0.5, 1.1))
            inside = np.clip((rng.uniform(0.2, 0.32) - distance) * o.radius + 0.5, 0, 1)[..., None]
            colour = base * (shade * rays)[..., None] * (1 - inside) + inside * heart
        elif o.item.kind == "fruit":
            light = np.clip(1.05 - 0.45 * (along**2 + across**2), 0.4, 1.1)
            spot = np.exp(-((along - 0.3) ** 2 + (across + 0.3) ** 2) * 22) * rng.uniform(0.1, 0.7)
            colour = base * (shade * light)[..., None] + spot[..., None] * (1 - base)
        else:
            bark = np.array([0.34, 0.24, 0.15], np.float32) * np.float32(rng.uniform(0.6, 1.5))
            colour = bark * (shade * (1 - 2.5 * across))[..., None]
        tx.blend(image, o.patch.rows, o.patch.cols, soften(o.patch, edge), colour.astype(np.float32))
    if rng.random() < 0.6:
        image *= tx.light_field(rng, size, rng.uniform(0.05, 0.3))[..., None]
    return camera(rng, image, noise=0.04, coloured=True)


def paint_road(rng: np.random.Generator, size: int, objects: list[Placed]) -> NDArray[np.uint8]:
    """Roads, cars and roofs from above, with shadows of one sun."""
    image = _rough_ground(rng, size, _FIELDS)
    asphalt = np.float32(rng.uniform(0.22, 0.5)) + rng.normal(0, 0.012, 3).astype(np.float32)
    reach = max(1, size // 50)
    shift = (int(rng.integers(-reach, reach + 1)), int(rng.integers(-reach, reach + 1)))
    depth, edge = rng.uniform(0, 0.55), rng.uniform(0.2, 0.7)
    for o in objects:
        along, across = (axis / np.float32(o.radius) for axis in turned_grid(o))
        if o.item.kind in ("car", "building", "pole"):
            _shadow(image, o, shift, depth)
        shade = interior(rng, o, rng.uniform(0.01, 0.06), 0.0)[..., None]
        if o.item.kind == "road":
            colour = asphalt * shade
        elif o.item.kind == "lane marking":
            colour = _tone(rng, o.item.colour, 0.02) * shade
        elif o.item.kind == "car":
            colour = _car(_tone(rng, o.item.colour) * shade, along, across)
        elif o.item.kind == "building":
            colour = _roof(rng, _tone(rng, o.item.colour), along, across) * shade
        else:
            colour = np.float32(rng.uniform(0.3, 0.75)) * (1 - 4 * across[..., None]) * np.ones(3, np.float32)
        tx.blend(image, o.patch.rows, o.patch.cols, soften(o.patch, edge), colour.astype(np.float32))
    if rng.random() < 0.6:
        image *= tx.light_field(rng, size, rng.uniform(0.05, 0.25))[..., None]
    return camera(rng, image, noise=0.04, coloured=True)


def _car(paint: Floats, along: Floats, across: Floats) -> Floats:
    """Paint [h, w, 3] with windscreen, rear window and darker flanks."""
    glass = (np.abs(across) < 0.33) & (((along > 0.18) & (along < 0.42)) | ((along < -0.5) & (along > -0.68)))
    flank = (np.abs(across) > 0.3) & (along < 0.2) & (along > -0.55)
    dark = np.where(glass, 0.85, np.where(flank, 0.3, 0.0))[..., None].astype(np.float32)
    return np.asarray(paint + dark * (np.array([0.1, 0.13, 0.17], np.float32) - paint), np.float32)


def _roof(rng: np.random.Generator, tone: Floats, along: Floats, across: Floats) -> Floats:
    """Two pitches of unequal light with rows of tiles, or a flat roof with a rim."""
    if rng.random() < 0.6:
        pitch = np.float32(rng.uniform(0.1, 0.3)) * np.sign(across)
        tiles = 0.05 * np.sin(along * rng.uniform(20, 45))
        return np.asarray(tone * (1 - pitch + tiles)[..., None], np.float32)
    box = cv2.GaussianBlur((rng.random(along.shape, np.float32) > 0.985).astype(np.float32), (3, 3), 0)
    return np.asarray(tone * (1 - np.minimum(2 * box, 0.5))[..., None], np.float32)
