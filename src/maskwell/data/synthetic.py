"""``data=cells``: a COCO dataset folder of generated microscopy-like images, cached on disk."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as mask_api

from maskwell.data.cells import CATEGORIES, CellImage, generate_cells
from maskwell.data.folders import new_folder
from maskwell.errors import UserError

VERSION = 1
"""Of the generator; part of the cache's key, so that old images never pass for new ones."""

_SPLITS = ("train", "val", "test")


def write_cells(
    root: Path, *, seed: int, counts: tuple[int, int, int] = (200, 40, 40), size: int = 256
) -> None:
    """Write ``images/`` and ``train.json``, ``val.json``, ``test.json`` to a folder that is not there yet.

    The folder appears whole or not at all: it is filled under another name and renamed.

    Args:
        seed: another seed, another dataset; the same seed writes the same bytes.
        counts: images in train, val and test.
        size: side of the square images in pixels.

    Raises:
        UserError: ``root`` exists and is not an empty folder.
    """
    with new_folder(root) as building:
        (building / "images").mkdir()
        for number, (split, count) in enumerate(zip(_SPLITS, counts, strict=True)):
            _write_split(building, split, number, count, sum(counts[:number]) + 1, seed, size)


def cached_cells(
    *, seed: int = 0, counts: tuple[int, int, int] = (200, 40, 40), size: int = 256, cache: Path | None = None
) -> Path:
    """The folder of :func:`write_cells` for these arguments, written on the first call only.

    ``cache`` defaults to :func:`cache_folder`. Several processes may call it at once.
    """
    name = f"cells-v{VERSION}-seed{seed}-{'-'.join(map(str, counts))}-{size}px"
    root = (cache or cache_folder()) / name
    if not root.is_dir():
        try:
            write_cells(root, seed=seed, counts=counts, size=size)
        except (OSError, UserError):
            # Another process finished the same folder in the meantime: its content is the same.
            if not (root / "test.json").is_file():
                raise
    return root


def cache_folder() -> Path:
    """``$MASKWELL_CACHE``, else ``maskwell`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if own := os.environ.get("MASKWELL_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "maskwell"


def _write_split(
    root: Path, split: str, number: int, count: int, first_id: int, seed: int, size: int
) -> None:
    """Image ids go on from ``first_id``, so that they are unique over all splits."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(count):
        cells = generate_cells(seed, number, index, size)
        name = f"{split}_{index:04d}.png"
        written = cv2.imwrite(
            str(root / "images" / name), cells.image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 3]
        )
        if not written:
            raise UserError(f"{root / 'images' / name} cannot be written; is the disk full?")
        images.append({"id": first_id + index, "file_name": name, "width": size, "height": size})
        annotations += _annotations(cells, first_id + index, len(annotations) + 1)
    content = {
        "info": {"description": "generated cells", "version": str(VERSION)},
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CATEGORIES)],
        "images": images,
        "annotations": annotations,
    }
    (root / f"{split}.json").write_text(json.dumps(content), encoding="utf-8")


def _annotations(cells: CellImage, image_id: int, first_id: int) -> list[dict[str, Any]]:
    """COCO annotations of an image, with compressed run lengths and boxes around the visible pixels."""
    if not len(cells.labels):
        return []
    rles = mask_api.encode(np.asfortranarray(cells.masks.transpose(1, 2, 0), dtype=np.uint8))
    return [
        {
            "id": first_id + row,
            "image_id": image_id,
            "category_id": int(label) + 1,
            "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
            "area": int(mask_api.area(rle)),
            "bbox": [float(v) for v in mask_api.toBbox(rle)],
            "iscrowd": 0,
        }
        for row, (label, rle) in enumerate(zip(cells.labels, rles, strict=True))
    ]
