"""What every reader of a foreign form returns, and what they share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maskwell.data.images import SUFFIXES
from maskwell.errors import UserError


@dataclass(frozen=True)
class Object:
    """One object: ``bbox`` (x, y, width, height) in pixels, origin 0; ``segmentation`` as COCO has it
    (polygons or compressed run lengths; empty where there is only a box); ``area`` in pixels;
    ``extra`` further keys of the annotation.
    """

    category: str
    bbox: tuple[float, float, float, float]
    area: float
    segmentation: list[list[float]] | dict[str, Any] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Picture:
    """One image file with its displayed size and its objects."""

    path: Path
    height: int
    width: int
    objects: tuple[Object, ...]


@dataclass
class Dataset:
    """A read dataset. ``splits`` maps a split's name to its images; the only key is None where the
    data has no splits. ``notes`` says for people what was left out.
    """

    categories: tuple[str, ...]
    splits: dict[str | None, list[Picture]]
    notes: list[str] = field(default_factory=list)


def image_files(folder: Path) -> list[Path]:
    """The image files directly in ``folder``, sorted by name."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())


def clipped_box(
    x0: float, y0: float, x1: float, y1: float, height: int, width: int
) -> tuple[float, float, float, float] | None:
    """COCO box (x, y, width, height) of the part inside the image; None where nothing is left."""
    x0, y0, x1, y1 = max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))
    return (x0, y0, x1 - x0, y1 - y0) if x1 > x0 and y1 > y0 else None


def require_folder(path: Path, what: str) -> Path:
    """``path`` if it is a folder.

    Raises:
        UserError: it is not; ``what`` says what was expected there.
    """
    if not path.is_dir():
        raise UserError(f"{path} is no folder; {what}.")
    return path


def dropped_note(dropped: Iterable[str], why: str) -> list[str]:
    """One sentence on objects that were left out, naming up to three places; none if there are none."""
    places = list(dropped)
    if not places:
        return []
    more = ", ..." if len(places) > 3 else ""
    return [f"{len(places)} objects left out, {why}: {', '.join(places[:3])}{more}"]
