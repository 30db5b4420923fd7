"""Heads: what a mark does to the cells that lead to it, padding, and where the places lie."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from maskwell.models.points.heads import MARKED, RARE, SAME, OneShotHead, PointerHead, Pointing, XYHead

SIZE = (3, 4)


def pointed(marks: Tensor, valid: Tensor | None = None) -> Pointing:
    torch.manual_seed(0)
    head = PointerHead(8)
    hidden, objectness = torch.randn(1, 12, 8), torch.randn(1, 12)
    counts = torch.tensor([marks.shape[1]])
    if valid is None:
        valid = torch.ones(1, 12, dtype=torch.bool)
    found: Pointing = head(hidden, valid, SIZE, objectness, marks, counts)
    return found


def test_marked_places_lose_their_logit_and_others_keep_it() -> None:
    plain = pointed(torch.zeros(1, 0, 2))
    # The second cell's place is its centre as long as offsets are zero; the mark is 0.25 cells right of it.
    marked = pointed(torch.tensor([[[1.75 / 4, 0.5 / 3]]]))
    lost = (plain.logits - marked.logits)[0]
    expected = MARKED * math.exp(-((0.25 / SAME) ** 4))
    assert float(lost[1].detach()) == pytest.approx(expected, rel=1e-4)
    assert float(lost[11].detach()) == pytest.approx(0.0, abs=1e-4)  # 2.7 cells away
    assert torch.equal(plain.places, marked.places)
    assert float(marked.done_logit.detach()) > float(plain.done_logit.detach())


def test_an_offset_that_misses_the_mark_by_half_a_cell_leads_to_it_no_less() -> None:
    plain = pointed(torch.zeros(1, 0, 2))
    near, far = (pointed(torch.tensor([[[at / 4, 0.5 / 3]]])) for at in (2.0, 2.8))
    assert float((plain.logits - near.logits)[0, 1].detach()) > 0.9 * MARKED
    assert float((plain.logits - far.logits)[0, 1].detach()) < 0.1 * MARKED  # 1.3 cells: another object


def test_what_a_cell_shows_moves_its_logit() -> None:
    torch.manual_seed(0)
    head, keys = PointerHead(8), torch.randn(1, 12, 8)
    valid, marks = torch.ones(1, 12, dtype=torch.bool), torch.zeros(1, 0, 2)
    blank, objectness = torch.zeros(1, 12), head.objectness(keys)
    without, with_it = (head(keys, valid, SIZE, o, marks, torch.tensor([0])) for o in (blank, objectness))
    assert torch.allclose(with_it.logits - without.logits, objectness)
    assert float(objectness.sigmoid().mean().detach()) < 0.05  # few cells show an object


def test_places_are_centres_before_training_and_the_best_cell_marks_its_own() -> None:
    found = pointed(torch.zeros(1, 0, 2))
    assert found.places[0, 5].tolist() == pytest.approx([1.5 / 4, 1.5 / 3])
    best = int(found.logits[0].argmax())
    assert torch.equal(found.point[0], found.places[0, best])


def test_cells_without_image_are_never_pointed_at_and_weigh_nothing() -> None:
    valid = torch.ones(1, 12, dtype=torch.bool)
    valid[0, :11] = False
    found = pointed(torch.zeros(1, 0, 2), valid)
    assert int(found.logits.argmax()) == 11
    assert float(found.none.detach()) == pytest.approx(RARE)  # and the log of one cell
    assert torch.allclose(found.log_any, found.logits[:, 11])


def test_coordinates_are_free_and_points_stay_inside() -> None:
    torch.manual_seed(0)
    head = XYHead(8)
    with torch.no_grad():
        head.x_head[2].bias.fill_(3.0)
        head.y_head[2].bias.fill_(-3.0)
    found = head(torch.zeros(2, 12, 8), torch.ones(2, 12, dtype=torch.bool), SIZE)
    assert found.signed.shape == (2, 2) and float(found.signed[0, 0].detach()) > 1
    assert found.point.tolist() == [[1.0, 0.0]] * 2


def test_proposals_lie_two_by_two_in_their_cell() -> None:
    found = OneShotHead(8)(torch.zeros(1, 12, 8), torch.ones(1, 12, dtype=torch.bool), SIZE)
    assert found.logits.shape == (1, 48) and found.places.shape == (1, 48, 2)
    inside = found.places[0].view(12, 4, 2)[5] * torch.tensor([4.0, 3.0])
    assert inside.tolist() == [
        pytest.approx(at) for at in ([1.25, 1.25], [1.75, 1.25], [1.25, 1.75], [1.75, 1.75])
    ]
    assert float(found.logits.sigmoid().max().detach()) < 0.02
