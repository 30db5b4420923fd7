"""Small folders with index masks for tests."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.data.coco_folder import picture, write

SIZE = (20, 28)


def add(root: Path, split: str, names: Iterable[str], *, masks: bool = True) -> None:
    """Images that resemble no other, and masks of the classes 0 and 1 with a void row of 255."""
    for name in names:
        number = sum(ord(letter) * 31**place for place, letter in enumerate(name)) % 100_003
        for kind in ("images", "masks") if masks else ("images",):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(number, SIZE)).save(root / "images" / split / f"{name}.png")
        if masks:
            mask = np.random.default_rng(number).integers(0, 2, SIZE).astype(np.uint8)
            mask[0] = 255
            Image.fromarray(mask).save(root / "masks" / split / f"{name}.png")


def semantic_folder(root: Path, train: Iterable[str], val: Iterable[str] = ("v_1", "v_2")) -> Path:
    """``images`` and ``masks`` for train and val, and the class list."""
    add(root, "train", train)
    add(root, "val", val)
    write(root / "classes.json", ["sky", "road"])
    return root
