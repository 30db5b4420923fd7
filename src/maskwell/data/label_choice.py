"""Which training images count as labelled: a share spread evenly, a random share, or a list."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from maskwell.data.source import FileSource, ImageFile
from maskwell.errors import UserError


@dataclass(frozen=True)
class LabelChoice:
    """How the labelled images are chosen among the training images.

    Args:
        labelled: a share in (0, 1] as a float, or a number of images as an int; None for every image
            that has labels.
        labelled_list: a text file with one image name per line, instead of a number.
        how: ``even`` spreads them over the groups and, by the file names, in time; ``random`` does not.
    """

    labelled: float | None = None
    labelled_list: str | None = None
    how: Literal["even", "random"] = "even"

    def __post_init__(self) -> None:
        if self.labelled is not None and self.labelled_list is not None:
            raise UserError("data.labelled and data.labelled_list are both set: give one of them.")
        if self.how not in ("even", "random"):
            raise UserError(f"data.labelled_choice={self.how}: give even or random.")
        number = self.labelled
        if number is None:
            return
        share, count = isinstance(number, float), isinstance(number, int) and not isinstance(number, bool)
        if not (share and 0 < number <= 1) and not (count and number >= 1):
            raise UserError(
                f"data.labelled={number}: give a share above 0 and at most 1.0, such as 0.125, or a number "
                "of images from 1 on."
            )


def choose_labelled(files: Sequence[ImageFile], choice: LabelChoice, seed: int) -> list[int]:
    """Indices of the labelled images, ascending: a function of the files' names and of ``seed``.

    Raises:
        UserError: no image would be labelled, more than have labels, or the list names others.
    """
    with_labels = [i for i, file in enumerate(files) if file.labelled]
    if choice.labelled_list is not None:
        return _listed(files, Path(choice.labelled_list).expanduser())
    count = len(with_labels) if choice.labelled is None else _count(choice.labelled, len(files))
    if count > len(with_labels):
        raise UserError(
            f"data.labelled={choice.labelled} asks for {count} labelled images, but only "
            f"{len(with_labels)} of the {len(files)} training images have labels."
        )
    rng = np.random.default_rng(seed)
    if choice.how == "random":
        return sorted(with_labels[i] for i in rng.permutation(len(with_labels))[:count])
    ordered = sorted(with_labels, key=lambda i: (files[i].group or "", _natural(files[i].name)))
    places = np.floor((np.arange(count) + rng.random()) * len(ordered) / max(1, count)).astype(int)
    return sorted(ordered[place] for place in places)


def _count(labelled: float, images: int) -> int:
    if not isinstance(labelled, float):
        return labelled
    count = int(labelled * images + 0.5)
    if count == 0:
        raise UserError(
            f"data.labelled={labelled} of {images} training images gives 0 labelled images; ask for a larger "
            "share or for a number of images."
        )
    return count


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts frame 9 before frame 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _listed(files: Sequence[ImageFile], path: Path) -> list[int]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The list of labelled images '{path}' cannot be read ({error}).") from error
    names = [line.strip() for line in lines if line.strip()]
    places: dict[str, list[int]] = {}
    for index, file in enumerate(files):
        whole = PurePosixPath(file.name)
        for name in {file.name, whole.name, whole.stem}:
            places.setdefault(name, []).append(index)
    _refuse(path, [n for n in names if n not in places], "not among the training images")
    _refuse(path, [n for n in names if len(places[n]) > 1], "by a name that several training images have")
    chosen = sorted({places[name][0] for name in names})
    _refuse(path, [files[i].name for i in chosen if not files[i].labelled], "without a mask")
    if not chosen:
        raise UserError(f"The list of labelled images '{path}' names 0 images.")
    return chosen


def _refuse(path: Path, names: Sequence[str], why: str) -> None:
    if names:
        first = ", ".join(f"'{name}'" for name in names[:3]) + (", ..." if len(names) > 3 else "")
        count = f"{len(names)} image" + "s" * (len(names) > 1)
        raise UserError(
            f"The list of labelled images '{path}' names {count} {why}: {first}; correct the list."
        )


def unlabelled_images(source: FileSource, labelled: Sequence[int]) -> list[int]:
    """The other training images, ascending, without those of a group that is validated or tested on."""
    evaluated = {file.group for file in (*source.files("val"), *source.files("test"))} - {None}
    taken = set(labelled)
    return [
        i
        for i, file in enumerate(source.files("train"))
        if i not in taken and (file.group is None or file.group not in evaluated)
    ]
