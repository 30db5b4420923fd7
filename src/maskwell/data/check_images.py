"""Checks of the image files behind the annotations: there, readable, of the right size, in one split."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskwell.data.check_annotations import AnnotationFile, stated_size
from maskwell.data.duplicates import near_duplicates, signature
from maskwell.data.findings import Findings
from maskwell.data.images import image_size, read_image
from maskwell.data.layouts import Layout
from maskwell.errors import UserError

_FAST_HEADERS = 16  # images of a split whose header the fast form looks at
_FAST_BYTES = 64 * 2**20  # of files that the fast form reads in search of duplicates


@dataclass(frozen=True)
class Listed:
    """An image file that a split lists, with the size (height, width) that the split states, if any."""

    split: str
    path: Path
    name: str
    size: tuple[int, int] | None


@dataclass(frozen=True)
class _Seen:
    """What decoding one image told: an error, or its size, a digest of its pixels, and its signature."""

    error: str | None
    size: tuple[int, int] = (0, 0)
    digest: bytes = b""
    hash: NDArray[np.uint8] | None = None
    thumbnail: NDArray[np.float32] | None = None


def locate(file: AnnotationFile, layout: Layout, found: Findings) -> list[Listed]:
    """The files of all images of a split; missing ones, and paths out of the folder, are reported."""
    folders = layout.image_folders(file.path)
    listed: list[Listed] = []
    for image in file.images.values():
        name = image["file_name"]
        where = f"{file.path.name}: {name}"
        if _leaves(name):
            found.add("path-outside", where)
            continue
        path = next((folder / name for folder in folders if _is_file(folder / name)), None)
        if path is None:
            found.add("image-missing", where)
        else:
            listed.append(Listed(file.split, path, name, stated_size(image)))
    return listed


def _leaves(name: str) -> bool:
    kinds = (PurePosixPath(name), PureWindowsPath(name))
    return not name or any(path.is_absolute() or ".." in path.parts for path in kinds) or "\0" in name


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file can have
        return False


def check_headers(listed: Sequence[Listed], found: Findings) -> None:
    """Fast form: the sizes in the headers of some images, spread over each split."""
    by_split: defaultdict[str, list[Listed]] = defaultdict(list)
    for image in listed:
        by_split[image.split].append(image)
    for images in by_split.values():
        for i in np.unique(np.linspace(0, len(images) - 1, _FAST_HEADERS).astype(int)):
            try:
                _compare_size(images[i], image_size(images[i].path), found)
            except UserError as error:
                found.add("image-corrupt", str(error))


def check_pixels(listed: Sequence[Listed], found: Findings) -> None:
    """Full form: decode every image; sizes, and exact and near duplicates by their pixels."""
    paths = list(dict.fromkeys(image.path for image in listed))
    with ThreadPoolExecutor() as pool:
        seen = dict(zip(paths, pool.map(_look, paths), strict=True))
    for image in listed:
        error = seen[image.path].error
        if error is not None:
            found.add("image-corrupt", error)
        else:
            _compare_size(image, seen[image.path].size, found)
    good = [image for image in listed if seen[image.path].error is None]
    _report_equal(good, [seen[image.path].digest for image in good], found)
    _report_near(good, [seen[image.path] for image in good], found)


def check_equal_files(listed: Sequence[Listed], found: Findings) -> None:
    """Fast form: files of the same bytes; only files of the same length are read, and not too many."""
    by_length: defaultdict[int, set[Path]] = defaultdict(set)
    for image in listed:
        by_length[image.path.stat().st_size].add(image.path)
    suspects = {path: length for length, paths in by_length.items() if len(paths) > 1 for path in paths}
    digests: dict[Path, Any] = {}
    if sum(suspects.values()) <= _FAST_BYTES:
        digests = {path: hashlib.blake2b(path.read_bytes()).digest() for path in suspects}
    _report_equal(listed, [digests.get(image.path, image.path) for image in listed], found)


def _look(path: Path) -> _Seen:
    try:
        image = read_image(path)
    except UserError as error:
        return _Seen(str(error))
    bits, thumbnail = signature(image)
    digest = hashlib.blake2b(image.tobytes(), person=repr(image.shape).encode()[:16]).digest()
    return _Seen(None, (image.shape[0], image.shape[1]), digest, bits, thumbnail)


def _compare_size(image: Listed, size: tuple[int, int], found: Findings) -> None:
    if image.size is not None and size != image.size:
        stated, real = f"{image.size[1]}x{image.size[0]}", f"{size[1]}x{size[0]}"
        found.add("image-size", f"{image.split}: {image.name} is {real}, the JSON says {stated}")


def _report_equal(listed: Sequence[Listed], keys: Sequence[Any], found: Findings) -> None:
    """Report images of equal keys: a leak between two splits, a repetition within one."""
    groups: defaultdict[Any, list[Listed]] = defaultdict(list)
    for image, key in zip(listed, keys, strict=True):
        groups[key].append(image)
    for group in groups.values():
        if len(group) > 1:
            leak = len({image.split for image in group}) > 1
            names = " = ".join(f"{image.split}/{image.name}" for image in group[:3])
            found.add("leak-exact" if leak else "image-duplicate", names)


def _report_near(listed: Sequence[Listed], seen: Sequence[_Seen], found: Findings) -> None:
    usable = [(i, s.hash, s.thumbnail) for i, s in enumerate(seen) if s.hash is not None]
    hashes = [bits for _, bits, _ in usable if bits is not None]
    thumbnails = [thumbnail for _, _, thumbnail in usable if thumbnail is not None]
    if len(hashes) < 2:
        return
    for i, j in near_duplicates(np.stack(hashes), np.stack(thumbnails)):
        one, other = listed[usable[i][0]], listed[usable[j][0]]
        if one.split != other.split and seen[usable[i][0]].digest != seen[usable[j][0]].digest:
            found.add("leak-near", f"{one.split}/{one.name} ~ {other.split}/{other.name}")
