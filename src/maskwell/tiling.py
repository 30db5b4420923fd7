"""Prediction of large images in overlapping tiles: the grid, and one answer out of all tiles' answers.

An object on the border between two tiles is seen by both, whole or in part. Two detections of one
label from different tiles are taken for one object where their masks overlap (IoU, or the share of
the smaller one), and two parts of an object larger than the overlap where they agree in the strip
that both tiles see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from pycocotools import mask as coco_mask
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from maskwell.data.sample import Prediction
from maskwell.data.source import Window
from maskwell.data.windows import tiles
from maskwell.errors import UserError
from maskwell.ops import boxes as box_ops
from maskwell.ops import masks as mask_ops
from maskwell.ops.masks import Rle

OVERLAP = 0.25
"""Share of a tile that its neighbour sees too."""

_SAME_IOU = 0.5
_SAME_SHARE = 0.7  # of the smaller of two masks that lies in the other: a part and its whole
_AGREEMENT = 0.5  # IoU of two parts of one object inside the strip that both tiles see
_MARGIN = 2.0  # px from a tile's border at which a detection counts as cut by it
_CUT_WEIGHT = 0.5  # of a cut detection's score, where it is decided which duplicate stays

Flags = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Pairs = list[tuple[int, int]]
Neighbours = list[tuple[int, int, Ints]]


def grid(size: tuple[int, int], tile: int | None, overlap: float = OVERLAP) -> list[Window]:
    """Windows (x, y, width, height) that cover an image of (height, width).

    Args:
        size: of the image.
        tile: side in px; None, or an image no larger than a tile, gives one window.
        overlap: least share of a tile that it has in common with the next.

    Raises:
        UserError: for a tile below 16 px or an overlap outside [0, 0.9].
    """
    if tile is None:
        return [(0, 0, size[1], size[0])]
    if tile < 16:
        raise UserError(
            f"tile={tile} is too small: give a side of 16 px or more, or tile=null for whole images."
        )
    if not 0 <= overlap <= 0.9:
        raise UserError(f"overlap={overlap} is no share of a tile between 0 and 0.9.")
    return tiles(size, tile, round(tile * overlap))


@dataclass(frozen=True)
class _Layout:
    """Tiles over one image: ``edges`` int64 [T, 4] xyxy; ``inner`` bool [T, 4]: edges inside the image."""

    edges: Ints
    inner: Flags

    @classmethod
    def of(cls, windows: Sequence[Window], size: tuple[int, int]) -> _Layout:
        x, y, w, h = np.array(windows, np.int64).T
        edges = np.stack([x, y, x + w, y + h], axis=1)
        return cls(edges, (edges > 0) & (edges < [size[1], size[0], size[1], size[0]]))

    def neighbours(self) -> list[tuple[int, int, Ints]]:
        """(tile, later tile, xyxy of what both see) for each two tiles with a common area."""
        found = []
        for a in range(len(self.edges) - 1):
            mine, later = self.edges[a], self.edges[a + 1 :]
            low, high = np.maximum(mine[:2], later[:, :2]), np.minimum(mine[2:], later[:, 2:])
            meeting = np.flatnonzero((high > low).all(1))
            found += [(a, a + 1 + int(b), np.concatenate([low[b], high[b]])) for b in meeting]
        return found

    def runs_through(self, tile: int, other: int) -> Flags:
        """bool [4]: which edges of ``tile`` run through the inside of ``other``."""
        low, high = np.tile(self.edges[other, :2], 2), np.tile(self.edges[other, 2:], 2)
        return np.asarray((self.edges[tile] > low) & (self.edges[tile] < high))


@dataclass(frozen=True)
class _Pieces:
    """All tiles' detections in the frame of the image.

    ``extent`` float64 [N, 4]: box around the mask, or the predicted box where there is none; ``cut``
    bool [N, 4]: which of its sides lie on an inner edge of the tile (left, top, right, bottom);
    ``offsets`` int64 [T + 1]: where the detections of each tile begin.
    """

    boxes: Tensor
    scores: Tensor
    labels: Ints
    rles: list[Rle] | None
    extent: Floats
    cut: Flags
    offsets: Ints

    def of(self, tile: int, keep: Flags) -> Ints:
        """Indices of the detections of one tile for which ``keep`` (bool [N]) is True."""
        start, stop = self.offsets[tile], self.offsets[tile + 1]
        return np.asarray(start + np.flatnonzero(keep[start:stop]))


def merge(windows: Sequence[Window], predictions: Sequence[Prediction], size: tuple[int, int]) -> Prediction:
    """One prediction of an image out of one per window, each object once, best score first.

    1. A detection that its tile cuts off is left to a tile that sees all of it.
    2. Parts of one object larger than the overlap are joined: union of the masks, best score.
    3. Greedily by score, cut ones behind, duplicates from other tiles are suppressed.

    Args:
        windows: (x, y, width, height) of each tile in pixels of the image.
        predictions: in the frame of their windows; boxes, with masks or without.
        size: (height, width) of the image.
    """
    if len(windows) == 1 and windows[0] == (0, 0, size[1], size[0]):
        return predictions[0]
    layout = _Layout.of(windows, size)
    pieces = _pieces(layout, predictions, size)
    neighbours = layout.neighbours()
    alive = ~_seen_better(layout, neighbours, pieces)
    same, parts = _matches(layout, neighbours, pieces, alive)
    groups = _groups(parts, len(alive))
    keepers = _suppress(pieces, alive, groups, same)
    return _assemble(pieces, keepers, alive, groups, predictions, size)


def _pieces(layout: _Layout, predictions: Sequence[Prediction], size: tuple[int, int]) -> _Pieces:
    boxes: list[Tensor] = []
    rles: list[Rle] = []
    extents, cuts = [], []
    has_masks = all(prediction.rles is not None for prediction in predictions)
    for edges, inner, prediction in zip(layout.edges, layout.inner, predictions, strict=True):
        x, y = int(edges[0]), int(edges[1])
        moved = prediction.boxes + torch.tensor([x, y, x, y], dtype=prediction.boxes.dtype)
        extent = moved.double().numpy()
        if has_masks:
            shifted = mask_ops.shift(prediction.rles or [], (x, y), size)
            rles += shifted
            tight = mask_ops.boxes(shifted).double().numpy()
            filled = tight[:, 2] > tight[:, 0]
            extent = np.where(filled[:, None], tight, extent)
        boxes.append(moved)
        extents.append(extent)
        cuts.append((np.abs(extent - edges) <= _MARGIN) & inner)
    return _Pieces(
        boxes=torch.cat(boxes),
        scores=torch.cat([p.scores for p in predictions]),
        labels=torch.cat([p.labels for p in predictions]).numpy(),
        rles=rles if has_masks else None,
        extent=np.concatenate(extents),
        cut=np.concatenate(cuts),
        offsets=np.cumsum([0, *(len(prediction.scores) for prediction in predictions)]),
    )


def _seen_better(layout: _Layout, neighbours: Neighbours, pieces: _Pieces) -> Flags:
    """bool [N]: cut detections of which another tile sees everything, clear of its own borders."""
    better = np.zeros(len(pieces.cut), bool)
    is_cut = np.asarray(pieces.cut.any(1))
    for a, b, common in neighbours:
        for tile, other in ((a, b), (b, a)):
            candidates = pieces.of(tile, is_cut)
            extent = pieces.extent[candidates]
            inside = (extent[:, :2] >= common[:2]).all(1) & (extent[:, 2:] <= common[2:]).all(1)
            clear = (np.abs(extent - layout.edges[other]) > _MARGIN) | ~layout.inner[other]
            better[candidates[inside & clear.all(1)]] = True
    return better


def _matches(layout: _Layout, neighbours: Neighbours, pieces: _Pieces, alive: Flags) -> tuple[Pairs, Pairs]:
    """Pairs of detections that are duplicates, and pairs that are parts of one object."""
    same: Pairs = []
    parts: Pairs = []
    for a, b, common in neighbours:
        first, second = (
            index[_reaches(pieces.extent[index], common)]
            for index in (pieces.of(a, alive), pieces.of(b, alive))
        )
        if not len(first) or not len(second):
            continue
        iou, share = _overlaps(pieces, first, second)
        candidate = (pieces.labels[first][:, None] == pieces.labels[second]) & (iou > 0)
        same += _indices(candidate & ((iou > _SAME_IOU) | (share > _SAME_SHARE)), first, second)
        # Two parts of one object face each other: each is cut by an edge that the other's tile sees past.
        cut_first = np.flatnonzero((pieces.cut[first] & layout.runs_through(a, b)).any(1))
        cut_second = np.flatnonzero((pieces.cut[second] & layout.runs_through(b, a)).any(1))
        agree = _agreement(pieces, first[cut_first], second[cut_second], common) > _AGREEMENT
        facing = candidate[np.ix_(cut_first, cut_second)]
        parts += _indices(facing & agree, first[cut_first], second[cut_second])
    return same, parts


def _reaches(extent: Floats, area: Ints) -> Flags:
    return np.asarray((extent[:, :2] < area[2:]).all(1) & (extent[:, 2:] > area[:2]).all(1))


def _overlaps(pieces: _Pieces, first: Ints, second: Ints) -> tuple[Floats, Floats]:
    """(IoU, intersection over the smaller) of two sets of detections, [A, B] each."""
    if pieces.rles is None:
        extent = torch.from_numpy(pieces.extent)
        iou = box_ops.iou(*box_ops.pairwise(extent[first], extent[second])).numpy()
        sides = pieces.extent[:, 2:] - pieces.extent[:, :2]
        areas = [sides[index].prod(1) for index in (first, second)]
    else:
        one, two = ([pieces.rles[i] for i in index] for index in (first, second))
        iou = mask_ops.iou(one, two).numpy()
        areas = [mask_ops.area(rles).double().numpy() for rles in (one, two)]
    total = areas[0][:, None] + areas[1]
    intersection = iou * total / (1 + iou)
    return iou, intersection / np.maximum(np.minimum(areas[0][:, None], areas[1]), 1e-9)


def _agreement(pieces: _Pieces, first: Ints, second: Ints, common: Ints) -> Floats:
    """IoU [A, B] of two sets of detections inside the area that both their tiles see."""
    if not len(first) or not len(second):
        return np.zeros((len(first), len(second)))
    if pieces.rles is None:
        low, high = np.tile(common[:2], 2), np.tile(common[2:], 2)
        clipped = torch.from_numpy(np.clip(pieces.extent, low, high))
        return np.asarray(box_ops.iou(*box_ops.pairwise(clipped[first], clipped[second])).numpy())
    x, y, right, bottom = (int(v) for v in common)
    one, two = (
        mask_ops.crop([pieces.rles[i] for i in index], (x, y, right - x, bottom - y))
        for index in (first, second)
    )
    return np.asarray(mask_ops.iou(one, two).numpy())


def _indices(chosen: Flags, first: Ints, second: Ints) -> Pairs:
    rows, columns = np.nonzero(chosen)
    return list(zip(first[rows].tolist(), second[columns].tolist(), strict=True))


def _groups(parts: Pairs, count: int) -> npt.NDArray[np.int32]:
    """int32 [N]: the object that each detection is a part of."""
    rows, columns = np.array(parts, np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], np.int32)


def _suppress(pieces: _Pieces, alive: Flags, groups: npt.NDArray[np.int32], same: Pairs) -> list[int]:
    """The groups that stay: greedily by score, each suppressing its duplicates."""
    weight = np.where(pieces.cut.any(1), _CUT_WEIGHT, 1.0) * alive
    rank = np.full(int(groups.max(initial=-1)) + 1, -1.0)
    np.maximum.at(rank, groups, np.where(alive, weight * pieces.scores.double().numpy(), -1.0))
    rivals: dict[int, set[int]] = {}
    for i, j in same:
        one, two = int(groups[i]), int(groups[j])
        if one != two:
            rivals.setdefault(one, set()).add(two)
            rivals.setdefault(two, set()).add(one)
    kept: list[int] = []
    gone: set[int] = set()
    for group in np.argsort(-rank, kind="stable").tolist():
        if rank[group] >= 0 and group not in gone:
            kept.append(group)
            gone |= rivals.get(group, set())
    return kept


def _assemble(
    pieces: _Pieces,
    keepers: list[int],
    alive: Flags,
    groups: npt.NDArray[np.int32],
    predictions: Sequence[Prediction],
    size: tuple[int, int],
) -> Prediction:
    members: dict[int, list[int]] = {}
    for index in np.flatnonzero(alive).tolist():
        members.setdefault(int(groups[index]), []).append(index)
    # The best part speaks for its group; the stable sort keeps the order of the tiles among equals.
    chosen = [sorted(members[g], key=lambda i: -float(pieces.scores[i])) for g in keepers]
    chosen.sort(key=lambda group: -float(pieces.scores[group[0]]))
    lead = torch.tensor([group[0] for group in chosen], dtype=torch.int64)
    boxes = [
        torch.cat([pieces.boxes[group, :2].amin(0), pieces.boxes[group, 2:].amax(0)]) for group in chosen
    ]
    present: dict[int, float] = {}
    for prediction in predictions:
        for label, value in (prediction.present or {}).items():
            present[label] = max(value, present.get(label, 0.0))
    return Prediction(
        size=size,
        boxes=torch.stack(boxes) if boxes else torch.zeros(0, 4),
        scores=pieces.scores[lead],
        labels=torch.from_numpy(pieces.labels)[lead],
        rles=None if pieces.rles is None else [_union([pieces.rles[i] for i in group]) for group in chosen],
        present=present or None,
    )


def _union(rles: list[Rle]) -> Rle:
    merged: Rle = rles[0] if len(rles) == 1 else coco_mask.merge(rles)
    return merged
