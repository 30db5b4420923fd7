"""Heads: what comes next, from the hidden state of every cell."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from maskwell.models.points.memory import cell_centres, nearest_distance
from maskwell.ops.points import from_signed

PROPOSALS = 4
"""Proposals of the one-shot head per cell, two by two (P2PNet at stride 8: Song et al., 2021)."""
RARE = -4.6
"""Logit of one in a hundred: few proposals are objects, and training should not begin by learning that."""
SAME = 0.9
"""A place within about this many cells of a mark is probably marked."""
MARKED = 10.0
"""By how much the logit of a marked place is lower, before training."""


@dataclass(frozen=True)
class Pointing:
    """One softmax over cells and "no more".

    ``logits`` float32 [S, P], -inf where a cell shows no image; ``none`` [S]; ``places`` [S, P, 2] the
    point that each cell would mark, in [0, 1] of the input; ``size`` (height, width) of the grid.
    """

    logits: Tensor
    none: Tensor
    places: Tensor
    size: tuple[int, int]

    @property
    def log_any(self) -> Tensor:
        """Log of the cells' total weight before normalisation, [S]."""
        return self.logits.logsumexp(1)

    @property
    def done_logit(self) -> Tensor:
        """Log-odds of "no more", [S]."""
        return self.none - self.log_any

    @property
    def point(self) -> Tensor:
        """What the best cell marks, in [0, 1], [S, 2]."""
        best = self.logits.argmax(1)
        return self.places[torch.arange(len(best), device=best.device), best]


@dataclass(frozen=True)
class Coordinates:
    """One point and a verdict: ``signed`` float32 [S, 2] in about [-1, 1]; ``done_logit`` [S]."""

    signed: Tensor
    done_logit: Tensor

    @property
    def point(self) -> Tensor:
        """The point inside the image, in [0, 1], [S, 2]."""
        return from_signed(self.signed).clamp(0, 1)


@dataclass(frozen=True)
class Proposals:
    """Everything at once: ``logits`` float32 [B, Q] of being an object; ``places`` [B, Q, 2] in [0, 1]."""

    logits: Tensor
    places: Tensor


class PointerHead(nn.Module):
    """A logit and an offset for each cell; one more logit for "no more" (as MolmoPoint, 2026).

    A cell's logit is that of showing an object, which depends on no mark, and what the marks change in it:
    one whose place is marked already is less likely from the start; the decoder refines that.
    Only what cells say competes with "no more": there is no way to learn an image's count by heart.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.object_head = nn.Linear(hidden, 1)
        self.point_head = nn.Linear(hidden, 1)
        self.offset_head = nn.Linear(hidden, 2)
        # As the cells before training: each of them, and "no more" for each of them, weighs the same.
        self.done_head = nn.Parameter(torch.tensor(RARE))
        self.marked = nn.Parameter(torch.tensor(MARKED))
        nn.init.constant_(self.object_head.bias, RARE)
        nn.init.zeros_(self.offset_head.weight)
        nn.init.zeros_(self.offset_head.bias)

    def objectness(self, keys: Tensor) -> Tensor:
        """Logit of each cell that it shows an object, marked or not: [B, P, H] -> float32 [B, P]."""
        return self.object_head(keys)[..., 0].float()

    def forward(
        self,
        hidden: Tensor,
        valid: Tensor,
        size: tuple[int, int],
        objectness: Tensor,
        marks: Tensor,
        counts: Tensor,
    ) -> Pointing:
        """What each state would mark next.

        Args:
            hidden: [S, P, H] of cells in a grid of ``size`` (height, width).
            valid: bool [S, P], the cell shows image.
            objectness: [S, P] logits of :meth:`objectness`.
            marks: [S, M, 2] in [0, 1]; ``counts``: int64 [S], how many rows of it count.
        """
        centres = cell_centres(size, hidden.device)
        scale = centres.new_tensor([size[1], size[0]])
        cells = centres + self.offset_head(hidden).float()
        away = nearest_distance(cells.detach(), marks.float() * scale, counts)
        # Flat near the mark: offsets that miss it by half a cell lead to it no less.
        marked = self.marked.float() * torch.exp(-((away / SAME) ** 4))
        logits = objectness.float() + self.point_head(hidden)[..., 0].float() - marked
        logits = logits.masked_fill(~valid, -torch.inf)
        places = cells / scale
        # Cells of nothing add up; the more there are, the more "no more" has to weigh.
        none = self.done_head.float() + valid.sum(1).float().log()
        return Pointing(logits, none, places, size)


class XYHead(nn.Module):
    """Attention over cells, then one small network each for x, y and done, as in the field notes."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.attention = nn.Linear(hidden, 1)
        self.x_head, self.y_head, self.done_head = (_mlp(hidden) for _ in range(3))

    def forward(self, hidden: Tensor, valid: Tensor, size: tuple[int, int]) -> Coordinates:
        """``hidden`` and ``valid`` as in :meth:`PointerHead.forward`; coordinates are bounded by nothing."""
        weights = self.attention(hidden)[..., 0].float().masked_fill(~valid, -torch.inf).softmax(1)
        pooled = torch.einsum("sp,sph->sh", weights.to(hidden.dtype), hidden)
        signed = torch.cat([self.x_head(pooled), self.y_head(pooled)], dim=1)
        return Coordinates(signed.float(), self.done_head(pooled)[:, 0].float())


class OneShotHead(nn.Module):
    """Proposals two by two in each cell, all judged at once (P2PNet; the control)."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.class_head = nn.Linear(hidden, PROPOSALS)
        self.offset_head = nn.Linear(hidden, PROPOSALS * 2)
        assert self.class_head.bias is not None
        nn.init.constant_(self.class_head.bias, RARE)
        nn.init.zeros_(self.offset_head.weight)
        nn.init.zeros_(self.offset_head.bias)

    def forward(self, hidden: Tensor, valid: Tensor, size: tuple[int, int]) -> Proposals:
        """``hidden`` and ``valid`` as in :meth:`PointerHead.forward`, of states without marks."""
        logits = self.class_head(hidden).float().masked_fill(~valid[..., None], -torch.inf)
        anchors = hidden.new_tensor([[-0.25, -0.25], [0.25, -0.25], [-0.25, 0.25], [0.25, 0.25]]).float()
        offsets = self.offset_head(hidden).float().unflatten(2, (PROPOSALS, 2)) + anchors
        centres = cell_centres(size, hidden.device)
        places = (centres[:, None] + offsets) / centres.new_tensor([size[1], size[0]])
        return Proposals(logits.flatten(1), places.flatten(1, 2))


def _mlp(hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(hidden, hidden // 2), nn.ReLU(), nn.Linear(hidden // 2, 1))
