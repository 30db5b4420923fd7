"""Loss terms against float64 loops, closed forms, and what may have a gradient."""

from __future__ import annotations

import math

import torch

from maskwell.models.s4gan import loss


def test_cross_entropy_is_the_mean_over_labelled_pixels() -> None:
    logits = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    labels = torch.randint(0, 3, (2, 4, 5))
    labels[0, :2] = 255
    total, count = 0.0, 0
    for b in range(2):
        for y in range(4):
            for x in range(5):
                if labels[b, y, x] != 255:
                    total -= float(logits[b, :, y, x].log_softmax(0)[labels[b, y, x]])
                    count += 1
    assert math.isclose(float(loss.cross_entropy(logits, labels)), total / count, rel_tol=1e-9)
    of = torch.tensor(100)
    assert math.isclose(float(loss.cross_entropy(logits, labels, of)), total / 100, rel_tol=1e-9)


def test_all_void_is_zero_with_a_zero_gradient() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    value = loss.cross_entropy(logits, torch.full((1, 4, 4), 255))
    value.backward()
    assert float(value) == 0.0
    assert logits.grad is not None and float(logits.grad.abs().sum()) == 0.0


def test_feature_matching_by_hand_and_gradient_only_to_the_fake() -> None:
    real = torch.tensor([[1.0, 0.0], [3.0, 0.0]], requires_grad=True)
    fake = torch.tensor([[0.0, 1.0], [0.0, 2.0]], requires_grad=True)
    value = loss.feature_matching(real, fake)
    value.backward()
    assert float(value) == (2.0 + 1.5) / 2
    assert real.grad is None
    assert torch.equal(fake.grad, torch.tensor([[-0.25, 0.25], [-0.25, 0.25]]))  # type: ignore[arg-type]


def test_discriminator_loss_is_ln2_at_zero_and_right_by_hand() -> None:
    assert math.isclose(float(loss.discriminator(torch.zeros(3), torch.zeros(3))), math.log(2), rel_tol=1e-6)
    real, fake = torch.tensor([2.0]), torch.tensor([-1.0])
    wanted = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1))) / 2
    assert math.isclose(float(loss.discriminator(real, fake)), wanted, rel_tol=1e-6)


def test_r1_of_a_linear_discriminator_is_half_its_squared_weights() -> None:
    weights = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    inputs = torch.randn(4, 3, requires_grad=True)
    penalty = loss.r1(inputs @ weights, (inputs,))
    penalty.backward()
    assert math.isclose(float(penalty), 7.0, rel_tol=1e-6)
    assert torch.allclose(weights.grad, weights.detach())  # type: ignore[arg-type]


def test_half_precision_is_computed_in_full() -> None:
    logits = torch.randn(1, 3, 8, 8)
    labels = torch.randint(0, 3, (1, 8, 8))
    assert loss.cross_entropy(logits.bfloat16(), labels).dtype == torch.float32
    assert torch.allclose(
        loss.cross_entropy(logits.bfloat16(), labels), loss.cross_entropy(logits, labels), atol=0.02
    )
