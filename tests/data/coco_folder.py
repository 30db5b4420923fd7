"""Small COCO folders for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def picture(seed: int, size: tuple[int, int] = (40, 60)) -> np.ndarray:
    """A picture that resembles no other: coarse random blocks."""
    blocks = np.random.default_rng(seed).integers(0, 256, (5, 6, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(blocks).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def box_annotation(number: int, image_id: int, box: tuple[float, ...], **more: Any) -> dict[str, Any]:
    """An annotation whose outline is its box."""
    x, y, w, h = box
    return {
        "id": number,
        "image_id": image_id,
        "category_id": 1,
        "bbox": list(box),
        "area": w * h,
        "iscrowd": 0,
        "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
    } | more


def content(count: int, first: int = 1, size: tuple[int, int] = (40, 60)) -> dict[str, Any]:
    """``count`` images with one object each, ids from ``first``."""
    return {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": size[0], "width": size[1]}
            for i in range(first, first + count)
        ],
        "annotations": [box_annotation(10 * i, i, (4, 6, 20, 10)) for i in range(first, first + count)],
        "categories": [{"id": 1, "name": "cell"}],
    }


def write(path: Path, data: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def write_images(folder: Path, data: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for entry in data["images"]:
        Image.fromarray(picture(entry["id"], (entry["height"], entry["width"]))).save(
            folder / entry["file_name"]
        )


def dataset(root: Path, *, train: int = 4, val: int = 2, test: int = 2) -> Path:
    """``train.json``, ``val.json``, ``test.json`` beside ``images/``."""
    first = 1
    for split, count in (("train", train), ("val", val), ("test", test)):
        data = content(count, first)
        write(root / f"{split}.json", data)
        write_images(root / "images", data)
        first += count
    return root
