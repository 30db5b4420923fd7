"""One binary PNG per object, as the 2018 Data Science Bowl ships it: ``ID/images/*`` and ``ID/masks/*``."""

from __future__ import annotations

import contextlib
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_api

from maskwell.data.formats.content import (
    Dataset,
    Object,
    Picture,
    dropped_note,
    image_files,
    require_folder,
)
from maskwell.data.images import image_size
from maskwell.errors import UserError


def read(folder: Path, category: str) -> Dataset:
    """Read all masks as objects of one ``category``.

    ``folder`` holds the ID folders, or folders ``train``, ``val``, ``test`` that do. An ID without
    masks is an image without objects.
    """
    require_folder(folder, "name the folder that holds the ID/images and ID/masks folders")
    splits: dict[str | None, list[Path]] = {
        name: _ids(folder / name) for name in ("train", "val", "test") if _ids(folder / name)
    }
    splits = splits or {None: _ids(folder)}
    if not any(splits.values()):
        raise UserError(f"{folder} holds no folder of the form ID/images with an image in it.")
    empty: list[str] = []
    pictures = {split: [_picture(path, category, empty) for path in paths] for split, paths in splits.items()}
    if not any(p.objects for found in pictures.values() for p in found):
        raise UserError(f"{folder} holds no object: its ID/masks folders are missing or empty.")
    return Dataset((category,), pictures, dropped_note(empty, "masks without a pixel"))


def _ids(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if (p / "images").is_dir() and image_files(p / "images"))


def _picture(path: Path, category: str, empty: list[str]) -> Picture:
    images = image_files(path / "images")
    if len(images) > 1:
        raise UserError(f"{path / 'images'} holds {len(images)} images; one is expected.")
    height, width = image_size(images[0])
    masks = image_files(path / "masks") if (path / "masks").is_dir() else []
    objects = []
    for mask_path in masks:
        mask = _mask(mask_path, (height, width))
        if not mask.any():
            empty.append(f"{path.name}/{mask_path.name}")
            continue
        rle = mask_api.encode(np.asfortranarray(mask > 0, dtype=np.uint8))
        x, y, w, h = (float(v) for v in mask_api.toBbox(rle))
        segmentation = {"size": [height, width], "counts": rle["counts"].decode("ascii")}
        objects.append(Object(category, (x, y, w, h), float(mask_api.area(rle)), segmentation))
    return Picture(images[0], height, width, tuple(objects))


def _mask(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Grey values [H, W] of a mask, whose size is looked at before it is decoded."""
    stated = image_size(path)
    mask = None
    with contextlib.suppress(cv2.error):
        if stated == size:
            mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if stated == size and mask is None:
        raise UserError(f"{path} is no readable image.")
    if mask is None or mask.shape != size:
        raise UserError(f"{path} is {stated[1]}x{stated[0]} pixels, its image {size[1]}x{size[0]}.")
    return np.asarray(mask, np.uint8)
