"""Loss terms against formulas written out, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from maskwell.models.points import loss
from maskwell.models.points.heads import Pointing, Proposals
from maskwell.models.points.memory import cell_centres

SIZE = (5, 6)


def pointing(states: int = 3, seed: int = 0) -> Pointing:
    generator = torch.Generator().manual_seed(seed)
    cells = SIZE[0] * SIZE[1]
    logits = torch.randn(states, cells, generator=generator, dtype=torch.float64)
    shift = torch.randn(states, cells, 2, generator=generator, dtype=torch.float64) * 0.3
    places = (cell_centres(SIZE, "cpu").double() + shift) / torch.tensor([SIZE[1], SIZE[0]])
    none = torch.randn(states, generator=generator, dtype=torch.float64)
    return Pointing(logits.requires_grad_(), none, places.requires_grad_(), SIZE)


def left_in(*rows: list[tuple[float, float]]) -> tuple[Tensor, Tensor]:
    """Objects in cells -> padded [S, R, 2] in [0, 1], and which rows are objects."""
    most = max(1, *(len(row) for row in rows))
    left = torch.zeros(len(rows), most, 2, dtype=torch.float64)
    present = torch.zeros(len(rows), most, dtype=torch.bool)
    for i, row in enumerate(rows):
        for j, (x, y) in enumerate(row):
            left[i, j] = torch.tensor([x / SIZE[1], y / SIZE[0]])
            present[i, j] = True
    return left, present


def right_cells(row: list[tuple[float, float]], which: int) -> set[int]:
    """Cells that are right for one of the objects, by the words of ``Around`` and ``REACH``."""
    found = set()
    for cy in range(SIZE[0]):
        for cx in range(SIZE[1]):
            away = [math.hypot(x - cx - 0.5, y - cy - 0.5) for x, y in row]
            x, y = row[which]
            near = max(abs(x - cx - 0.5), abs(y - cy - 0.5)) <= loss.REACH and away[which] <= min(away)
            if near or (int(x), int(y)) == (cx, cy):
                found.add(cy * SIZE[1] + cx)
    return found


ROWS: tuple[list[tuple[float, float]], ...] = (
    [(2.5, 2.5), (3.4, 2.6)],  # neighbours that share cells
    [(0.1, 0.05), (5.95, 4.9), (2.2, 3.9)],  # corners
    [(4.3, 1.2), (4.6, 1.3)],  # two in one cell
)


@pytest.mark.parametrize("threshold", [0.1, 0.2, 0.3, 0.4])
def test_the_funnel_is_the_notes_formula_with_its_jump(threshold: float) -> None:
    near, far = threshold * (1 - 1e-9), threshold
    distance = torch.tensor([threshold / 2, near, far, 1.5], dtype=torch.float64, requires_grad=True)
    values = loss.funnel(distance, threshold)
    expected = [threshold**2 / 4, threshold**2, 2 * threshold**2, 1.5 * threshold + threshold**2]
    assert torch.allclose(values, torch.tensor(expected, dtype=torch.float64), atol=1e-8)
    values.sum().backward()
    slopes = torch.tensor([threshold, 2 * threshold, threshold, threshold], dtype=torch.float64)
    assert distance.grad is not None and torch.allclose(distance.grad, slopes, atol=1e-8)


def test_a_smaller_threshold_weakens_the_funnels_far_gradient() -> None:
    """The notes' fix 4 says the opposite: at 30 px of 384 it falls from 0.3125 to 0.1."""
    slopes = []
    for threshold in (0.3, 0.1):
        distance = torch.tensor(30 / 192, dtype=torch.float64, requires_grad=True)
        loss.funnel(distance, threshold).backward()
        slopes.append(float(distance.grad))  # type: ignore[arg-type]
    assert slopes == pytest.approx([0.3125, 0.1])


def test_huber_is_continuous_with_its_slope() -> None:
    t = 0.2
    distance = torch.tensor([t * (1 - 1e-9), t, 1.0], dtype=torch.float64, requires_grad=True)
    values = loss.huber(distance, t)
    assert torch.allclose(values, torch.tensor([t**2, t**2, 2 * t - t**2], dtype=torch.float64))
    values.sum().backward()
    assert distance.grad is not None
    assert torch.allclose(distance.grad, torch.full((3,), 2 * t, dtype=torch.float64))


def test_distances_are_l1_and_mse_is_the_mean_over_both_coordinates() -> None:
    predicted, target = torch.tensor([[0.1, -0.3]]), torch.tensor([[0.4, 0.1]])
    assert float(loss.coordinate_loss(predicted, target, "mse", 0.1)) == pytest.approx((0.09 + 0.16) / 2)
    assert float(loss.coordinate_loss(predicted, target, "funnel", 0.5)) == pytest.approx(0.5 * 0.7 + 0.25)
    assert float(loss.coordinate_loss(predicted, target, "huber", 0.5)) == pytest.approx(0.7 - 0.25)


def test_pointing_at_each_object_against_sums_written_out() -> None:
    out = pointing()
    left, present = left_in(*ROWS)
    each, known = loss.point_each(out, loss.around(out.logits, left, present, SIZE))
    assert torch.equal(known, present)
    weights = out.logits.detach().exp()
    for s, row in enumerate(ROWS):
        for r in range(len(row)):
            cells = sorted(right_cells(row, r))
            expected = -math.log(float(weights[s, cells].sum() / weights[s].sum()))
            assert float(each[s, r].detach()) == pytest.approx(expected, abs=1e-9)


