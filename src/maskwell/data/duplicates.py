"""Near-duplicate images: a perceptual hash finds candidates, small thumbnails decide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from maskwell.data.images import read_image

_HASH_SIDE = 16
_THUMBNAIL = 32
_MAX_DISTANCE = 64  # of 256 bits; unrelated pictures differ in about 128, in 72 at the least
_MIN_CORRELATION = 0.9  # unrelated nuclei images reach 0.45
_CHUNK = 512


def signature(image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """(hash, thumbnail) of an RGB image.

    The hash is 256 bits, packed to uint8 [32]: whether brightness rises from left to right between
    the cells of a coarse grid. The thumbnail is float32 [32 * 32], mean 0, length 1; all zeros for
    an image without any structure.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    coarse = cv2.resize(grey, (_HASH_SIDE + 1, _HASH_SIDE), interpolation=cv2.INTER_AREA)
    bits = np.packbits(coarse[:, 1:] > coarse[:, :-1])
    thumbnail = cv2.resize(grey, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA).ravel()
    thumbnail -= thumbnail.mean()
    length = float(np.linalg.norm(thumbnail))
    return bits, np.asarray(
        thumbnail / length if length > _THUMBNAIL else np.zeros_like(thumbnail), np.float32
    )


def near_duplicates(hashes: NDArray[np.uint8], thumbnails: NDArray[np.float32]) -> list[tuple[int, int]]:
    """Pairs (i < j) of images that show nearly the same.

    Args:
        hashes: uint8 [n, 32]; ``thumbnails``: float32 [n, 1024], both of :func:`signature`.
    """
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(hashes), _CHUNK):
        rows = slice(start, start + _CHUNK)
        similar = thumbnails[rows] @ thumbnails[start:].T >= _MIN_CORRELATION
        for i, j in np.argwhere(similar):
            differing = np.bitwise_count(hashes[start + i] ^ hashes[start + j]).sum()
            if j > i and differing <= _MAX_DISTANCE:
                pairs.append((start + int(i), start + int(j)))
    return pairs


def near_duplicate_files(paths: Sequence[Path]) -> list[tuple[int, int]]:
    """:func:`near_duplicates` of image files; every one is decoded once."""
    if len(paths) < 2:
        return []
    signatures = [signature(read_image(path)) for path in paths]
    return near_duplicates(np.stack([s[0] for s in signatures]), np.stack([s[1] for s in signatures]))
