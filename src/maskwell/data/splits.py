"""Seeded train/val/test splits that keep groups and near-duplicate images together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from maskwell.data.source import Split
from maskwell.errors import UserError


def split_images(
    groups: Sequence[str | None],
    val_share: float,
    test_share: float,
    seed: int,
    linked: Sequence[tuple[int, int]] = (),
) -> dict[Split, list[int]]:
    """Indices per split, ascending; images that belong together lie in one split.

    Args:
        groups: group of each image, None for an image of its own.
        val_share, test_share: wanted shares of the images in [0, 1).
        seed: of the choice.
        linked: pairs of images that must not be parted (near duplicates).

    Raises:
        UserError: shares that leave nothing for training.
    """
    if not (0 <= val_share < 1 and 0 <= test_share < 1 and val_share + test_share < 1):
        raise UserError(
            f"data.val_split={val_share} and data.test_split={test_share} must be in [0, 1) and leave a "
            "share for training."
        )
    together = components(groups, linked)
    sizes = np.bincount(together)
    order = np.random.default_rng(seed).permutation(len(sizes))
    place: dict[int, Split] = {}
    wanted: list[tuple[Split, int]] = [
        ("test", round(test_share * len(groups))),
        ("val", round(val_share * len(groups))),
    ]
    for split, count in wanted:
        taken = 0
        for part in order:
            fits = taken + sizes[part] <= count
            if int(part) not in place and fits:
                place[int(part)] = split
                taken += int(sizes[part])
        if count and not taken:
            _take_smallest(place, sizes, split)
    result: dict[Split, list[int]] = {"train": [], "val": [], "test": []}
    for index, part in enumerate(together):
        result[place.get(int(part), "train")].append(index)
    if not result["train"]:
        raise UserError("The images form too few groups to be split; give val and test files of their own.")
    return result


def _take_smallest(place: dict[int, Split], sizes: np.ndarray, split: Split) -> None:
    """A split that was asked for gets the smallest free group, though it is larger than wanted."""
    free = [part for part in np.argsort(sizes, kind="stable") if int(part) not in place]
    if len(free) > 1:
        place[int(free[0])] = split


def components(groups: Sequence[str | None], linked: Sequence[tuple[int, int]]) -> np.ndarray:
    """int [n]: equal numbers for images that share a group or are linked, also through others."""
    first: dict[str, int] = {}
    pairs = list(linked)
    for index, group in enumerate(groups):
        if group is not None:
            pairs.append((first.setdefault(group, index), index))
    if not pairs:
        return np.arange(len(groups))
    rows, columns = np.array(pairs).T
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(groups), len(groups)))
    return np.asarray(connected_components(graph, directed=False)[1])
