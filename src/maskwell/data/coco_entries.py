"""The entries of a COCO file, held to their form before anything works with them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskwell.data.images import MAX_PIXELS
from maskwell.errors import UserError
from maskwell.reading import ANNOTATION_BYTES, load_json

LARGEST = 1e7
"""Coordinates beyond this are no pixels."""

_LONGEST = 4e6
"""Longest way along one outline in pixels: the encoder's memory grows with it."""


def load_coco(path: Path) -> dict[str, Any]:
    """A COCO annotation file as it is, with lists of images, annotations and categories, each of objects.

    Raises:
        UserError: the file is missing, no JSON, cut off, or no COCO file.
    """
    content = load_json(path, ANNOTATION_BYTES)
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise UserError(f"The file '{path}' is no COCO file: it has no list of images.")
    content.setdefault("annotations", [])
    if not isinstance(content.get("categories"), list) or not isinstance(content["annotations"], list):
        raise UserError(f"The file '{path}' is no COCO file: it has no lists of categories and annotations.")
    for name in ("images", "annotations", "categories"):
        for number, entry in enumerate(content[name], 1):
            if not isinstance(entry, dict):
                raise UserError(f"The file '{path}': number {number} of its {name} is no object with keys.")
    for category in content["categories"]:
        if type(category.get("id")) is not int or not isinstance(category.get("name"), str):
            raise UserError(
                f"A category in '{path}' has no id or no name: a whole number and a text are needed."
            )
    return content


def side(entry: Mapping[str, Any], name: str, file: Path) -> int | None:
    """The height or width that an image's entry states; None where it does not.

    Raises:
        UserError: it is no number of pixels.
    """
    value = entry.get(name)
    if not value:
        return None
    if not isinstance(value, int | float) or not 1 <= value <= LARGEST:
        raise UserError(f"The image '{entry.get('file_name')}' in '{file}' has the {name} {shown(value)}.")
    return int(value)


def check_segmentation(value: Any) -> None:
    """Whether a segmentation is of one of COCO's forms; its numbers are looked at where it is decoded.

    Raises:
        ValueError: it is none of them.
    """
    if isinstance(value, dict):
        size, counts = value.get("size"), value.get("counts")
        if not isinstance(size, list) or not _is_size(size):
            raise ValueError(f"its mask has the size {shown(size)}")
        if not isinstance(counts, str) and not (
            isinstance(counts, list) and all(type(run) is int for run in counts)
        ):
            raise ValueError("its mask has no run lengths")
    elif isinstance(value, list):
        if not all(isinstance(ring, list) for ring in value):
            raise ValueError("its outline is no list of lists of numbers")
    elif value is not None:
        raise ValueError(f"its segmentation is {shown(value)}")


def _is_size(size: list[Any]) -> bool:
    """Whether it is a height and a width of an image that would be read."""
    return len(size) == 2 and all(type(s) is int and s > 0 for s in size) and size[0] * size[1] <= MAX_PIXELS


def outline(ring: list[Any]) -> NDArray[np.float64]:
    """An outline's numbers [2K].

    Raises:
        ValueError: they are no pixels, or it runs to and fro for ever.
    """
    try:
        points = np.asarray(ring, np.float64)
    except (TypeError, OverflowError) as error:
        raise ValueError("an outline holds what is no number") from error
    if points.ndim != 1 or not np.isfinite(points).all():
        raise ValueError("an outline holds numbers that are not finite")
    steps = np.abs(np.diff(points.reshape(-1, 2), axis=0, append=points[None, :2])) if len(points) else points
    if len(points) and (np.abs(points).max() > LARGEST or steps.sum() > _LONGEST):
        raise ValueError("an outline is longer than any in an image")
    return points


def number(value: Any) -> float | None:
    """A finite number, None for anything else."""
    if isinstance(value, int | float) and abs(value) <= LARGEST**2 and math.isfinite(value):
        return float(value)
    return None


def shown(value: Any) -> str:
    """A value in a message: on one line, not longer than one."""
    text = " ".join(repr(value).split())
    text = text.encode("ascii", "backslashreplace").decode()
    return text if len(text) <= 80 else f"{text[:77]}..."
