"""What is marked already, seen from every cell of the grid: the canvas.

Channels are functions of the marks' exact places, so a cell knows to a fraction of a pixel where the
nearest mark lies. Without an order they are the same for any permutation and shift with the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NARROW, WIDE = 0.75, 2.5
"""Widths of the bumps around a mark, in cells."""
CHUNK = 4_000_000
"""Distances (states x cells x marks) that are computed at a time."""


@dataclass(frozen=True)
class Canvas:
    """Which channels a cell sees.

    Args:
        places: its own place, for heads that name coordinates and orders that begin somewhere.
        last: how it lies to the last mark, for orders that go on from there; to the top left corner
            where there is none.
        row_height: of the reading order, in cells.
    """

    places: bool
    last: bool
    row_height: float

    @property
    def channels(self) -> int:
        """Number of channels."""
        return 5 + 2 * self.places + 6 * self.last

    def __call__(self, marks: Tensor, counts: Tensor, size: tuple[int, int]) -> Tensor:
        """Paint the marks of each state.

        Args:
            marks: float [S, M, 2] in [0, 1], in their order; rows beyond the count are ignored.
            counts: int64 [S].
            size: (height, width) of the grid.

        Returns:
            float32 [S, height * width, channels], without gradient.
        """
        with torch.no_grad():
            centres = cell_centres(size, marks.device)
            scale = marks.new_tensor([size[1], size[0]])
            parts = [_around_marks(marks.float() * scale, counts, centres)]
            if self.places:
                parts.append((centres / scale * 2 - 1).expand(len(marks), -1, -1))
            if self.last:
                parts.append(self._from_last(marks.float(), counts, centres, scale))
            return torch.cat(parts, dim=2)

    def _from_last(self, marks: Tensor, counts: Tensor, centres: Tensor, scale: Tensor) -> Tensor:
        begun = counts > 0
        last = marks.new_zeros(len(marks), 2)
        if marks.shape[1]:
            index = (counts - 1).clamp(min=0)[:, None, None].expand(-1, 1, 2)
            last = torch.where(begun[:, None], marks.gather(1, index)[:, 0], last)
        last = last * scale
        away = centres - last[:, None]  # cells
        rows = torch.floor(centres[:, 1] / self.row_height) - torch.floor(last[:, 1:] / self.row_height)
        ahead = rows + away[..., 0] / scale[0]  # rows of reading until the cell is reached
        longest = scale.max()
        return torch.stack(
            [
                away[..., 0] / longest * 2,
                away[..., 1] / longest * 2,
                away.norm(dim=-1) / longest * 2,
                (ahead / 4).clamp(-1, 1),
                torch.tanh(4 * ahead),
                begun[:, None].expand_as(ahead).float(),
            ],
            dim=2,
        )


def cell_centres(size: tuple[int, int], device: torch.device | str) -> Tensor:
    """(x, y) of the cells' centres in cells, row by row: float32 [height * width, 2]."""
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1).to(device) + 0.5


@torch.no_grad()
def nearest_distance(points: Tensor, marks: Tensor, counts: Tensor) -> Tensor:
    """Distance of each point [S, P, 2] to the nearest mark of its state: [S, P], inf where there is none.

    ``marks`` [S, M, 2] and ``counts`` int64 [S] as in :class:`Canvas`, in the unit of the points.
    """
    most = marks.shape[1]
    if not most:
        return points.new_full(points.shape[:2], torch.inf)
    rows = max(1, CHUNK // (points.shape[1] * most))
    absent = torch.arange(most, device=marks.device) >= counts[:, None]
    chunks = zip(points.split(rows), marks.split(rows), absent.split(rows), strict=True)
    return torch.cat(
        [torch.cdist(p, m).masked_fill(none[:, None], torch.inf).amin(2) for p, m, none in chunks]
    )


def padded(marks: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Marks [k, 2] of several states as one tensor [S, M, 2] with their counts int64 [S]."""
    counts = torch.tensor([len(row) for row in marks], device=marks[0].device)
    return torch.nn.utils.rnn.pad_sequence(marks, batch_first=True), counts


def _around_marks(marks: Tensor, counts: Tensor, centres: Tensor) -> Tensor:
    """Bumps at the nearest mark, the way to it, and the density of marks: [S, P, 5]."""
    states, most = marks.shape[:2]
    if not most:
        return centres.new_zeros(states, len(centres), 5)
    rows = max(1, CHUNK // (len(centres) * most))
    chunks = zip(marks.split(rows), counts.split(rows), strict=True)
    return torch.cat([_around_chunk(part, count, centres) for part, count in chunks])


def _around_chunk(marks: Tensor, counts: Tensor, centres: Tensor) -> Tensor:
    x = marks[:, None, :, 0] - centres[None, :, None, 0]
    y = marks[:, None, :, 1] - centres[None, :, None, 1]
    absent = torch.arange(marks.shape[1], device=marks.device) >= counts[:, None]
    square = (x.square() + y.square()).masked_fill(absent[:, None], torch.inf)
    nearest = square.argmin(dim=2, keepdim=True)
    bumps = torch.exp(-square / (2 * WIDE**2))
    wide = bumps.gather(2, nearest)[..., 0]
    narrow = torch.exp(-square.gather(2, nearest)[..., 0] / (2 * NARROW**2))
    to_x, to_y = x.gather(2, nearest)[..., 0] * wide, y.gather(2, nearest)[..., 0] * wide
    return torch.stack([narrow, wide, to_x, to_y, bumps.sum(2).log1p()], dim=2)
