"""Points that are marked one after another: orders, states of training, noise, matching.

A *state* of an image with N objects is the number k of objects that are marked already, 0 to N; "done"
is true in the state k = N alone. Points are float [N, 2], (x, y), in any isotropic unit unless said.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import binomtest
from torch import Tensor

from maskwell.ops import suppression

Sampling = Literal["uniform", "balanced", "mixed"]
"""How a state is drawn.

``uniform``: every k alike; ``balanced``: k = N half of the time, else every k < N alike; ``mixed``: half
of the time any k, a quarter k = N, a quarter k = N - 1, so that both sides of the end and every earlier
state are seen.
"""
Mode = Literal["regression", "mixed", "done"]
"""Which states occur: those with something to mark, all of them, or the last two evenly."""
SAMPLINGS: tuple[Sampling, ...] = ("uniform", "balanced", "mixed")
MODES: tuple[Mode, ...] = ("regression", "mixed", "done")


def to_signed(points: Tensor) -> Tensor:
    """Coordinates in [0, 1] -> [-1, 1]."""
    return points * 2 - 1


def from_signed(points: Tensor) -> Tensor:
    """Coordinates in [-1, 1] -> [0, 1]."""
    return (points + 1) / 2


def reading_order(points: Tensor, row_height: float) -> Tensor:
    """Row by row from the top, each from left to right: int64 [N], indices in that order.

    ``row_height``: height of a row, in the unit of the points.
    """
    rows = torch.floor(points[:, 1] / row_height)
    by_column = points[:, 0].argsort(stable=True)
    return by_column[rows[by_column].argsort(stable=True)]


def nearest_order(points: Tensor, start: Tensor) -> Tensor:
    """The point nearest to ``start`` [2], then always the nearest to the last that is left: int64 [N]."""
    distances = _distances(points, torch.cat([points, start[None]]))
    left = torch.ones(len(points), dtype=torch.bool, device=points.device)
    order: list[int] = []
    last = len(points)  # the column of the start
    for _ in range(len(points)):
        last = int(distances[:, last].masked_fill(~left, torch.inf).argmin())
        left[last] = False
        order.append(last)
    return torch.tensor(order, dtype=torch.int64, device=points.device)


def random_order(count: int, generator: torch.Generator | None = None) -> Tensor:
    """A random permutation, int64 [count]."""
    return torch.randperm(count, generator=generator)


def k_distribution(count: int, sampling: Sampling, mode: Mode = "mixed") -> Tensor:
    """Probabilities of the states 0 to ``count``, float64 [count + 1].

    An image without objects has one state, in which it is done, whatever the mode.
    """
    if count == 0:
        return torch.ones(1, dtype=torch.float64)
    end = torch.zeros(count + 1, dtype=torch.float64)
    end[count] = 1
    before = end.roll(-1)
    if mode == "done":
        return (end + before) / 2
    any_k = torch.full_like(end, 1 / (count + 1))
    unfinished = (1 - end) / count
    drawn = {
        "uniform": any_k,
        "balanced": (end + unfinished) / 2,
        "mixed": any_k / 2 + end / 4 + before / 4,
    }[sampling]
    if mode == "regression":
        drawn = drawn * (1 - end)
    return drawn / drawn.sum()


def sample_k(
    count: int,
    sampling: Sampling,
    mode: Mode = "mixed",
    size: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``size`` states of an image with ``count`` objects, drawn by :func:`k_distribution`: int64 [size]."""
    probabilities = k_distribution(count, sampling, mode)
    return torch.multinomial(probabilities, size, replacement=True, generator=generator)


def expected_done_share(counts: Iterable[int], sampling: Sampling, mode: Mode = "mixed") -> float:
    """Exact share of states in which an epoch over images with ``counts`` objects is done.

    For uniform sampling in mixed mode it is the mean of 1 / (N + 1).

    Raises:
        ValueError: no images.
    """
    shares = [float(k_distribution(count, sampling, mode)[-1]) for count in counts]
    if not shares:
        raise ValueError("The share of done states needs at least one image.")
    return sum(shares) / len(shares)


@dataclass(frozen=True)
class Share:
    """A share that was counted, with its 95 % Wilson interval (Wilson, 1927)."""

    hits: int
    trials: int

    @property
    def value(self) -> float:
        return self.hits / self.trials

    @property
    def interval(self) -> tuple[float, float]:
        """(low, high)."""
        found = binomtest(self.hits, self.trials).proportion_ci(0.95, method="wilson")
        return float(found.low), float(found.high)


