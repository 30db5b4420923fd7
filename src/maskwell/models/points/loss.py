"""Loss terms: pure functions of a head's output and of what is left to mark.

Distances are L1 in coordinates of [-1, 1], so 0.1 is 19.2 px of 384. Terms per state are not yet
averaged over states.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from maskwell.models.points.heads import Pointing, Proposals
from maskwell.ops.points import to_signed

Distance = Literal["funnel", "huber", "mse"]
DISTANCES: tuple[Distance, ...] = get_args(Distance)

REACH = 0.75
"""A cell is as right as the object's own where its centre is within this many cells of it (each axis)."""
NO_OBJECT = 0.5
"""Weight of proposals without an object (P2PNet)."""
DISTANCE_COST, DISTANCE_WEIGHT = 0.05, 0.0002
"""Of P2PNet: px in the matching cost, square px in the loss."""


def funnel(distance: Tensor, threshold: float) -> Tensor:
    """The field notes' loss, exactly: d^2 below the threshold t, t d + t^2 from there on.

    At t it jumps from t^2 to 2 t^2 and its slope falls from 2 t to t: the notes' "heavy penalty" of far
    errors is a smaller gradient than the square has, and smaller still with a smaller threshold.
    """
    return torch.where(distance < threshold, distance**2, threshold * distance + threshold**2)


def huber(distance: Tensor, threshold: float) -> Tensor:
    """d^2 below the threshold t, 2 t d - t^2 from there on: the same near, continuous, slope 2 t far away."""
    return torch.where(distance < threshold, distance**2, 2 * threshold * distance - threshold**2)


def coordinate_loss(predicted: Tensor, target: Tensor, kind: Distance, threshold: float) -> Tensor:
    """Loss of points [..., 2] in [-1, 1] -> [...]."""
    if kind == "mse":
        return (predicted - target).square().mean(-1)
    distance = (predicted - target).abs().sum(-1)
    return funnel(distance, threshold) if kind == "funnel" else huber(distance, threshold)


def done_loss(logit: Tensor, finished: Tensor, pos_weight: float) -> Tensor:
    """Binary cross-entropy of "no more" per state [S]; that of finished states times ``pos_weight``."""
    weight = torch.where(finished, pos_weight, 1.0)
    return weight * F.binary_cross_entropy_with_logits(logit, finished.to(logit.dtype), reduction="none")


@dataclass(frozen=True)
class Around:
    """The 3 x 3 cells around each object that is left.

    ``index`` int64 [S, R, 9] of the cells; ``right`` bool: pointing there is right; ``near`` bool: no
    other object that is left is nearer to the cell, whose offset is therefore about this one.
    """

    index: Tensor
    right: Tensor
    near: Tensor


def around(logits: Tensor, left: Tensor, present: Tensor, size: tuple[int, int]) -> Around:
    """Cells around the objects that are left.

    Args:
        logits: [S, P], -inf for cells that show no image.
        left: [S, R, 2] in [0, 1]; ``present``: bool [S, R], rows that are objects.
        size: (height, width) of the grid.
    """
    height, width = size
    objects = left * left.new_tensor([width, height])
    steps = torch.tensor([[x, y] for y in (-1, 0, 1) for x in (-1, 0, 1)], device=left.device)
    limit = torch.tensor([width - 1, height - 1], device=left.device)
    home = torch.minimum(objects.floor().long().clamp(min=0), limit)
    cells = home[:, :, None] + steps
    inside = ((cells >= 0) & (cells <= limit)).all(-1) & present[..., None]
    cells = torch.minimum(cells.clamp(min=0), limit)
    index = cells[..., 1] * width + cells[..., 0]
    inside &= _at(logits, index).isfinite()
    away = objects[:, :, None] - (cells + 0.5)
    square = away.square().sum(-1).masked_fill(~inside, torch.inf)
    nearest = torch.full_like(logits, torch.inf)
    nearest = nearest.scatter_reduce(1, index.flatten(1), square.flatten(1).to(logits.dtype), "amin")
    near = inside & (square <= _at(nearest, index))
    at_home = torch.arange(9, device=left.device) == 4
    right = inside & (at_home | (near & (away.abs().amax(-1) <= REACH)))
    return Around(index, right, near)


