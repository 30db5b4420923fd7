"""Laying generated objects into an image so that each of them stays visible."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskwell.data.phrases import Item
from maskwell.data.shapes import OUTLINES, Patch, rasterise, rotated

MIN_RADIUS = 3.0
"""Pixels; nothing is drawn smaller."""

_TRIES = 14
_MIN_VISIBLE = 0.4  # share of an object's pixels that stays visible, however much is laid upon it


@dataclass(frozen=True)
class Wanted:
    """An object to place.

    Args:
        item: what it is.
        radius: in pixels.
        near: the chance that it touches another.
        overlap: share of it that may lie upon others; the ground does not count.
        angle: in radians; None for any.
        area: [3, 2], (x, y) of the middle and two half axes, in pixels, of the parallelogram
            where its centre lies; None for anywhere.
        ground: others lie upon it as on the bare image.
    """

    item: Item
    radius: float
    near: float = 0.0
    overlap: float = 0.25
    angle: float | None = None
    area: NDArray[np.floating] | None = None
    ground: bool = False


@dataclass(frozen=True)
class Placed:
    """An object where it lies: its pixels, what it is, centre (x, y), radius in pixels, and angle."""

    patch: Patch
    item: Item
    centre: tuple[float, float]
    radius: float
    angle: float = 0.0


def place_objects(
    rng: np.random.Generator, size: int, plan: list[Wanted]
) -> tuple[list[Placed], NDArray[np.bool_]]:
    """Lay the objects one upon the other in a ``size`` x ``size`` image.

    An object that finds no room is tried again elsewhere and smaller, and in the end left out.

    Returns:
        The placed objects from bottom to top, and the visible pixels of each, bool [N, H, W].
    """
    owner = np.full((size, size), -1, np.int16)
    visible = np.zeros(len(plan), np.int64)
    needed = np.zeros(len(plan))
    solid = np.zeros(len(plan), bool)
    objects: list[Placed] = []
    for wanted in plan:
        for attempt in range(_TRIES):
            candidate = _candidate(rng, size, wanted, attempt, objects)
            if candidate is None:
                continue
            patch, mask = candidate.patch, candidate.patch.mask
            beneath = owner[patch.rows, patch.cols]
            lost = np.bincount(beneath[mask] + 1, minlength=len(plan) + 1)[1:]
            gained, least = int(np.count_nonzero(mask)), max(6.0, _MIN_VISIBLE * patch.full_area)
            stacked = lost[solid].sum() > wanted.overlap * gained
            if stacked or gained < least or (visible - lost < needed).any():
                continue
            visible -= lost
            visible[len(objects)], needed[len(objects)] = gained, least
            solid[len(objects)] = not wanted.ground
            beneath[mask] = len(objects)
            objects.append(candidate)
            break
    return objects, owner[None] == np.arange(len(objects), dtype=np.int16)[:, None, None]


def _candidate(
    rng: np.random.Generator, size: int, wanted: Wanted, attempt: int, objects: list[Placed]
) -> Placed | None:
    radius = max(wanted.radius * 0.88**attempt, MIN_RADIUS)
    near = wanted.near if attempt < 4 else 0.0
    if objects and rng.random() < near:  # touching or slightly overlapping another object
        other = objects[int(rng.integers(len(objects)))]
        distance, angle = (other.radius + radius) * rng.uniform(0.7, 1.05), rng.uniform(0, 2 * np.pi)
        x = other.centre[0] + distance * float(np.cos(angle))
        y = other.centre[1] + distance * float(np.sin(angle))
    elif wanted.area is not None:
        x, y = (float(v) for v in np.array([1, *rng.uniform(-1, 1, 2)]) @ wanted.area)
    else:
        x, y = (float(v) for v in rng.uniform(-0.02 * size, 1.02 * size, 2))
    outline = OUTLINES[wanted.item.kind](rng)
    angle = rng.uniform(0, 2 * np.pi) if wanted.angle is None else wanted.angle
    patch = rasterise(rotated(outline, angle), (x, y), radius, size)
    return None if patch is None else Placed(patch, wanted.item, (x, y), radius, float(angle))
