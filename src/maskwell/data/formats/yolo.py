"""YOLO text files: detection lines ``class cx cy w h`` and polygon lines ``class x1 y1 x2 y2 ...``.

All coordinates are shares of the image's sides. The splits come from ``data.yaml``; a folder with
``classes.txt`` instead has none.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from maskwell.data.formats.content import (
    Dataset,
    Object,
    Picture,
    clipped_box,
    dropped_note,
    require_folder,
)
from maskwell.data.images import SUFFIXES, image_size
from maskwell.errors import UserError
from maskwell.reading import check_name, load_yaml, read_text

_NAME_FILES = ("classes.txt", "obj.names")
_SLACK = 0.01  # exporters round; more than this beyond [0, 1] is another unit


def read(folder: Path) -> Dataset:
    """Read boxes and polygons; an image without a text file has no objects."""
    require_folder(folder, "name the folder that holds data.yaml or classes.txt")
    config = next(iter(sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])), None)
    if config is not None:
        names, splits = _from_yaml(folder, config)
    else:
        names, splits = _from_names(folder)
    dropped: list[str] = []
    pictures = {
        split: [_picture(folder, path, names, dropped) for path in paths] for split, paths in splits.items()
    }
    if not any(pictures.values()):
        raise UserError(f"{folder} holds no image where its {(config or folder).name} says.")
    return Dataset(tuple(names.values()), pictures, dropped_note(dropped, "nothing of them in the image"))


def _from_yaml(folder: Path, path: Path) -> tuple[dict[int, str], dict[str | None, list[Path]]]:
    content = load_yaml(path)
    if not isinstance(content, dict) or not isinstance(content.get("names"), list | dict):
        raise UserError(f"{path} has no 'names': a list of class names, or a map from number to name.")
    named = content["names"]
    pairs = list(named.items() if isinstance(named, dict) else enumerate(named))
    if any(isinstance(name, list | dict) for _, name in pairs):
        raise UserError(f"{path}: a name in 'names' is no text.")
    try:
        names = {int(number): str(name) for number, name in pairs}
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: the keys of 'names' must be class numbers.") from error
    if len(set(names.values())) < len(names):
        raise UserError(f"{path}: 'names' holds a name twice.")
    splits: dict[str | None, list[Path]] = {}
    for split, keys in {"train": ("train",), "val": ("val", "valid"), "test": ("test",)}.items():
        entry = next((content[key] for key in keys if content.get(key)), None)
        if entry is not None:
            entries = entry if isinstance(entry, list) else [entry]
            if any(isinstance(e, list | dict) for e in entries):
                raise UserError(f"{path}: {split!r} is no folder and no list of them.")
            splits[split] = [p for e in entries for p in _entry(folder, path, content, split, str(e))]
    if not splits:
        raise UserError(f"{path} names no split: it needs 'train', 'val' or 'test'.")
    return dict(sorted(names.items())), splits


def _entry(folder: Path, config: Path, content: dict[str, Any], split: str, entry: str) -> list[Path]:
    """Images of one entry of a split: a folder, or a text file that lists images."""
    # Exports often say '../train/images' or name a root of the machine that made them.
    root = content.get("path") or "."
    if not isinstance(root, str):
        raise UserError(f"{config}: 'path' is no folder's name.")
    for name in (entry, root):
        check_name(name, str(config))
    inside = Path(*[part for part in Path(entry).parts if part not in ("..", "/")])
    candidates = [folder / root / entry, folder / entry, folder / inside]
    found = next((p for p in candidates if p.exists() and _within(p, folder)), None)
    if found is None:
        raise UserError(f"{config}: {split!r} is {entry!r}, which is not to be found in {folder}.")
    if found.is_dir():
        return sorted(p for p in found.rglob("*") if p.suffix.lower() in SUFFIXES)
    listed = [line.strip() for line in read_text(found).splitlines() if line.strip()]
    paths = []
    for line in listed:
        check_name(line, str(found))
        path = next((p for p in (found.parent / line, folder / line) if p.is_file()), None)
        if path is None or not _within(path, folder):
            raise UserError(f"{found} lists {line!r}, which is no file in {folder}.")
        paths.append(path)
    return paths


def _within(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _from_names(folder: Path) -> tuple[dict[int, str], dict[str | None, list[Path]]]:
    places = [folder / name for name in _NAME_FILES] + [folder / "labels" / name for name in _NAME_FILES]
    path = next((p for p in places if p.is_file()), None)
    if path is None:
        raise UserError(f"{folder} holds neither data.yaml nor classes.txt, so its classes have no names.")
    names = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if len(set(names)) < len(names):
        raise UserError(f"{path} holds a name twice.")
    images = folder / "images" if (folder / "images").is_dir() else folder
    pictures = sorted(p for p in images.rglob("*") if p.suffix.lower() in SUFFIXES)
    return dict(enumerate(names)), {None: pictures}


def _label_file(folder: Path, image: Path) -> Path:
    """``labels/`` in place of the last ``images/`` in the path, or the text file beside the image."""
    parts = list(image.relative_to(folder).parts)
    if "images" in parts:
        last = len(parts) - 1 - parts[::-1].index("images")
        mirrored = folder.joinpath(*parts[:last], "labels", *parts[last + 1 :]).with_suffix(".txt")
        if mirrored.is_file():
            return mirrored
    return image.with_suffix(".txt")


def _picture(folder: Path, image: Path, names: dict[int, str], dropped: list[str]) -> Picture:
    image = image if image.is_relative_to(folder) else folder / image.resolve().relative_to(folder.resolve())
    height, width = image_size(image)
    label = _label_file(folder, image)
    objects = []
    if label.is_file():
        for number, line in enumerate(read_text(label).splitlines(), 1):
            if line.strip():
                found = _object(line.split(), f"{label}:{number}", names, height, width)
                if found is None:
                    dropped.append(f"{label.name}:{number}")
                else:
                    objects.append(found)
    return Picture(image, height, width, tuple(objects))


def _object(words: list[str], place: str, names: dict[int, str], height: int, width: int) -> Object | None:
    try:
        number, values = int(float(words[0])), [float(word) for word in words[1:]]
    except (ValueError, OverflowError) as error:
        raise UserError(f"{place}: {error}; a line is 'class cx cy w h' or a polygon.") from error
    if number not in names:
        raise UserError(f"{place}: class {number} has no name; the names are {len(names)}.")
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise UserError(
            f"{place}: {len(values)} numbers after the class; 4 or an even 6 and more are expected."
        )
    if not all(math.isfinite(v) for v in values):
        raise UserError(f"{place}: a coordinate is not finite.")
    # A box's centre and size are shares too, but a corner of it may lie a little outside.
    if any(not -_SLACK <= v <= 1 + _SLACK for v in values):
        raise UserError(
            f"{place}: {max(values, key=abs):g} is no share of the image in [0, 1]; are these pixels?"
        )
    if len(values) == 4:
        cx, cy, w, h = values
        box = clipped_box(
            (cx - w / 2) * width,
            (cy - h / 2) * height,
            (cx + w / 2) * width,
            (cy + h / 2) * height,
            height,
            width,
        )
        return None if box is None else Object(names[number], box, box[2] * box[3])
    xs = [min(max(v, 0.0), 1.0) * width for v in values[0::2]]
    ys = [min(max(v, 0.0), 1.0) * height for v in values[1::2]]
    box = clipped_box(min(xs), min(ys), max(xs), max(ys), height, width)
    if box is None:
        return None
    polygon = [round(v, 3) for point in zip(xs, ys, strict=True) for v in point]
    return Object(names[number], box, _shoelace(xs, ys), [polygon])


def _shoelace(xs: list[float], ys: list[float]) -> float:
    """Area inside a closed polygon."""
    turned = zip(xs, ys, xs[1:] + xs[:1], ys[1:] + ys[:1], strict=True)
    return abs(sum(x0 * y1 - x1 * y0 for x0, y0, x1, y1 in turned)) / 2
