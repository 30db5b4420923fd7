"""Bipartite matching of predictions and objects (DETR, Carion et al., 2020, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from maskwell.ops import boxes as box_ops

_UNMATCHABLE = 1e6
"""Cost in place of a non-finite one: above every real cost, far below float32's limits."""


@dataclass(frozen=True)
class MatchCosts:
    """Weights of the matching cost; SAM 3's training uses 2 / 5 / 2."""

    classification: float = 2.0
    l1: float = 5.0
    giou: float = 2.0


def focal_cost(logits: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Cost [...] of calling a query with these logits an object: focal loss as 1 minus as 0."""
    probability = logits.sigmoid()
    positive = -alpha * (1 - probability) ** gamma * torch.nn.functional.logsigmoid(logits)
    negative = -(1 - alpha) * probability**gamma * torch.nn.functional.logsigmoid(-logits)
    return positive - negative


def match_cost(
    logits: Tensor,
    boxes: Tensor,
    targets: Tensor,
    costs: MatchCosts,
    classification: Tensor | None = None,
) -> Tensor:
    """Cost matrix in float32 without gradient.

    Args:
        logits: [..., Q] class logits of queries.
        boxes: [..., Q, 4] predicted boxes, xyxy in [0, 1].
        targets: [..., N, 4] target boxes, xyxy in [0, 1].
        classification: [..., Q, N] cost of each pair, where there are several classes; logits are not read.

    Returns:
        [..., Q, N]; a non-finite entry is replaced by a cost that no assignment prefers, so that a
        diverging network meets the loss (and its monitor) instead of a crash in the solver.
    """
    with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
        logits, boxes, targets = logits.float(), boxes.float(), targets.float()
        predicted, wanted = box_ops.pairwise(boxes, targets)
        distance = (box_ops.xyxy_to_cxcywh(predicted) - box_ops.xyxy_to_cxcywh(wanted)).abs().sum(-1)
        if classification is None:
            classification = focal_cost(logits).unsqueeze(-1)
        cost = (
            costs.classification * classification.float()
            + costs.l1 * distance
            - costs.giou * box_ops.generalised_iou(predicted, wanted)
        )
        return torch.nan_to_num(cost, nan=_UNMATCHABLE, posinf=_UNMATCHABLE, neginf=_UNMATCHABLE)


def assign(
    cost: Tensor, counts: Sequence[int], repeats: Sequence[int] | None = None
) -> list[tuple[Tensor, Tensor]]:
    """Optimal assignment for each problem of a batch: every target to one query, or to several.

    Args:
        cost: [B, Q, N] cost matrices, padded to the largest number of targets N.
        counts: targets of each problem, <= N.
        repeats: queries that each target of a problem gets; None: one.

    Returns:
        Per problem (query indices, target indices), int64, as many as min(Q, count * repeat); no
        query comes twice.
    """
    matrices = cost.detach().cpu().numpy()
    pairs = []
    for matrix, count, repeat in zip(matrices, counts, repeats or [1] * len(counts), strict=True):
        if not count:
            rows = columns = np.empty(0)
        else:
            rows, columns = linear_sum_assignment(np.tile(matrix[:, :count], repeat))
            columns = columns % count
        pairs.append((torch.as_tensor(rows, dtype=torch.int64), torch.as_tensor(columns, dtype=torch.int64)))
    return pairs
