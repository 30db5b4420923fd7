"""Images without labels: a folder of them as a source, and samples whose labels are put out of reach."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from maskwell.data.dataset import SampleDataset
from maskwell.data.duplicates import near_duplicate_files
from maskwell.data.fingerprint import file_fingerprint
from maskwell.data.images import SUFFIXES, image_size, read_image
from maskwell.data.sample import InputSpec, Sample
from maskwell.data.sampler import Key
from maskwell.data.semantic import no_objects
from maskwell.data.source import SPLITS, Record, Split, Window
from maskwell.errors import UserError


@dataclass
class UnlabelledFolder:
    """The images of a folder and its subfolders as a training split without labels.

    Args:
        root: the folder.
        evaluated: validation and test images; identical copies of them in the folder are left out.
        near_duplicates: leave out also what shows nearly the same as one of them (reads every image).
    """

    root: str
    evaluated: Sequence[Path] = ()
    near_duplicates: bool = True

    def setup(self) -> None:
        """Find the files.

        Raises:
            UserError: the folder is missing or holds no image that may be used.
        """
        if not self.paths:
            raise UserError(f"The folder '{self.root}' (data.unlabelled_root) holds no image to train on.")

    @cached_property
    def paths(self) -> list[Path]:
        """The images, sorted by name."""
        root = Path(self.root).expanduser()
        if not root.is_dir():
            raise UserError(f"The folder '{root}' (data.unlabelled_root) does not exist.")
        found = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        evaluated = list(self.evaluated)
        copies = _copies(found, evaluated)
        if self.near_duplicates:
            pairs = near_duplicate_files([*found, *evaluated])
            copies |= {found[i] for i, j in pairs if i < len(found) <= j}
        return [path for path in found if path not in copies]

    @property
    def categories(self) -> tuple[str, ...]:
        return ()

    @property
    def category_ids(self) -> tuple[int, ...]:
        return ()

    def size(self, split: Split) -> int:
        return len(self.paths) if split == "train" else 0

    def num_objects(self, split: Split) -> int | None:
        return None

    def image_size(self, split: Split, index: int) -> tuple[int, int]:
        return image_size(self.paths[index])

    def objects(self, split: Split, index: int) -> NDArray[np.float32]:
        return np.zeros((0, 4), np.float32)

    def read(self, split: Split, index: int, epoch: int, window: Window | None) -> Record:
        path = self.paths[index]
        image = read_image(path)
        size = (image.shape[0], image.shape[1])
        left, top, width, height = window or (0, 0, size[1], size[0])
        cut = np.ascontiguousarray(image[top : top + height, left : left + width])
        empty = no_objects(cut, path.name, index + 1)
        return replace(empty, file_size=size, window=(left, top, width, height))

    def split_lists(self) -> dict[str, list[str]]:
        root = Path(self.root).expanduser()
        names = [path.relative_to(root).as_posix() for path in self.paths]
        return {split: names if split == "train" else [] for split in SPLITS}

    def fingerprint(self) -> str:
        return file_fingerprint(self.paths)


def _copies(paths: Sequence[Path], originals: Sequence[Path]) -> set[Path]:
    """Those of ``paths`` with the bytes of one of ``originals``; only files of equal size are read."""
    sizes: dict[int, set[bytes]] = {}
    candidates = {path.stat().st_size for path in paths}
    for original in originals:
        if (size := original.stat().st_size) in candidates:
            sizes.setdefault(size, set()).add(_digest(original))
    return {path for path in paths if _digest_of_size(path, sizes)}


def _digest_of_size(path: Path, sizes: dict[int, set[bytes]]) -> bool:
    known = sizes.get(path.stat().st_size)
    return known is not None and _digest(path) in known


def _digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


class Unlabelled(Dataset[Sample]):
    """The samples of ``dataset`` with their class maps in ``hidden``, where training does not look."""

    def __init__(self, dataset: SampleDataset) -> None:
        self.dataset = dataset

    @property
    def spec(self) -> InputSpec:
        """Geometry and normalisation of the samples."""
        return self.dataset.spec

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: int | Key) -> Sample:
        sample = self.dataset[key]
        return replace(sample, semantic=None, hidden=sample.semantic)
