"""Loss terms against transformers' functions, figures by hand and numerical gradients."""

from __future__ import annotations

import math

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from transformers.loss.loss_for_object_detection import dice_loss, sigmoid_focal_loss

from maskwell.ops.losses import dice, global_count, iou_aware_bce, sigmoid_focal


def logits_and_masks(seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(5, 40, generator=generator, dtype=dtype)
    return logits, (torch.rand(5, 40, generator=generator) < 0.3).to(dtype)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.6, 1.5)])
def test_focal_agrees_with_transformers(alpha: float, gamma: float) -> None:
    logits, masks = logits_and_masks(0)
    ours = sigmoid_focal(logits, masks, alpha=alpha, gamma=gamma).mean(-1).sum() / 7
    torch.testing.assert_close(ours, sigmoid_focal_loss(logits, masks, 7, alpha=alpha, gamma=gamma))


def test_focal_by_hand() -> None:
    logits, targets = torch.tensor([1.2, -0.7], dtype=torch.float64), torch.tensor([1.0, 0.0]).double()
    p, q = sigmoid(1.2), sigmoid(-0.7)
    expected = [-0.25 * (1 - p) ** 2 * math.log(p), -0.75 * q**2 * math.log(1 - q)]
    assert sigmoid_focal(logits, targets).tolist() == pytest.approx(expected, rel=1e-12)


def test_focal_of_half_alpha_without_focus_is_half_the_cross_entropy() -> None:
    logits, masks = logits_and_masks(1)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    torch.testing.assert_close(sigmoid_focal(logits, masks, alpha=0.5, gamma=0.0), entropy / 2)


def test_focal_stays_finite_at_extreme_logits() -> None:
    logits = torch.tensor([80.0, -80.0, 80.0, -80.0], requires_grad=True)
    value = sigmoid_focal(logits, torch.tensor([1.0, 1.0, 0.0, 0.0]))
    assert value.isfinite().all()
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert gradient.isfinite().all()


def test_dice_agrees_with_transformers() -> None:
    logits, masks = logits_and_masks(2)
    torch.testing.assert_close(dice(logits, masks).sum() / 3, dice_loss(logits, masks, 3))


def test_dice_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0, 2.0]], dtype=torch.float64)
    targets = torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64)
    p = sigmoid(2.0)
    expected = 1 - (2 * (0.5 + p) + 1) / (1 + p + 2 + 1)
    assert dice(logits, targets).item() == pytest.approx(expected, rel=1e-12)


def test_dice_of_right_and_of_wrong_masks() -> None:
    target = torch.zeros(1, 1000)
    target[:, :500] = 1
    assert dice(target * 60 - 30, target).item() == pytest.approx(0.0, abs=1e-5)
    assert dice(30 - target * 60, target).item() == pytest.approx(1.0, abs=2e-3)
    assert dice(torch.full((1, 1000), -30.0), torch.zeros(1, 1000)).item() == pytest.approx(0.0, abs=1e-5)


def test_iou_aware_bce_by_hand() -> None:
    logits = torch.tensor([0.8, -0.4, 1.5, -2.0], dtype=torch.float64)
    positive = torch.tensor([True, True, False, False])
    iou = torch.tensor([0.64, 0.0, 0.9, 0.0], dtype=torch.float64)
    expected = []
    for x, matched, overlap in zip(logits.tolist(), positive.tolist(), iou.tolist(), strict=True):
        p = sigmoid(x)
        if matched:
            target = max(0.01, p**0.25 * overlap**0.75)
            expected.append(10 * (-target * math.log(p) - (1 - target) * math.log(1 - p)))
        else:
            expected.append(p**2 * -math.log(1 - p))
    assert iou_aware_bce(logits, positive, iou).tolist() == pytest.approx(expected, rel=1e-12)


def test_iou_aware_bce_draws_a_matched_query_to_its_target() -> None:
    """The soft target carries no gradient: d/dx = pos_weight (sigmoid(x) - target)."""
    logits = torch.tensor([0.3, -1.0], dtype=torch.float64, requires_grad=True)
    iou = torch.tensor([0.5, 0.8], dtype=torch.float64, requires_grad=True)
    loss = iou_aware_bce(logits, torch.tensor([True, True]), iou, pos_weight=5.0).sum()
    slope, none = torch.autograd.grad(loss, (logits, iou), allow_unused=True)
    p = logits.detach().sigmoid()
    torch.testing.assert_close(slope, 5.0 * (p - p**0.25 * iou.detach() ** 0.75))
    assert none is None


def test_unmatched_queries_ignore_the_overlap() -> None:
    logits = torch.linspace(-3, 3, 7)
    negative = torch.zeros(7, dtype=torch.bool)
    torch.testing.assert_close(
        iou_aware_bce(logits, negative, torch.rand(7)), iou_aware_bce(logits, negative, torch.zeros(7))
    )


def test_gradients_are_those_of_finite_differences() -> None:
    logits, masks = logits_and_masks(3)
    logits = logits[:2, :10].clone().requires_grad_()
    masks = masks[:2, :10]
    nothing, none = torch.zeros(2, 10).double(), torch.zeros(2, 10, dtype=torch.bool)
    assert torch.autograd.gradcheck(lambda x: sigmoid_focal(x, masks), logits)
    assert torch.autograd.gradcheck(lambda x: dice(x, masks), logits)
    assert torch.autograd.gradcheck(lambda x: iou_aware_bce(x, none, nothing), logits)


def test_terms_are_independent_of_what_they_are_batched_with() -> None:
    logits, masks = logits_and_masks(4)
    torch.testing.assert_close(dice(logits, masks)[2:3], dice(logits[2:3], masks[2:3]))
    torch.testing.assert_close(sigmoid_focal(logits, masks)[2], sigmoid_focal(logits[2], masks[2]))


@pytest.mark.parametrize(("local", "expected"), [(0, 1.0), (1, 1.0), (7, 7.0), (torch.tensor(3), 3.0)])
def test_count_of_one_process_is_at_least_one(local: int | Tensor, expected: float) -> None:
    assert not dist.is_initialized()
    assert global_count(local).item() == expected


def test_validation_does_not_wait_for_ranks_that_have_fewer_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Tensor] = []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", asked.append)
    with torch.no_grad():
        assert global_count(6).item() == 6
    assert not asked
    assert global_count(6).item() == 3
    assert len(asked) == 1


def test_count_leaves_the_given_tensor_alone() -> None:
    count = torch.tensor(0.0)
    global_count(count)
    assert count.item() == 0.0
