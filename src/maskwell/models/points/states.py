"""States of training: which objects of an image are marked, how the marks look, and what is left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from maskwell.errors import UserError
from maskwell.ops import points as ops
from maskwell.ops.points import MODES, SAMPLINGS, Mode, Sampling

Order = Literal["reading", "nearest", "random", "free"]
"""Which object comes next.

``reading``: row by row; ``nearest``: the one nearest to the last mark, from the top left corner on;
``random``: each that is left with equal chance; ``free``: any that is left is right.
"""
ORDERS: tuple[Order, ...] = get_args(Order)
SEQUENTIAL: tuple[Order, ...] = ("reading", "nearest")
"""Orders in which only one object comes next."""
REFERENCE = 384.0
"""Side of the input that the following is px of; on a smaller one it is as much less."""
ROW_HEIGHT = 50.0
"""Height of a row of the reading order (as in the notes' project)."""


@dataclass(frozen=True)
class MarkNoise:
    """What training marks have in common with a model's own: see :func:`.ops.points.corrupt_marks`.

    ``jitter`` standard deviation, px of the network input; ``drop``, ``duplicate`` probabilities of
    each mark; ``false_marks`` expected number per state.
    """

    jitter: float = 0.0
    drop: float = 0.0
    duplicate: float = 0.0
    false_marks: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("jitter", self.jitter), ("false_marks", self.false_marks)):
            if value < 0:
                raise UserError(f"model.noise.{name}={value}: give 0 or more.")
        for name, value in (("drop", self.drop), ("duplicate", self.duplicate)):
            if not 0 <= value < 1:
                raise UserError(f"model.noise.{name}={value}: give a share in [0, 1).")

    @property
    def any(self) -> bool:
        """Whether it changes marks at all."""
        return bool(self.jitter or self.drop or self.duplicate or self.false_marks)


@dataclass(frozen=True)
class Policy:
    """How states are drawn.

    Args:
        order: which object comes next.
        sampling: how the number of marked objects is drawn.
        mode: which states occur.
        states: states of each image that are decoded from one encoding.
        noise: of true marks.
        own_share: share of a training batch's states whose marks are the model's own, with what is left
            matched anew (Ross et al., 2011).
        row_height: of the reading order, px of the network input.
    """

    order: Order = "random"
    sampling: Sampling = "mixed"
    mode: Mode = "mixed"
    states: int = 8
    noise: MarkNoise = MarkNoise()
    own_share: float = 0.0
    row_height: float = ROW_HEIGHT

    def __post_init__(self) -> None:
        for name, value, known in (
            ("order", self.order, ORDERS),
            ("sampling", self.sampling, SAMPLINGS),
            ("mode", self.mode, MODES),
        ):
            if value not in known:
                raise UserError(f"model.{name}={value}: give one of {', '.join(known)}.")
        if self.states < 1:
            raise UserError(f"model.states={self.states}: give at least 1 state per image.")
        if not 0 <= self.own_share <= 1:
            raise UserError(f"model.own_share={self.own_share}: give a share in [0, 1].")

    @property
    def sequential(self) -> bool:
        """Whether only one object comes next."""
        return self.order in SEQUENTIAL


@dataclass(frozen=True)
class State:
    """An image with marks: ``marks`` [M, 2] in their order and ``left`` [R, 2], what has none, in [0, 1].

    ``image`` is its row in the batch, ``marked`` how many objects have a mark. ``left`` is in the order
    of the policy, so its first row comes next.
    """

    image: int
    marks: Tensor
    left: Tensor
    marked: int

    @property
    def finished(self) -> bool:
        """Whether every object is marked."""
        return not len(self.left)


