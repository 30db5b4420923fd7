"""From states and a head's output to the loss, its parts and what the model would mark next."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from maskwell.errors import UserError
from maskwell.models.points import loss
from maskwell.models.points.heads import PROPOSALS, Coordinates, Pointing, Proposals
from maskwell.models.points.loss import DISTANCES, Distance
from maskwell.models.points.net import Grid, Head
from maskwell.models.points.states import Policy, State
from maskwell.ops.losses import ALONE, Accumulation
from maskwell.ops.points import to_signed

# Distances of a pointer are parts of a cell, 0.04 at 384 px: they need another scale than coordinates.
DEFAULTS: dict[Head, tuple[float, float, float]] = {
    "pointer": (0.02, 500.0, 1.0),
    "xy": (0.3, 1.0, 3.0),
    "one_shot": (0.0, loss.DISTANCE_WEIGHT, 0.0),
}
"""Threshold of the distance, weight of the coordinates and weight of "done", unless they are given."""


@dataclass(frozen=True)
class Look:
    """What the model would do in each state: ``point`` [S, 2] in [0, 1]; ``done`` [S] probability.

    ``target`` [S, 2] is what comes next (where any will do, the one nearest to ``point``), nan in
    finished states; ``error`` [S] its distance in px of the network input.
    """

    point: Tensor
    done: Tensor
    target: Tensor
    error: Tensor


class Objective:
    """Loss of sequential heads over states, and of the one-shot head over images.

    Args:
        head: which.
        policy: order and mode decide what is right and what is learnt.
        kind: distance of coordinates.
        threshold: of ``funnel`` and ``huber``, in [-1, 1]; None: the head's own.
        spatial_weight: of ``loss_spatial``; ``done_weight``: of ``loss_done``; None: the head's own.
        pos_weight: of finished states in ``loss_done``.
        cell_weight: of the pointer's ``loss_cell``.
    """

    def __init__(
        self,
        head: Head,
        policy: Policy,
        kind: Distance,
        threshold: float | None = None,
        spatial_weight: float | None = None,
        done_weight: float | None = None,
        pos_weight: float = 1.0,
        cell_weight: float = 1.0,
    ) -> None:
        if kind not in DISTANCES:
            raise UserError(f"model.loss={kind}: give one of {', '.join(DISTANCES)}.")
        given = {"threshold": threshold, "spatial_weight": spatial_weight, "done_weight": done_weight}
        fixed = {"done_pos_weight": pos_weight, "cell_weight": cell_weight}
        for name, value in {**given, **fixed}.items():
            if value is not None and value < 0:
                raise UserError(f"model.{name}={value}: give a number of 0 or more.")
        own = DEFAULTS[head]
        self.policy, self.kind, self.pos_weight, self.cell_weight = policy, kind, pos_weight, cell_weight
        self.threshold = own[0] if threshold is None else threshold
        self.spatial_weight = own[1] if spatial_weight is None else spatial_weight
        self.done_weight = own[2] if done_weight is None else done_weight

    def counts(self, states: list[State], grid: Grid, truth: list[Tensor]) -> dict[str, float]:
        """What the terms of sequential heads are divided by, see :meth:`states`."""
        counted = {"unfinished": sum(not state.finished for state in states), "states": len(states)}
        if grid.objectness is None:
            return dict(counted)
        shown = self._shown(torch.zeros_like(grid.objectness), grid, truth)[1]
        return {**counted, "cells": float(shown.sum())}

    def one_shot_counts(self, valid: Tensor, truth: list[Tensor]) -> dict[str, float]:
        """What the terms of the one-shot head are divided by; ``valid`` bool [B, P], shows image."""
        shown = (valid.sum(1) * PROPOSALS).tolist()
        matched = sum(min(len(points), most) for points, most in zip(truth, shown, strict=True))
        weight = matched + loss.NO_OBJECT * (sum(shown) - matched)
        return {"objects": sum(len(points) for points in truth), "weight": weight}

    def states(
        self,
        out: Pointing | Coordinates,
        states: list[State],
        scale: Tensor,
        grid: Grid,
        truth: list[Tensor],
        together: Accumulation = ALONE,
    ) -> tuple[Tensor, dict[str, Tensor], Look]:
        """Loss, raw parts and the model's look at each state.

        Args:
            out: what the head says in each state.
            states: these.
            scale: (width, height) of the network input in px, float [2].
            grid: the images; ``truth``: their objects, float [N, 2] in [0, 1] each.
            together: with which batches gradients are accumulated.
        """
        device = out.done_logit.device
        left, present = _padded([state.left for state in states], device)
        unfinished = present.any(1)
        look = self._look(out, left, present, scale)
        if isinstance(out, Pointing):
            spatial_parts = self._pointing(out, left, present)
        else:
            target = to_signed(torch.where(unfinished[:, None], look.target, 0.0))
            each = loss.coordinate_loss(out.signed, target, self.kind, self.threshold)
            spatial_parts = {"loss_spatial": torch.where(unfinished, each, 0.0)}
        square = (to_signed(look.point) - to_signed(look.target)).square().mean(1)
        each_unfinished = together.divisor("unfinished", unfinished.sum(), device)
        parts = {name: each_unfinished.mean(value.sum()) for name, value in spatial_parts.items()}
        done = loss.done_loss(out.done_logit, ~unfinished, self.pos_weight)
        parts["loss_done"] = together.divisor("states", len(states), device).mean(done.sum())
        if grid.objectness is not None:
            parts["loss_cell"] = self._objectness(grid.objectness, grid, truth, together)
        parts["loss_mse"] = each_unfinished.mean(torch.where(unfinished, square, 0.0).sum())
        return self._total(parts), parts, look

    def _total(self, parts: dict[str, Tensor]) -> Tensor:
        # What a mode leaves out weighs 0 and stays in the graph: DDP wants a gradient of every parameter.
        where, end = float(self.policy.mode != "done"), float(self.policy.mode != "regression")
        total = where * self.spatial_weight * parts["loss_spatial"]
        if "loss_point" in parts:
            total = total + where * (parts["loss_point"] + self.cell_weight * parts["loss_cell"])
        return total + end * self.done_weight * parts["loss_done"]

    def _pointing(self, out: Pointing, left: Tensor, present: Tensor) -> dict[str, Tensor]:
        cells = loss.around(out.logits, left, present, out.size)
        if self.policy.order == "free":
            point, _ = loss.point_any(out, cells)
        else:
            each, known = loss.point_each(out, cells)
            # In random order every object that is left comes next with the same chance: the mean over
            # them is the expectation over orders.
            point = each[:, 0] if self.policy.sequential else loss.mean_known(each, known)
        offset = loss.offsets(out, cells, left, self.kind, self.threshold)
        return {"loss_point": point, "loss_spatial": offset}

    def _objectness(self, logits: Tensor, grid: Grid, truth: list[Tensor], together: Accumulation) -> Tensor:
        each, shown = self._shown(logits, grid, truth)
        return together.divisor("cells", shown.sum(), logits.device).mean(each.sum())

    def _shown(self, logits: Tensor, grid: Grid, truth: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Cross-entropy of objectness and cells that show an object, of each image [B]."""
        objects, present = _padded(truth, logits.device)
        cells = loss.around(logits.masked_fill(~grid.valid, -torch.inf), objects, present, grid.size)
        return loss.objectness(logits, grid.valid, cells)

    def _look(self, out: Pointing | Coordinates, left: Tensor, present: Tensor, scale: Tensor) -> Look:
        point = out.point
        away = ((left - point[:, None].detach()) * scale).norm(dim=-1)
        chosen = torch.zeros(len(left), dtype=torch.int64, device=left.device)
        any_will_do = self.policy.order == "free" or (
            self.policy.order == "random" and isinstance(out, Pointing)
        )
        if any_will_do:
            chosen = away.masked_fill(~present, torch.inf).argmin(1)
        rows = torch.arange(len(left), device=left.device)
        unfinished = present.any(1)
        target = torch.where(unfinished[:, None], left[rows, chosen], torch.nan)
        error = torch.where(unfinished, away[rows, chosen], torch.nan)
        return Look(point, out.done_logit.detach().sigmoid(), target, error)

    def one_shot(
        self, out: Proposals, truth: list[Tensor], scale: Tensor, together: Accumulation = ALONE
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """P2PNet's loss: weighted cross-entropy and square px distance of the matched proposals."""
        device = out.logits.device
        cross_entropy, weight, distance = loss.one_shot(out, truth, scale)
        objects = together.divisor("objects", sum(len(points) for points in truth), device)
        classified = together.divisor("weight", weight, device).mean(cross_entropy)
        parts = {"loss_cls": classified, "loss_spatial": objects.mean(distance)}
        return parts["loss_cls"] + self.spatial_weight * parts["loss_spatial"], parts


def _padded(rows: list[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """Points [N, 2] of several states or images as one tensor [S, R, 2], and which are there, bool [S, R].

    R is at least 1.
    """
    most = max(1, *(len(points) for points in rows))
    padded = torch.zeros(len(rows), most, 2)
    present = torch.zeros(len(rows), most, dtype=torch.bool)
    for row, points in enumerate(rows):
        padded[row, : len(points)] = points
        present[row, : len(points)] = True
    return padded.to(device), present.to(device)
