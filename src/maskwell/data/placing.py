"""Laying generated objects into an image so that each of them stays visible."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskwell.data.phrases import SHAPES, Item
from maskwell.data.shapes import OUTLINES, Patch, rasterise, rotated

MIN_RADIUS = 3.0
"""Pixels; nothing is drawn smaller."""

_TRIES = 14
_MIN_VISIBLE = 0.4  # share of an object's pixels that stays visible, however much is laid upon it
_MAX_CELL_OVERLAP = 0.25  # share of a cell that lies upon others: cells crowd, but do not stack


@dataclass(frozen=True)
class Wanted:
    """An object to place: what it is, its radius in pixels, and the chance that it touches another."""

    item: Item
    radius: float
    near: float


@dataclass(frozen=True)
class Placed:
    """An object where it lies: its pixels, what it is, centre (x, y) and radius in pixels."""

    patch: Patch
    item: Item
    centre: tuple[float, float]
    radius: float


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
            stacked = wanted.item.kind not in SHAPES and lost.sum() > _MAX_CELL_OVERLAP * gained
            if stacked or gained < least or (visible - lost < needed).any():
                continue
            visible -= lost
            visible[len(objects)], needed[len(objects)] = gained, least
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
    else:
        x, y = (float(v) for v in rng.uniform(-0.02 * size, 1.02 * size, 2))
    outline = rotated(OUTLINES[wanted.item.kind](rng), rng.uniform(0, 2 * np.pi))
    patch = rasterise(outline, (x, y), radius, size)
    return None if patch is None else Placed(patch, wanted.item, (x, y), radius)