@dataclass(frozen=True)
class OwnMarks:
    """Marks of a model's own: ``points`` [T, 2] in [0, 1] and the object that each hits, int64 [T], or -1."""

    points: Tensor
    objects: Tensor

    @classmethod
    def matched(
        cls, points: Tensor, truth: Tensor, scale: Tensor, radius: float, reach: Tensor | None = None
    ) -> OwnMarks:
        """Match marks with objects; ``scale``: (width, height) of the input in px.

        Each mark in turn hits the nearest object if that lies within its ``reach`` [N] px and no earlier
        mark hit it: a mark anywhere on an object is about that one, or it would be learnt to mark it
        again. Otherwise it hits the nearest that no earlier one hit within ``radius`` px. What the first
        marks hit does not depend on later ones, since states end anywhere among them.
        """
        objects = torch.full((len(points),), -1, dtype=torch.int64)
        if not len(truth):
            return cls(points, objects)
        distance = torch.cdist((points * scale).double(), (truth * scale).double())
        reach = distance.new_full((len(truth),), radius) if reach is None else reach.to(distance)
        free = torch.ones(len(truth), dtype=torch.bool)
        for row, away in enumerate(distance):
            nearest = int(away.argmin())
            if not free[nearest] or away[nearest] > reach[nearest].clamp(min=radius):
                away = away.masked_fill(~free, torch.inf)
                nearest = int(away.argmin())
                if away[nearest] > radius:
                    continue
            objects[row] = nearest
            free[nearest] = False
        return cls(points, objects)


def draw(
    policy: Policy,
    truth: Tensor,
    scale: Tensor,
    image: int,
    *,
    own: OwnMarks | None = None,
    own_share: float | None = None,
    generator: torch.Generator | None = None,
) -> list[State]:
    """States of one image, on the CPU.

    Args:
        policy: how.
        truth: float [N, 2] in [0, 1], the objects.
        scale: (width, height) of the network input in px, float [2].
        image: row in the batch.
        own: marks of the model's own, for the first ``own_share`` of the states.
        own_share: None: the policy's.
        generator: None: the global one.
    """
    count = len(truth)
    numbers = ops.sample_k(count, policy.sampling, policy.mode, policy.states, generator).tolist()
    borrowed = 0
    if own is not None:
        borrowed = round((policy.own_share if own_share is None else own_share) * policy.states)
    states = []
    for place, k in enumerate(numbers):
        if own is not None and place < borrowed:
            marks, hit = _own_marks(own, k, generator)
        else:
            marks, hit = _true_marks(policy, truth, scale, k, generator)
        missing = torch.ones(count, dtype=torch.bool)
        missing[hit] = False
        left = truth[missing]
        last = marks[-1] if len(marks) else truth.new_zeros(2)
        left = left[_order(policy, left * scale, last * scale, generator)]
        states.append(State(image, marks, left, count - len(left)))
    return states


def _true_marks(
    policy: Policy, truth: Tensor, scale: Tensor, k: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Marks of the first k objects in order, noise included, and the objects that have one."""
    order = _order(policy, truth * scale, truth.new_zeros(2), generator)[:k]
    if not policy.noise.any:
        return truth[order], order
    noise, side = policy.noise, float(scale.max())
    shrink = scale / side  # noise is the same in both directions
    marks, source = ops.corrupt_marks(
        truth[order] * shrink,
        noise.jitter / side,
        noise.drop,
        noise.duplicate,
        noise.false_marks,
        generator,
    )
    return (marks / shrink).clamp(0, 1), order[source[source >= 0].unique()]


def _own_marks(own: OwnMarks, k: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """The model's first marks, as many as hit k objects, or as many as it ever hits and none beyond them.

    Half of the time as few as possible: a rollout comes there before it makes further, wrong marks, which
    would otherwise make the state in which it has to stop the rarer one.
    """
    reached = torch.cat([torch.zeros(1, dtype=torch.int64), (own.objects >= 0).cumsum(0)])
    fitting = (reached == k).nonzero().flatten()
    length = int(reached.argmax())
    if len(fitting):
        place = torch.randint(2 * len(fitting), (1,), generator=generator)
        length = int(fitting[place % len(fitting) * (place >= len(fitting))])
    hit = own.objects[:length]
    return own.points[:length], hit[hit >= 0]


def _order(policy: Policy, points: Tensor, start: Tensor, generator: torch.Generator | None) -> Tensor:
    """Indices int64 [N] of points in px."""
    if policy.order == "reading":
        return ops.reading_order(points, policy.row_height)
    if policy.order == "nearest":
        return ops.nearest_order(points, start)
    return ops.random_order(len(points), generator)
