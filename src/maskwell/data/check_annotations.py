"""Reading one COCO file for the checks: however broken it is, they report and do not raise."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskwell.data.findings import Findings

SLACK = 1.0
"""Pixels that a box may stick out of its image, or differ from its mask, by rounding."""
LARGEST = 1e9
"""Coordinates beyond this are no pixels."""


@dataclass
class AnnotationFile:
    """What is usable of one annotation file: entries with the right keys and references."""

    split: str
    path: Path
    images: dict[Any, dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: dict[Any, str]

    def place(self, annotation: dict[str, Any]) -> str:
        """Where an annotation is to be found, for messages."""
        image = self.images[annotation["image_id"]]["file_name"]
        return f"{self.path.name}: annotation {annotation.get('id', '?')} in {image}"

    def size_of(self, annotation: dict[str, Any]) -> tuple[int, int] | None:
        """(height, width) of the annotation's image as the file states it, None where it does not."""
        return stated_size(self.images[annotation["image_id"]])

    def objects(self) -> list[dict[str, Any]]:
        """The annotations that are no crowds."""
        return [a for a in self.annotations if not a.get("iscrowd")]


def stated_size(image: dict[str, Any]) -> tuple[int, int] | None:
    """(height, width) that an image's entry states; files may leave it out."""
    height, width = image.get("height"), image.get("width")
    return (int(height), int(width)) if height and width else None


def load(split: str, path: Path, found: Findings) -> AnnotationFile | None:
    """Read one file; what cannot be used is reported and left out. None where it is no COCO file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        found.add("json-unreadable", f"{path}: {error}")
        return None
    lists = ("images", "annotations", "categories")
    if isinstance(content, dict):
        content.setdefault("annotations", [])
    missing = [k for k in lists if not isinstance(content, dict) or not isinstance(content.get(k), list)]
    if missing:
        found.add("json-unreadable", f"{path}: no list {missing[0]!r}")
        return None
    images = _by_id(content["images"], path, "image", _is_image, found)
    categories = _by_id(
        content["categories"], path, "category", lambda c: isinstance(c.get("name"), str), found
    )
    file = AnnotationFile(split, path, images, [], {key: c["name"] for key, c in categories.items()})
    file.annotations = [a for a in content["annotations"] if _refers(a, file, found)]
    _drop_placeholder(file, categories)
    ids = Counter(a["id"] for a in file.annotations if isinstance(a.get("id"), int | str))
    for key, times in ids.items():
        if times > 1:
            found.add("id-duplicate", f"{path.name}: annotation id {key}, {times} times")
    return file


def _drop_placeholder(file: AnnotationFile, entries: dict[Any, dict[str, Any]]) -> None:
    """Roboflow's category 0 is only the supercategory of the others; without objects it means nothing."""
    parents = {str(entry.get("supercategory")) for key, entry in entries.items() if key != 0}
    if file.categories.get(0) in parents and all(a["category_id"] != 0 for a in file.annotations):
        file.categories.pop(0, None)


def _is_image(entry: dict[str, Any]) -> bool:
    sides = (entry.get("height"), entry.get("width"))
    usable = all(s is None or (is_number(s) and 0 < s < LARGEST) for s in sides)
    return isinstance(entry.get("file_name"), str) and usable


def _by_id(
    entries: list[Any], path: Path, what: str, usable: Callable[[dict[str, Any]], bool], found: Findings
) -> dict[Any, dict[str, Any]]:
    """Usable entries by id; the others are reported."""
    kept: dict[Any, dict[str, Any]] = {}
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), int | str) or not usable(entry):
            found.add("entry-malformed", f"{path.name}: {what} number {number}: {short(entry)}")
        elif entry["id"] in kept:
            found.add("id-duplicate", f"{path.name}: {what} id {entry['id']}")
        else:
            kept[entry["id"]] = entry
    return kept


def _refers(annotation: Any, file: AnnotationFile, found: Findings) -> bool:
    """Whether an annotation's image and category exist."""
    if not isinstance(annotation, dict) or not {"image_id", "category_id"} <= annotation.keys():
        found.add("entry-malformed", f"{file.path.name}: annotation {short(annotation)}")
        return False
    name = f"{file.path.name}: annotation {annotation.get('id', '?')}"
    for key, known, code in (
        ("image_id", file.images, "image-unknown"),
        ("category_id", file.categories, "category-unknown"),
    ):
        value = annotation[key]
        if not isinstance(value, int | str) or value not in known:
            found.add(code, f"{name}: {key} {short(value)}")
            return False
    return True


def short(value: Any) -> str:
    """A JSON value in at most 60 characters."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def is_box(value: Any) -> bool:
    """Whether a JSON value is a list of four numbers, finite or not."""
    return isinstance(value, list) and len(value) == 4 and all(map(is_number, value))


def is_number(value: Any) -> bool:
    """A JSON number that fits a float; JSON's whole numbers know no bound."""
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**53)


def is_finite(values: list[float]) -> bool:
    """Whether all numbers could be pixels; NaN is none."""
    return all(abs(v) < LARGEST for v in values)
