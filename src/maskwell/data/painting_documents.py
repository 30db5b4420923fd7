"""Painter of documents: printed lines, tables, photographs, stamps, signatures and barcodes on a page."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from maskwell.data import textures as tx
from maskwell.data.painting import PALETTE, camera, turned_grid
from maskwell.data.placing import Placed
from maskwell.data.shapes import soften

Floats = NDArray[np.float32]


def paint_document(rng: np.random.Generator, size: int, objects: list[Placed]) -> NDArray[np.uint8]:
    """A page, photographed or scanned, whose objects are ink on it."""
    page = np.float32(rng.uniform(0.78, 0.98)) + np.sort(rng.normal(0, 0.025, 3))[::-1].astype(np.float32)
    image = np.empty((size, size, 3), np.float32)
    image[:] = page
    image += np.float32(rng.uniform(0, 0.02)) * tx.smooth_noise(rng, size, size, 12)[..., None]
    ink = PALETTE["black"] * np.float32(rng.uniform(0.5, 2.5)) + rng.uniform(0, 0.1, 3).astype(np.float32)
    for o in objects:
        along, across = turned_grid(o)
        tone = ink if o.item.colour is None else PALETTE[o.item.colour]
        window = soften(o.patch, 0.3)
        if o.item.kind == "photo":
            colour = _photo(rng, window.shape[0], window.shape[1])
        else:
            share = _INKS[o.item.kind](rng, o, along, across) * np.float32(rng.uniform(0.75, 1.0))
            window = window * share
            colour = tone
        tx.blend(image, o.patch.rows, o.patch.cols, window.astype(np.float32), colour)
    image *= tx.light_field(rng, size, rng.uniform(0, 0.3))[..., None]
    return camera(rng, image, noise=0.03)


def _extent(o: Placed, along: Floats, across: Floats) -> tuple[float, float]:
    """Half length and half height of the object in pixels, as far as they are in the image."""
    mask = o.patch.mask
    return max(1.0, float(np.abs(along[mask]).max())), max(1.0, float(np.abs(across[mask]).max()))


def _letters(rng: np.random.Generator, o: Placed, along: Floats, across: Floats) -> Floats:
    """Words of strokes: columns of ink whose height and place differ, with gaps between words."""
    length, height = _extent(o, along, across)
    columns = int(2 * length) + 3
    letter = max(2, round(height * rng.uniform(0.7, 1.1)))
    strokes = rng.random((5, columns), np.float32) < 0.62
    starts = np.repeat(np.arange(columns // letter + 1), letter)[:columns]
    word = np.repeat(rng.random(columns // letter + 1) < 0.17, letter)[:columns]
    strokes &= ~word & ((np.arange(columns) != starts * letter) | (letter < 3))
    strokes[0] &= rng.random(columns) < 0.35  # ascenders
    strokes[4] &= rng.random(columns) < 0.25  # descenders
    column = np.clip((along + length).astype(int), 0, columns - 1)
    row = np.clip(((across / height + 1) * 2.5).astype(int), 0, 4)
    return np.asarray(strokes[row, column], np.float32)


def _cells(rng: np.random.Generator, o: Placed, along: Floats, across: Floats) -> Floats:
    """Ruled lines and a few grey entries."""
    length, height = _extent(o, along, across)
    columns, rows = int(rng.integers(2, 6)), int(rng.integers(3, 8))
    u, v = (along / length + 1) / 2 * columns, (across / height + 1) / 2 * rows
    rule = 0.5 + 0.015 * o.radius  # half a line's width in pixels
    to_column = np.abs(u - np.round(u)) * 2 * length / columns
    to_row = np.abs(v - np.round(v)) * 2 * height / rows
    lines = (to_column < rule) | (to_row < rule)
    filled = rng.random((rows, columns)) < 0.6
    inside = filled[np.clip(v.astype(int), 0, rows - 1), np.clip(u.astype(int), 0, columns - 1)]
    entry = inside & (np.abs(v % 1 - 0.5) < 0.2) & (np.abs(u % 1 - 0.45) < 0.3)
    header = v < 1 if rng.random() < 0.4 else np.zeros(v.shape, bool)
    return np.asarray(lines + 0.45 * entry * ~lines + 0.25 * header * ~lines, np.float32).clip(0, 1)


def _seal(rng: np.random.Generator, o: Placed, along: Floats, across: Floats) -> Floats:
    """A rim, a middle of strokes, and ink that took unevenly."""
    inner = cv2.erode(o.patch.alpha, np.ones((3, 3)), iterations=max(1, round(0.1 * o.radius)))
    core = cv2.erode(inner, np.ones((3, 3)), iterations=max(1, round(0.13 * o.radius)))
    rim = 1 - np.clip(inner * 1.2, 0, 1)
    period = max(2.5, 0.3 * o.radius)
    letters = (np.mod(across, period) < 0.5 * period) & (np.mod(along, 0.7 * period) < 0.5 * period)
    uneven = 0.85 + 0.15 * tx.smooth_noise(rng, along.shape[0], along.shape[1], 6)
    return np.asarray(np.clip((rim + core * (0.25 + 0.6 * letters)) * uneven, 0.12, 1), np.float32)


def _handwriting(rng: np.random.Generator, o: Placed, along: Floats, across: Floats) -> Floats:
    """One looping pen stroke from end to end."""
    t = np.linspace(-1, 1, 90)
    loops, height = rng.uniform(4, 9), 0.16 * o.radius
    wave = np.sin(np.pi * loops * t + rng.uniform(0, 6)) * (
        0.5 + 0.5 * np.abs(np.sin(3 * t + rng.uniform(0, 3)))
    )
    x = o.radius * (0.93 * t + 0.1 * np.cos(np.pi * loops * t))
    y = height * wave * np.sqrt(1 - 0.6 * t**2)
    cos, sin = np.cos(o.angle), np.sin(o.angle)
    points = np.stack([cos * x - sin * y, sin * x + cos * y], 1) + o.centre
    points -= (o.patch.cols.start, o.patch.rows.start)
    canvas = np.zeros(along.shape, np.uint8)
    width = max(1, round(0.05 * o.radius))
    cv2.polylines(canvas, [np.round(points * 16).astype(np.int32)], False, 255, width, cv2.LINE_AA, 4)
    return np.asarray(canvas / np.float32(255), np.float32)


def _bars(rng: np.random.Generator, o: Placed, along: Floats, across: Floats) -> Floats:
    """Upright bars of uneven width."""
    length, _ = _extent(o, along, across)
    bars = rng.random(int(2 * length / max(1.0, 0.05 * o.radius)) + 2) < 0.55
    bars[[0, -1, -2]] = True
    column = ((along / length + 1) / 2 * (len(bars) - 1)).astype(int)
    return np.asarray(bars[np.clip(column, 0, len(bars) - 1)], np.float32)


_INKS = {"text line": _letters, "table": _cells, "stamp": _seal, "signature": _handwriting, "barcode": _bars}


def _photo(rng: np.random.Generator, height: int, width: int) -> Floats:
    """A blurred landscape of few tones, [h, w, 3]."""
    sky, land = rng.uniform(0.15, 0.9, (2, 3)).astype(np.float32)
    horizon = rng.uniform(0.35, 0.7) * height + 0.08 * height * tx.smooth_noise(rng, 1, width, 4)
    below = np.clip(np.arange(height, dtype=np.float32)[:, None] - horizon + 0.5, 0, 1)[..., None]
    field = (sky + below * (land - sky)).astype(np.float32)
    field *= 1 + np.float32(0.2) * tx.smooth_noise(rng, height, width, 6)[..., None]
    return np.asarray(np.clip(field, 0.03, 0.97), np.float32)
