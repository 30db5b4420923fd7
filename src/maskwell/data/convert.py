"""Write foreign dataset forms as COCO: ``python -m maskwell.data.convert voc|yolo|masks SRC DST``.

The result has ``images/`` and one JSON file per official split (``train.json``, ``val.json``,
``test.json``), or ``annotations/instances_default.json`` where the source has no splits.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maskwell.data.folders import new_folder, put_file
from maskwell.data.formats import mask_folders, voc, yolo
from maskwell.data.formats.content import Dataset, Picture
from maskwell.errors import UserError

FORMATS = ("voc", "yolo", "masks")


def convert(
    form: str, source: Path, target: Path, *, category: str = "object", link: bool = False
) -> Dataset:
    """Read ``source`` and write it to ``target`` as COCO; the target appears whole or not at all.

    Args:
        form: "voc", "yolo" or "masks".
        target: a folder that does not exist yet or is empty.
        category: name of the one category of "masks".
        link: hard-link the images where possible, instead of copying them.

    Returns:
        What was read, with its notes on what was left out.

    Raises:
        UserError: the source is not of that form or broken, or the target is not empty.
    """
    if not source.is_dir():
        raise UserError(f"{source} is no folder; name the folder of the {form} dataset.")
    if target.resolve() == source.resolve():
        raise UserError(f"{target} is the source itself; name another folder for the result.")
    with new_folder(target) as building:
        if form == "voc":
            dataset = voc.read(source)
        elif form == "yolo":
            dataset = yolo.read(source)
        elif form == "masks":
            dataset = mask_folders.read(source, category)
        else:
            raise UserError(f"There is no form {form!r}; the forms are {', '.join(FORMATS)}.")
        _write(dataset, source, building, link)
    return dataset


def _write(dataset: Dataset, source: Path, root: Path, link: bool) -> None:
    (root / "images").mkdir()
    names = _file_names([p.path for found in dataset.splits.values() for p in found], source)
    for path, name in names.items():
        put_file(path, root / "images" / name, link)
    category_ids = {name: number for number, name in enumerate(dataset.categories, 1)}
    next_image = next_object = 1
    for split, pictures in dataset.splits.items():
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for picture in pictures:
            images.append(
                {
                    "id": next_image,
                    "file_name": names[picture.path],
                    "width": picture.width,
                    "height": picture.height,
                }
            )
            annotations += _annotations(picture, next_image, next_object, category_ids)
            next_image, next_object = next_image + 1, next_object + len(picture.objects)
        content = {
            "categories": [{"id": number, "name": name} for name, number in category_ids.items()],
            "images": images,
            "annotations": annotations,
        }
        file = root / (f"{split}.json" if split else "annotations/instances_default.json")
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content), encoding="utf-8")


def _annotations(
    picture: Picture, image_id: int, first_id: int, category_ids: dict[str, int]
) -> list[dict[str, Any]]:
    return [
        {
            "id": first_id + row,
            "image_id": image_id,
            "category_id": category_ids[found.category],
            "bbox": [round(v, 3) for v in found.bbox],
            "area": round(found.area, 3),
            "segmentation": found.segmentation,
            "iscrowd": 0,
            **found.extra,
        }
        for row, found in enumerate(picture.objects)
    ]


def _file_names(paths: Sequence[Path], source: Path) -> dict[Path, str]:
    """A flat, unique name for each image: its own, or its whole path in the source where two share one."""
    unique = list(dict.fromkeys(paths))
    own: dict[str, int] = {}
    for path in unique:
        own[path.name.lower()] = own.get(path.name.lower(), 0) + 1
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in unique:
        name = path.name
        if own[name.lower()] > 1:
            name = "_".join(path.relative_to(source).parts)
        while name.lower() in taken:
            name = f"_{name}"
        taken.add(name.lower())
        names[path] = name
    return names


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m maskwell.data.convert", description="Write a dataset as COCO."
    )
    parser.add_argument(
        "form", choices=FORMATS, help="what SRC is: Pascal VOC, YOLO, or one PNG mask per object"
    )
    parser.add_argument("source", type=Path, metavar="SRC", help="folder of the dataset")
    parser.add_argument("target", type=Path, metavar="DST", help="new folder for the result")
    parser.add_argument(
        "--category", default="object", help="name of the objects of 'masks' (default: object)"
    )
    parser.add_argument("--link", action="store_true", help="hard-link images instead of copying them")
    args = parser.parse_args(argv)
    try:
        dataset = convert(args.form, args.source, args.target, category=args.category, link=args.link)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for split, pictures in dataset.splits.items():
        objects = sum(len(p.objects) for p in pictures)
        print(f"{split or 'all'}: {len(pictures)} images, {objects} objects")
    for note in dataset.notes:
        print(f"note: {note}")
    print(f"wrote {args.target}: {len(dataset.categories)} categories ({', '.join(dataset.categories)})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
