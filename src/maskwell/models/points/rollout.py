"""Rollout: mark what the model points at, look again, until it says that no more are left."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from maskwell.models.points.heads import Coordinates, Pointing, Proposals
from maskwell.models.points.net import STRIDE, Grid, PointNet
from maskwell.ops.points import suppress_duplicates


@dataclass(frozen=True)
class Rollout:
    """Marks of one image, in their order.

    ``points`` float32 [K, 2] in [0, 1]; ``scores`` [K]; ``verdicts`` [K + 1] probability of "no more"
    before each mark and after the last, None where there is no such verdict; ``stopped``: whether the
    model said so, False where the cap or a repeated mark ended it.
    """

    points: Tensor
    scores: Tensor
    verdicts: Tensor | None
    stopped: bool | None

    @property
    def done(self) -> float | None:
        """Probability of "no more" at the last step."""
        return None if self.verdicts is None else float(self.verdicts[-1])

    def until(self, stop: float) -> Rollout:
        """What a rollout comes to that stops at ``stop``, of one that stopped at this or later."""
        ends = (1 - self.scores > stop).nonzero().flatten()
        if not len(ends):
            return self
        length = int(ends[0])
        if self.verdicts is None:
            return Rollout(self.points[:length], self.scores[:length], None, self.stopped)
        return Rollout(self.points[:length], self.scores[:length], self.verdicts[: length + 1], True)


@dataclass(frozen=True)
class _Pick:
    """The next mark of each image that is still marked: [A, 2], its score [A], "no more" [A].

    ``repeats`` bool [A]: there is nothing else to mark than what is marked already.
    """

    point: Tensor
    score: Tensor
    done: Tensor
    repeats: Tensor


@torch.no_grad()
def roll_out(
    net: PointNet, grid: Grid, scale: Tensor, *, most: int | Tensor, stop: float, min_distance: float
) -> list[Rollout]:
    """Mark the images of a grid.

    Args:
        net: with a sequential head.
        grid: of the images, encoded once.
        scale: (width, height) of the network input in px, float [2].
        most: marks of an image, at most; one number, or int64 [B].
        stop: probability of "no more", against the best object alone, above which an image is done; above
            1: never. What all other cells say together does not keep the marking going: many small doubts
            are no object.
        min_distance: px between two marks; nearer ones count as the same and are not made.
    """
    batch, device = len(grid.keys), grid.keys.device
    limit = torch.as_tensor(most, device=device).expand(batch)
    active = torch.arange(batch, device=device)
    marks = torch.zeros(batch, 0, 2, device=device)
    scores = torch.zeros(batch, 0, device=device)
    length = torch.zeros(batch, dtype=torch.int64, device=device)
    verdicts = torch.zeros(batch, 0, device=device)
    stopped = torch.zeros(batch, dtype=torch.bool, device=device)
    for step in range(int(limit.max()) + 1):
        made = marks[active]
        out = net.decode(grid, active, made, torch.full_like(active, step))
        assert not isinstance(out, Proposals)
        pick = _pick(out, made * scale, scale, min_distance)
        says = 1 - pick.score > stop
        stopped[active] = says
        verdicts = torch.cat([verdicts, verdicts.new_zeros(batch, 1)], dim=1)
        verdicts[active, step] = pick.done
        goes_on = ~says & ~pick.repeats & (step < limit[active])
        active = active[goes_on]
        if not len(active):
            break
        point, score = marks.new_zeros(batch, 1, 2), scores.new_zeros(batch, 1)
        point[active, 0], score[active, 0] = pick.point[goes_on], pick.score[goes_on]
        marks, scores = torch.cat([marks, point], dim=1), torch.cat([scores, score], dim=1)
        length[active] += 1
    return [
        Rollout(marks[i, :n].cpu(), scores[i, :n].cpu(), verdicts[i, : n + 1].cpu(), bool(stopped[i]))
        for i, n in enumerate(length.tolist())
    ]


def _pick(out: Pointing | Coordinates, made: Tensor, scale: Tensor, min_distance: float) -> _Pick:
    """``made`` [A, t, 2]: marks so far, px."""
    if isinstance(out, Coordinates):
        point = out.point
        done = out.done_logit.sigmoid()
        repeats = _distance(point[:, None] * scale, made)[:, 0] < min_distance
        return _Pick(point, 1 - done, done, repeats)
    places = out.places * scale
    free = _distance(places, made) >= min_distance
    logits = out.logits.masked_fill(~free, -torch.inf)
    best = logits.argmax(1)
    rows = torch.arange(len(best), device=best.device)
    same = (places - places[rows, best][:, None]).norm(dim=-1) <= STRIDE
    # Alone against "no more": how sure this object is, however many others are left.
    score = (logits.masked_fill(~same, -torch.inf).logsumexp(1) - out.none).sigmoid()
    done = (out.none - logits.logsumexp(1)).sigmoid()
    inside = out.places[rows, best].clamp(0, 1)
    return _Pick(inside, score, done, ~logits.isfinite().any(1))


def _distance(points: Tensor, made: Tensor) -> Tensor:
    """Distance of [A, P, 2] to the nearest of [A, t, 2]: [A, P], inf where there is none."""
    if not made.shape[1]:
        return points.new_full(points.shape[:2], torch.inf)
    return torch.cdist(points, made).amin(2)


def proposals(net: PointNet, grid: Grid) -> Proposals:
    """Of a one-shot head, for the images of a grid."""
    images, device = len(grid.keys), grid.keys.device
    image = torch.arange(images, device=device)
    out = net.decode(grid, image, torch.zeros(images, 0, 2, device=device), torch.zeros_like(image))
    assert isinstance(out, Proposals)
    return out


def keep(out: Proposals, scale: Tensor, *, stop: float, min_distance: float) -> list[Rollout]:
    """Proposals that are no object with at most the probability ``stop``, best first.

    Of two nearer than ``min_distance`` px the better one stays.
    """
    found = []
    for logits, places in zip(out.logits.detach(), out.places.detach(), strict=True):
        scores = logits.sigmoid()
        chosen = (1 - scores <= stop).nonzero().flatten()
        chosen = chosen[scores[chosen].argsort(descending=True, stable=True)].cpu()
        kept = suppress_duplicates((places[chosen] * scale).cpu(), min_distance)
        chosen = chosen[kept]
        points = places[chosen].clamp(0, 1).cpu()
        found.append(Rollout(points, scores[chosen].cpu(), None, None))
    return found