def objectness(logits: Tensor, valid: Tensor, cells: Around) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy of every cell that shows image: does it show an object?

    Args:
        logits: [B, P]; ``valid``: bool [B, P], shows image.
        cells: around all objects of each image.

    Returns:
        Its sum per image [B], and the number of cells that do [B].
    """
    shows = _pointed_at(logits, cells)
    each = F.binary_cross_entropy_with_logits(logits, shows.to(logits.dtype), reduction="none")
    return torch.where(valid, each, 0.0).sum(1), shows.sum(1)


def point_each(out: Pointing, cells: Around) -> tuple[Tensor, Tensor]:
    """-log of the chance to point at each object, given that one is made: [S, R], and where it is defined."""
    known = cells.right.any(-1)
    logits = _at(out.logits, cells.index).masked_fill(~cells.right, -torch.inf)
    inside = torch.where(known[..., None], logits, 0.0).logsumexp(-1)
    return torch.where(known, out.log_any[:, None] - inside, 0.0), known


def point_any(out: Pointing, cells: Around) -> tuple[Tensor, Tensor]:
    """-log of the chance to point at any object that is left: [S], and where it is defined."""
    known = cells.right.flatten(1).any(1)
    logits = out.logits.masked_fill(~_pointed_at(out.logits, cells), -torch.inf)
    inside = torch.where(known[:, None], logits, 0.0).logsumexp(1)
    return torch.where(known, out.log_any - inside, 0.0), known


def offsets(out: Pointing, cells: Around, left: Tensor, kind: Distance, threshold: float) -> Tensor:
    """Coordinate loss of what the cells around objects would mark, mean per state [S]."""
    states = torch.arange(len(left), device=left.device)[:, None, None]
    predicted = to_signed(out.places[states, cells.index])
    each = coordinate_loss(predicted, to_signed(left)[:, :, None], kind, threshold)
    return _mean(each.flatten(1), cells.near.flatten(1))


def mean_known(values: Tensor, known: Tensor) -> Tensor:
    """Mean of [S, R] over the rows that are known, 0 where there are none: [S]."""
    return _mean(values, known)


def one_shot(out: Proposals, truth: list[Tensor], scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """P2PNet's loss of a batch (Song et al., 2021), summed and not yet divided.

    Args:
        out: logits [B, Q] and places [B, Q, 2].
        truth: per image [N, 2] in [0, 1].
        scale: (width, height) of the input in px, float [2].

    Returns:
        Summed weighted cross-entropy, sum of its weights, summed square px distance of matched ones.
    """
    finite = out.logits.isfinite()
    target = torch.zeros_like(out.logits)
    distance = out.places.new_zeros(())
    for row, points in enumerate(truth):
        chosen, objects = match_proposals(out.logits[row], out.places[row] * scale, points * scale)
        target[row, chosen] = 1.0
        distance = distance + ((out.places[row, chosen] - points[objects]) * scale).square().sum()
    weight = torch.where(target > 0, 1.0, NO_OBJECT) * finite
    logits = out.logits.masked_fill(~finite, 0.0)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, weight=weight, reduction="sum")
    return cross_entropy, weight.sum(), distance


def match_proposals(logits: Tensor, places: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Cheapest assignment of points in px [N, 2] to proposals [Q]: (proposals, points), int64."""
    with torch.no_grad():
        cost = DISTANCE_COST * torch.cdist(places, points) - logits.sigmoid()[:, None]
        cost = cost.masked_fill(~logits.isfinite()[:, None], 1e6).nan_to_num(1e6, 1e6, 1e6)
    rows, columns = linear_sum_assignment(cost.cpu().numpy())
    return (
        torch.as_tensor(rows, dtype=torch.int64, device=logits.device),
        torch.as_tensor(columns, dtype=torch.int64, device=logits.device),
    )


def _pointed_at(logits: Tensor, cells: Around) -> Tensor:
    """Which cells it is right to point at, for whatever object: bool [S, P]."""
    right = cells.right.flatten(1).to(logits.dtype)
    return torch.zeros_like(logits).scatter_reduce(1, cells.index.flatten(1), right, "amax") > 0


def _at(values: Tensor, index: Tensor) -> Tensor:
    """[S, P] at int64 [S, R, 9]."""
    return values.gather(1, index.flatten(1)).view(index.shape)


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    return torch.where(counted, values, 0.0).sum(1) / counted.sum(1).clamp(min=1)
