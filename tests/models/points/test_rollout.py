"""Rollouts of a scripted network: stop, cap, duplicates; and of a real one: batched equals single."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from maskwell.models.points import rollout
from maskwell.models.points.heads import RARE, Coordinates, Pointing, Proposals
from maskwell.models.points.memory import cell_centres
from maskwell.models.points.net import Grid
from maskwell.models.points.rollout import Rollout, roll_out
from points_small import make_batch, make_task, places

SIZE = (4, 4)
SCALE = torch.tensor([32.0, 32.0])


class Blind:
    """Points at the same objects whatever is marked: only suppression makes it go on."""

    def __init__(self, *rows: dict[int, float], none: float = 0.0) -> None:
        self.logits = torch.full((len(rows), 16), -20.0)
        for i, row in enumerate(rows):
            for cell, logit in row.items():
                self.logits[i, cell] = logit
        self.none = none
        self.decoded: list[list[int]] = []

    def decode(self, grid: Grid, image: Tensor, marks: Tensor, counts: Tensor) -> Pointing:
        assert counts.tolist() == [marks.shape[1]] * len(image)
        self.decoded.append(image.tolist())
        centres = (cell_centres(SIZE, "cpu") / 4).expand(len(image), -1, -1)
        return Pointing(self.logits[image], torch.full((len(image),), self.none), centres, SIZE)


def grid(images: int) -> Grid:
    return Grid(torch.zeros(images, 16, 1), torch.ones(images, 16, dtype=torch.bool), SIZE)


def rolled(net: Any, images: int, **settings: Any) -> list[Rollout]:
    given = {"most": 10, "stop": 0.5, "min_distance": 3.0, **settings}
    return roll_out(net, grid(images), SCALE, **given)


def test_the_best_first_none_twice_and_each_image_stops_for_itself() -> None:
    net = Blind({5: 4.0, 2: 6.0, 15: 3.0}, {0: 5.0}, {})
    first, second, third = rolled(net, 3)
    cells = cell_centres(SIZE, "cpu") / 4
    assert torch.allclose(first.points, cells[[2, 5, 15]])
    assert torch.allclose(second.points, cells[[0]]) and not len(third.points)
    assert first.scores.tolist() == pytest.approx([1 / (1 + math.exp(-x)) for x in (6, 4, 3)], abs=1e-4)
    assert all(found.stopped and found.done is not None and found.done > 0.99 for found in (first, second))
    assert net.decoded == [[0, 1, 2], [0, 1], [0], [0]]


def test_the_cap_ends_it_and_says_so() -> None:
    capped, single = rolled(Blind({2: 6.0, 5: 4.0, 15: 3.0}, {0: 5.0}), 2, most=2)
    assert len(capped.points) == 2 and not capped.stopped and capped.done is not None and capped.done < 0.5
    assert len(single.points) == 1 and single.stopped
    exact, _ = rolled(Blind({2: 6.0, 5: 4.0}, {}), 2, most=2)
    assert len(exact.points) == 2 and exact.stopped


def test_many_small_doubts_are_no_object() -> None:
    net = Blind({5: 4.0})
    net.logits[net.logits < 0] = -2.0  # together 2.0 against 1 of "no more", one with its neighbours 0.7
    found = rolled(net, 1)[0]
    assert len(found.points) == 1 and found.stopped
    assert found.done is not None and found.done < 0.5
    assert len(rolled(net, 1, stop=0.9)[0].points) > 1


def test_each_image_can_have_its_own_cap_and_no_stop() -> None:
    found = rolled(Blind({2: 6.0}, {0: 5.0}), 2, most=torch.tensor([3, 1]), stop=2.0)
    assert [len(made.points) for made in found] == [3, 1]


def test_nothing_but_duplicates_ends_it() -> None:
    net = Blind({2: 6.0, 5: 5.0})
    far = rolled(net, 1, min_distance=100.0, stop=2.0)[0]
    assert len(far.points) == 1 and far.done == 1.0
    assert not far.stopped  # it would go on if there were a place
    assert rolled(net, 1, min_distance=100.0)[0].stopped


def test_a_rollout_cut_at_an_earlier_stop_is_the_rollout_with_that_stop() -> None:
    def net() -> Blind:
        return Blind({5: 4.0, 2: 6.0, 15: 0.5, 9: 2.0}, {0: 5.0}, {}, {7: -1.0, 3: 4.0})

    late = rolled(net(), 4, stop=0.95)
    assert [len(made.points) for made in late] == [4, 1, 0, 2]
    for stop in (0.05, 0.3, 0.5, 0.9):
        for cut, made in zip((found.until(stop) for found in late), rolled(net(), 4, stop=stop), strict=True):
            assert torch.equal(cut.points, made.points) and torch.equal(cut.scores, made.scores)
            assert cut.done == pytest.approx(made.done) and cut.stopped == made.stopped
    capped = rolled(net(), 4, stop=0.95, most=2)[0]
    assert not capped.until(0.9).stopped and capped.until(0.01).stopped


def test_coordinates_that_repeat_a_mark_end_it() -> None:
    class Stuck:
        def decode(self, grid: Grid, image: Tensor, marks: Tensor, counts: Tensor) -> Coordinates:
            step = marks.shape[1]
            signed = torch.tensor([[0.0, 0.0] if step == 0 else [2.0, -2.0]]).expand(len(image), 2)
            return Coordinates(signed, torch.full((len(image),), -2.0))

    found = rolled(Stuck(), 1)[0]
    assert found.points.tolist() == [[0.5, 0.5], [1.0, 0.0]]  # inside the image
    assert found.scores.tolist() == pytest.approx([1 / (1 + math.exp(-2))] * 2)
    assert found.stopped is False  # it never said "no more"


def test_proposals_above_half_stay_and_of_close_ones_the_better() -> None:
    logits = torch.tensor([[1.0, 2.0, -1.0, 3.0, -torch.inf]])
    centres = torch.tensor([[[0.1, 0.1], [0.11, 0.1], [0.5, 0.5], [0.9, 1.2], [0.0, 0.0]]])
    found = rollout.keep(Proposals(logits, centres), SCALE, stop=0.5, min_distance=3.0)[0]
    assert torch.allclose(found.points, torch.tensor([[0.9, 1.0], [0.11, 0.1]]))
    assert found.stopped is None and found.done is None
    late = rollout.keep(Proposals(logits, centres), SCALE, stop=0.9, min_distance=3.0)[0]
    assert len(late.points) == 3 and torch.equal(late.until(0.5).points, found.points)


@pytest.mark.parametrize("order", ["random", "nearest"])
def test_batched_equals_single(order: str) -> None:
    task = make_task(order=order, max_points=6).eval()
    with torch.no_grad():  # eager to go on, so that images end at different steps
        task.net.head.done_head.fill_(RARE - 4)  # type: ignore[union-attr,operator]
    batch = make_batch(3, 0, 5)
    together = places(task, batch)
    assert any(len(points) for points in together)
    for row, points in enumerate(together):
        alone = type(batch)(
            batch.images[row : row + 1], batch.pixel_mask[row : row + 1], [batch.samples[row]]
        )
        assert torch.allclose(places(task, alone)[0], points, atol=1e-3)