def sampled_done_share(
    counts: Iterable[int],
    sampling: Sampling,
    mode: Mode = "mixed",
    rounds: int = 1,
    generator: torch.Generator | None = None,
) -> Share:
    """Share of done states where each image is drawn ``rounds`` times.

    Raises:
        ValueError: no images.
    """
    done = [int((sample_k(count, sampling, mode, rounds, generator) == count).sum()) for count in counts]
    if not done:
        raise ValueError("The share of done states needs at least one image.")
    return Share(sum(done), len(done) * rounds)


def balancing_weight(share: float) -> float:
    """``pos_weight`` with which done and not done weigh the same in a binary loss: (1 - p) / p."""
    return (1 - share) / share if share > 0 else float("inf")


def corrupt_marks(
    marks: Tensor,
    jitter: float = 0.0,
    drop: float = 0.0,
    duplicate: float = 0.0,
    false_marks: float = 0.0,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Marks as a model's own rollout would set them: misplaced, missing, twice, on nothing.

    Args:
        marks: float [K, 2] in [0, 1], in the order in which they were set.
        jitter: standard deviation of the displacement of each mark, in the unit of the marks.
        drop: probability that a mark is missing.
        duplicate: probability that an object is marked a second time, displaced anew.
        false_marks: expected number of marks anywhere (Poisson).
        generator: of torch; None: the global one.

    Returns:
        The marks [M, 2], clamped to [0, 1], those of ``marks`` in their order and the additional ones
        at random places among them, and the row of ``marks`` that each stands for, int64 [M], -1 for
        false ones.
    """
    count, device = len(marks), marks.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator).to(device)

    kept = (uniform(count) >= drop).nonzero().flatten()
    again = (uniform(count) < duplicate).nonzero().flatten()
    rate = torch.tensor(float(false_marks))
    invented = int(torch.poisson(rate, generator=generator))
    source = torch.cat([kept, again, kept.new_full((invented,), -1)])
    real = source >= 0
    placed = torch.where(real[:, None], marks[source.clamp(min=0)] if count else 0.0, uniform(len(source), 2))
    noise = torch.randn(len(source), 2, generator=generator).to(device) * jitter
    placed = (placed + noise * real[:, None]).clamp(0, 1).to(marks.dtype)
    extra = uniform(len(again) + invented) * (count + 1) - 0.5
    order = torch.cat([kept.float(), extra]).argsort(stable=True)
    return placed[order], source[order]


def match_points(pred: Tensor, truth: Tensor, radius: float | Tensor) -> tuple[Tensor, Tensor]:
    """As many pairs of a prediction and an object within ``radius`` as there can be, the nearest such.

    Args:
        pred: float [K, 2]; ``truth``: float [N, 2], in the same unit.
        radius: largest distance of a pair (inclusive), one for all or one per object [N].

    Returns:
        Indices into ``pred`` and into ``truth``, int64 [M] each, ascending in the first; predictions
        that are not finite are never paired.
    """
    distance = _distances(pred.detach().cpu(), truth.detach().cpu())
    limit = torch.as_tensor(radius, dtype=torch.float64).cpu().expand(len(truth))
    within = distance <= limit
    # One pair more outweighs every distance that the other pairs could save.
    unmatched = 1 + float(limit.max() if len(truth) else 0) * (min(distance.shape) + 1)
    rows, columns = linear_sum_assignment(torch.where(within, distance, unmatched).numpy())
    rows, columns = torch.from_numpy(rows), torch.from_numpy(columns)
    found = within[rows, columns]
    return rows[found], columns[found]


def suppress_duplicates(points: Tensor, radius: float, scores: Tensor | None = None) -> Tensor:
    """Indices of the points that stay where of two nearer than ``radius`` only one may: int64, ascending.

    The one with the higher score stays; without ``scores`` the earlier one.
    """
    if scores is None:
        order = torch.arange(len(points), device=points.device)
    else:
        order = scores.argsort(descending=True, stable=True)
    ranked = points[order]
    kept = suppression.greedy(-_distances(ranked, ranked), -radius)
    return order[kept.to(order.device)].sort().values


def _distances(first: Tensor, second: Tensor) -> Tensor:
    """Euclidean, float64 [K, N]; exact, which the fast form of torch is not."""
    return torch.cdist(first.double(), second.double(), compute_mode="donot_use_mm_for_euclid_dist")
