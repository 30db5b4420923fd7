"""Matching against brute force, transformers' matcher and costs worked out by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from transformers.loss.loss_deformable_detr import DeformableDetrHungarianMatcher

from maskwell.ops import boxes as box_ops
from maskwell.ops.matcher import MatchCosts, assign, focal_cost, match_cost


def random_boxes(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(*shape, 2, generator=generator)
    size = 0.05 + 0.4 * torch.rand(*shape, 2, generator=generator)
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def total(cost: Tensor, pairs: tuple[Tensor, Tensor]) -> float:
    return float(cost[pairs].sum())


def brute_force(cost: Tensor) -> float:
    """Smallest total cost over every one-to-one assignment of a small matrix."""
    wide = cost if cost.shape[0] >= cost.shape[1] else cost.T
    columns = range(wide.shape[1])
    return min(
        sum(float(wide[row, column]) for column, row in zip(columns, rows, strict=True))
        for rows in itertools.permutations(range(wide.shape[0]), wide.shape[1])
    )


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (6, 1)])
def test_assignment_is_optimal(shape: tuple[int, int]) -> None:
    cost = torch.randn(3, *shape, generator=torch.Generator().manual_seed(sum(shape)))
    for matrix, pairs in zip(cost, assign(cost, [shape[1]] * 3), strict=True):
        queries, targets = pairs
        assert len(queries) == len(targets) == min(shape)
        assert len(set(queries.tolist())) == len(set(targets.tolist())) == min(shape)
        assert total(matrix, pairs) == pytest.approx(brute_force(matrix), abs=1e-5)


def test_padding_is_never_matched() -> None:
    cost = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(0))
    for matrix, count in zip(cost, (0, 1, 3, 5), strict=True):
        matrix[:, count:] = -100.0  # padding that would win if it were looked at
    for (queries, targets), count in zip(assign(cost, [0, 1, 3, 5]), (0, 1, 3, 5), strict=True):
        assert sorted(targets.tolist()) == list(range(count))
        assert queries.dtype == targets.dtype == torch.int64


def test_cost_by_hand() -> None:
    logits, box = torch.tensor([0.4]), torch.tensor([[0.0, 0.0, 0.4, 0.4]])
    target = torch.tensor([[0.2, 0.0, 0.6, 0.4]])
    p = 1 / (1 + math.exp(-0.4))
    classification = -0.25 * (1 - p) ** 2 * math.log(p) + 0.75 * p**2 * math.log(1 - p)
    expected = 2 * classification + 5 * 0.2 - 2 * (1 / 3)
    assert match_cost(logits, box, target, MatchCosts()).item() == pytest.approx(expected, rel=1e-5)


def test_matching_agrees_with_transformers() -> None:
    logits = 2 * torch.randn(3, 20, generator=torch.Generator().manual_seed(1))
    predicted, counts = random_boxes(3, 20, seed=2), [4, 7, 2]
    targets = [random_boxes(count, seed=3 + count) for count in counts]
    padded = torch.zeros(3, 7, 4)
    for row, target in enumerate(targets):
        padded[row, : len(target)] = target
    ours = assign(match_cost(logits, predicted, padded, MatchCosts()), counts)
    theirs = DeformableDetrHungarianMatcher(class_cost=2.0, bbox_cost=5.0, giou_cost=2.0)(
        {"logits": logits.unsqueeze(-1), "pred_boxes": box_ops.xyxy_to_cxcywh(predicted)},
        [
            {"boxes": box_ops.xyxy_to_cxcywh(t), "class_labels": torch.zeros(len(t), dtype=torch.int64)}
            for t in targets
        ],
    )
    for mine, reference in zip(ours, theirs, strict=True):
        assert [m.tolist() for m in mine] == [r.tolist() for r in reference]


def test_batched_equals_single() -> None:
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(4))
    predicted, targets = random_boxes(4, 9, seed=5), random_boxes(4, 3, seed=6)
    together = match_cost(logits, predicted, targets, MatchCosts())
    for row in range(4):
        torch.testing.assert_close(
            together[row], match_cost(logits[row], predicted[row], targets[row], MatchCosts())
        )


def test_order_of_queries_and_objects_does_not_matter() -> None:
    logits = torch.randn(9, generator=torch.Generator().manual_seed(7))
    predicted, targets = random_boxes(9, seed=8), random_boxes(4, seed=9)
    ((queries, objects),) = assign(match_cost(logits, predicted, targets, MatchCosts())[None], [4])
    new_query, new_object = torch.tensor([3, 0, 8, 5, 1, 7, 2, 6, 4]), torch.tensor([2, 0, 3, 1])
    shuffled = match_cost(logits[new_query], predicted[new_query], targets[new_object], MatchCosts())
    ((rows, columns),) = assign(shuffled[None], [4])
    found = set(zip(new_query[rows].tolist(), new_object[columns].tolist(), strict=True))
    assert found == set(zip(queries.tolist(), objects.tolist(), strict=True))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_query_that_is_not_finite_is_matched_last(bad: float) -> None:
    logits, predicted, targets = torch.zeros(4), random_boxes(4, seed=10), random_boxes(3, seed=11)
    logits[1] = bad
    predicted[1] = bad
    cost = match_cost(logits, predicted, targets, MatchCosts())
    assert cost.isfinite().all()
    ((queries, objects),) = assign(cost[None], [3])
    assert queries.tolist() == [0, 2, 3]
    assert sorted(objects.tolist()) == [0, 1, 2]


def test_a_network_that_is_nowhere_finite_still_gets_a_matching() -> None:
    cost = match_cost(
        torch.full((5,), math.nan), torch.full((5, 4), math.nan), random_boxes(2, seed=12), MatchCosts()
    )
    ((queries, _),) = assign(cost[None], [2])
    assert len(queries) == 2


def test_cost_is_float32_without_gradient_in_low_precision() -> None:
    logits = torch.randn(6, generator=torch.Generator().manual_seed(13)).bfloat16().requires_grad_()
    predicted, targets = random_boxes(6, seed=14).bfloat16(), random_boxes(2, seed=15)
    with torch.autocast("cpu", torch.bfloat16):
        cost = match_cost(logits, predicted, targets, MatchCosts())
    assert cost.dtype == torch.float32
    assert not cost.requires_grad
    torch.testing.assert_close(cost, match_cost(logits.float(), predicted.float(), targets, MatchCosts()))


def test_focal_cost_is_finite_and_falls_with_the_score() -> None:
    cost = focal_cost(torch.linspace(-100, 100, 201))
    assert cost.isfinite().all()
    assert (cost.diff() <= 0).all()
    assert cost[0] > 0 > cost[-1]


def test_repeated_targets_get_different_queries_at_the_least_cost() -> None:
    cost = torch.randn(2, 6, 2, generator=torch.Generator().manual_seed(1))
    for matrix, (query, target) in zip(cost, assign(cost, [2, 2], [2, 1]), strict=True):
        repeat = len(query) // 2
        assert len(set(query.tolist())) == len(query)
        assert sorted(target.tolist()) == sorted([0, 1] * repeat)
        assert total(matrix, (query, target)) == pytest.approx(brute_force(matrix.repeat(1, repeat)))


def test_more_repeats_than_queries_leave_no_query_out() -> None:
    query, target = assign(torch.randn(1, 3, 2), [2], [5])[0]
    assert sorted(query.tolist()) == [0, 1, 2]
    assert set(target.tolist()) <= {0, 1}
