"""Pascal VOC: ``Annotations/*.xml``, ``JPEGImages/`` and, for the splits, ``ImageSets/Main/*.txt``."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

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
from maskwell.reading import check_name, read_bytes, read_text

_SIDES = ("xmin", "ymin", "xmax", "ymax")


def read(folder: Path) -> Dataset:
    """Read boxes and official splits.

    VOC counts pixels from 1 and includes the last one. Where a coordinate 0 occurs the tool that
    wrote the files counted from 0 instead, and they are read so. Objects marked *difficult* keep
    that mark as a key of the annotation. Files in ``Annotations`` that no split lists are left out.
    """
    annotations = require_folder(folder / "Annotations", "a VOC dataset has its XML files there")
    names = {path.stem: path for path in sorted(annotations.glob("*.xml"))}
    if not names:
        raise UserError(f"{annotations} holds no XML file.")
    splits = _splits(folder, names)
    trees = {stem: _parse(names[stem]) for stems in splits.values() for stem in stems}
    boxes = {stem: _boxes(tree, names[stem]) for stem, tree in trees.items()}
    first = 0.0 if any(v == 0 for found in boxes.values() for _, box, _ in found for v in box[:2]) else 1.0
    dropped: list[str] = []
    pictures = {
        stem: _picture(folder, names[stem], trees[stem], found, first, dropped)
        for stem, found in boxes.items()
    }
    unlisted = len(names) - len(trees)
    return Dataset(
        categories=tuple(sorted({name for found in boxes.values() for name, _, _ in found})),
        splits={split: [pictures[stem] for stem in stems] for split, stems in splits.items()},
        notes=dropped_note(dropped, "boxes without area")
        + ([f"{unlisted} annotated images left out, listed in no split"] if unlisted else []),
    )


def _splits(folder: Path, names: dict[str, Path]) -> dict[str | None, list[str]]:
    lists = folder / "ImageSets" / "Main"
    found: dict[str | None, list[str]] = {}
    for split in ("train", "val", "test"):
        if (lists / f"{split}.txt").is_file():
            found[split] = _list(lists / f"{split}.txt", names)
    if "train" not in found and (lists / "trainval.txt").is_file():
        taken = {stem for stems in found.values() for stem in stems}
        found["train"] = [s for s in _list(lists / "trainval.txt", names) if s not in taken]
    return found or {None: list(names)}


def _list(path: Path, names: dict[str, Path]) -> list[str]:
    # Lists of one class have a second column (1, -1 or 0), which does not matter here.
    stems = [line.split()[0] for line in read_text(path).splitlines() if line.strip()]
    unknown = [stem for stem in stems if stem not in names]
    if unknown:
        raise UserError(f"{path} lists {unknown[0]!r}, for which there is no Annotations/{unknown[0]}.xml.")
    return list(dict.fromkeys(stems))


def _parse(path: Path) -> ElementTree.Element:
    """The root element; a document type, the way to expanding entities, is refused unread."""

    def refuse(*_: object) -> None:
        raise UserError(f"{path} declares a document type; VOC files need none, so it is not read.")

    content = read_bytes(path)
    try:
        guard = expat.ParserCreate()
        guard.StartDoctypeDeclHandler = refuse
        guard.Parse(content, True)
        return ElementTree.fromstring(content)
    except (expat.ExpatError, ElementTree.ParseError, LookupError, ValueError) as error:
        # the last two: of an encoding that it names and nobody knows
        raise UserError(f"{path} is no well-formed XML ({error}); export it again.") from error


def _boxes(tree: ElementTree.Element, path: Path) -> list[tuple[str, tuple[float, ...], bool]]:
    """(category, box as written, difficult) of each object."""
    found = []
    for number, element in enumerate(tree.iter("object"), 1):
        name = (element.findtext("name") or "").strip()
        if not name:
            raise UserError(f"{path}: object {number} has no name.")
        try:
            box = tuple(float(element.findtext(f"bndbox/{side}") or "") for side in _SIDES)
        except ValueError as error:
            raise UserError(f"{path}: object {number} ({name}) has no complete bndbox.") from error
        if not all(map(math.isfinite, box)):
            raise UserError(f"{path}: object {number} ({name}) has a box that is not finite.")
        found.append((name, box, (element.findtext("difficult") or "0").strip() == "1"))
    return found


def _picture(
    folder: Path,
    path: Path,
    tree: ElementTree.Element,
    boxes: list[tuple[str, tuple[float, ...], bool]],
    first: float,
    dropped: list[str],
) -> Picture:
    image = _image_file(folder, path.stem, tree)
    height, width = image_size(image)
    objects = []
    for name, (x0, y0, x1, y1), difficult in boxes:
        # Counting from 1, the last pixel's right edge has the last pixel's number.
        box = clipped_box(x0 - first, y0 - first, x1, y1, height, width)
        if x1 <= x0 or y1 <= y0 or box is None:
            dropped.append(path.name)
            continue
        extra = {"difficult": 1} if difficult else {}
        objects.append(Object(name, box, box[2] * box[3], extra=extra))
    return Picture(image, height, width, tuple(objects))


def _image_file(folder: Path, stem: str, tree: ElementTree.Element) -> Path:
    """The image of an annotation: the same stem, else the file name that it states."""
    images = folder / "JPEGImages"
    for suffix in (".jpg", *sorted(SUFFIXES)):
        for spelt in (suffix, suffix.upper()):
            if (images / (stem + spelt)).is_file():
                return images / (stem + spelt)
    stated = Path((tree.findtext("filename") or "").strip()).name
    if stated:
        check_name(stated, f"Annotations/{stem}.xml")
    if stated and (images / stated).is_file():
        return images / stated
    raise UserError(f"{images} holds no image for Annotations/{stem}.xml.")