def test_pointing_at_any_object_counts_shared_cells_once() -> None:
    out = pointing()
    left, present = left_in(*ROWS)
    found, known = loss.point_any(out, loss.around(out.logits, left, present, SIZE))
    assert known.all()
    weights = out.logits.detach().exp()
    for s, row in enumerate(ROWS):
        cells = sorted(set().union(*(right_cells(row, r) for r in range(len(row)))))
        expected = -math.log(float(weights[s, cells].sum() / weights[s].sum()))
        assert float(found[s].detach()) == pytest.approx(expected, abs=1e-9)


def test_done_and_pointing_are_one_softmax() -> None:
    out = pointing(1)
    left, present = left_in([(2.5, 2.5)])
    point, _ = loss.point_any(out, loss.around(out.logits, left, present, SIZE))
    going_on = loss.done_loss(out.done_logit, torch.tensor([False]), 1.0)
    joint = torch.cat([out.logits, out.none[:, None]], dim=1).log_softmax(1)
    right = sorted(right_cells([(2.5, 2.5)], 0))
    assert torch.allclose(point + going_on, -joint[:, right].logsumexp(1))
    assert torch.allclose(loss.done_loss(out.done_logit, torch.tensor([True]), 2.5), -2.5 * joint[:, -1])


def test_offsets_are_about_the_nearest_object() -> None:
    out = pointing()
    left, present = left_in(*ROWS)
    cells = loss.around(out.logits, left, present, SIZE)
    found = loss.offsets(out, cells, left, "huber", 0.02)
    for s, row in enumerate(ROWS):
        terms = []
        for cy in range(SIZE[0]):
            for cx in range(SIZE[1]):
                away = [math.hypot(x - cx - 0.5, y - cy - 0.5) for x, y in row]
                r = min(range(len(row)), key=away.__getitem__)
                x, y = row[r]
                if max(abs(int(x) - cx), abs(int(y) - cy)) > 1:
                    continue  # outside the 3 x 3 cells around it
                place = out.places[s, cy * SIZE[1] + cx] * 2 - 1
                terms.append(loss.coordinate_loss(place, left[s, r] * 2 - 1, "huber", 0.02))
        assert float(found[s].detach()) == pytest.approx(float(torch.stack(terms).mean().detach()), abs=1e-9)


def test_cells_that_show_an_object_against_logarithms_written_out() -> None:
    logits = pointing(len(ROWS)).logits.detach()
    left, present = left_in(*ROWS)
    valid = torch.ones_like(logits, dtype=torch.bool)
    valid[1, 7] = False  # no image there: it neither counts nor is right
    cells = loss.around(logits.masked_fill(~valid, -torch.inf), left, present, SIZE)
    each, shown = loss.objectness(logits, valid, cells)
    for state, row in enumerate(ROWS):
        right = set().union(*(right_cells(row, which) for which in range(len(row))))
        right &= {cell for cell in range(30) if valid[state, cell]}
        expected = 0.0
        for cell in range(30):
            if valid[state, cell]:
                probability = 1 / (1 + math.exp(-float(logits[state, cell])))
                expected -= math.log(probability if cell in right else 1 - probability)
        assert float(each[state]) == pytest.approx(expected)
        assert int(shown[state]) == len(right)


def test_gradients_are_those_of_finite_differences() -> None:
    out = pointing(2)
    left, present = left_in(*ROWS[:2])

    def total(logits: Tensor, places: Tensor) -> Tensor:
        moved = Pointing(logits, out.none, places, SIZE)
        cells = loss.around(logits.detach(), left, present, SIZE)
        each, _ = loss.point_each(moved, cells)
        free, _ = loss.point_any(moved, cells)
        return each.sum() + free.sum() + loss.offsets(moved, cells, left, "mse", 0.1).sum()

    assert torch.autograd.gradcheck(total, (out.logits, out.places))


def test_cells_without_image_are_never_right_and_finished_states_cost_nothing() -> None:
    out = pointing(2)
    logits = out.logits.detach().clone()
    logits[:, 0] = -torch.inf
    out = Pointing(logits.requires_grad_(), out.none, out.places, SIZE)
    left, present = left_in([(0.5, 0.5), (3.5, 3.5)], [])
    cells = loss.around(out.logits, left, present, SIZE)
    each, known = loss.point_each(out, cells)
    free, defined = loss.point_any(out, cells)
    assert not (cells.right & (cells.index == 0)).any()
    assert defined.tolist() == [True, False] and float(free[1].detach()) == 0
    assert not known[1].any() and float(each[1].sum().detach()) == 0
    (each.sum() + free.sum() + loss.offsets(out, cells, left, "huber", 0.1).sum()).backward()
    assert out.logits.grad is not None and out.logits.grad.isfinite().all()


def test_one_shot_takes_the_cheapest_proposals() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5, -torch.inf]], requires_grad=True)
    places = torch.tensor([[[0.1, 0.1], [0.5, 0.5], [0.52, 0.5], [0.9, 0.9]]])
    scale = torch.tensor([100.0, 50.0])
    cross_entropy, weight, distance = loss.one_shot(
        Proposals(logits, places), [torch.tensor([[0.5, 0.52]])], scale
    )
    # The third costs 0.05 * sqrt(2^2 + 1^2) - sigmoid(0.5), the second 0.05 * 1 - sigmoid(-1): more.
    expected = math.log1p(math.exp(-0.5)) + 0.5 * (math.log1p(math.exp(2.0)) + math.log1p(math.exp(-1.0)))
    assert float(cross_entropy.detach()) == pytest.approx(expected, rel=1e-5)
    assert float(weight) == pytest.approx(2.0)
    assert float(distance) == pytest.approx(2.0**2 + 1.0**2, rel=1e-4)
    cross_entropy.backward()
    assert logits.grad is not None and logits.grad.isfinite().all()
