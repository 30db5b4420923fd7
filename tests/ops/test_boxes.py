"""Box arithmetic against transformers' functions, plain float64 arithmetic and numerical gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers.image_transforms import center_to_corners_format
from transformers.loss.loss_for_object_detection import generalized_box_iou

from maskwell.ops import boxes


def random_boxes(count: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Boxes inside the unit square that overlap often, with sides of at least 0.02."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    size = 0.02 + 0.6 * torch.rand(count, 2, generator=generator, dtype=torch.float64)
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1).to(dtype)


def plain_giou(a: list[float], b: list[float]) -> float:
    """GIoU by its definition, one pair at a time in Python floats."""
    area_a, area_b = ((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    width, height = (max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    union = area_a + area_b - width * height
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return width * height / union - (hull - union) / hull


def test_forms_by_hand() -> None:
    corner = torch.tensor([[0.1, 0.2, 0.5, 0.8]])
    centred = torch.tensor([[0.3, 0.5, 0.4, 0.6]])
    torch.testing.assert_close(boxes.xyxy_to_cxcywh(corner), centred)
    torch.testing.assert_close(boxes.cxcywh_to_xyxy(centred), corner)


def test_forms_are_inverse_and_agree_with_transformers() -> None:
    corner = random_boxes(50, 0)
    centred = boxes.xyxy_to_cxcywh(corner)
    torch.testing.assert_close(boxes.cxcywh_to_xyxy(centred), corner)
    torch.testing.assert_close(boxes.cxcywh_to_xyxy(centred), center_to_corners_format(centred))


def test_leading_dimensions_are_kept() -> None:
    stacked = random_boxes(24, 1).reshape(2, 3, 4, 4)
    assert boxes.xyxy_to_cxcywh(stacked).shape == stacked.shape
    assert boxes.area(stacked).shape == (2, 3, 4)
    torch.testing.assert_close(boxes.area(stacked)[1, 2], boxes.area(stacked[1, 2]))


def test_area_of_an_inverted_box_is_zero() -> None:
    inverted = torch.tensor([[0.5, 0.1, 0.2, 0.4], [0.0, 0.0, 0.5, 0.5]])
    assert boxes.area(inverted).tolist() == [0.0, 0.25]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_generalised_iou_agrees_with_transformers(dtype: torch.dtype) -> None:
    a, b = random_boxes(30, 2, dtype), random_boxes(20, 3, dtype)
    ours = boxes.generalised_iou(*boxes.pairwise(a, b))
    assert ours.shape == (30, 20)
    torch.testing.assert_close(ours, generalized_box_iou(a, b), atol=1e-5, rtol=1e-5)


def test_generalised_iou_agrees_with_plain_arithmetic() -> None:
    a, b = random_boxes(40, 4, torch.float64), random_boxes(40, 5, torch.float64)
    expected = [plain_giou(x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    assert boxes.generalised_iou(a, b).tolist() == pytest.approx(expected, abs=1e-12)


def test_iou_by_hand() -> None:
    a = torch.tensor([0.0, 0.0, 0.4, 0.4])
    others = torch.tensor(
        [[0.0, 0.0, 0.4, 0.4], [0.2, 0.0, 0.6, 0.4], [0.4, 0.4, 0.8, 0.8], [0.1, 0.1, 0.3, 0.3]]
    )
    assert boxes.iou(a, others).tolist() == pytest.approx([1.0, 1 / 3, 0.0, 0.25])
    assert boxes.generalised_iou(a, others).tolist() == pytest.approx([1.0, 1 / 3, -0.5, 0.25])


def test_values_are_symmetric_and_bounded() -> None:
    a, b = random_boxes(200, 6), random_boxes(200, 7)
    giou = boxes.generalised_iou(a, b)
    torch.testing.assert_close(giou, boxes.generalised_iou(b, a))
    assert giou.min() >= -1
    assert (giou <= boxes.iou(a, b) + 1e-6).all()


def test_boxes_without_area_stay_finite_with_their_gradient() -> None:
    point = torch.tensor([[0.3, 0.3, 0.3, 0.3]], requires_grad=True)
    same_point, box = torch.tensor([[0.3, 0.3, 0.3, 0.3]]), torch.tensor([[0.1, 0.1, 0.6, 0.6]])
    value = boxes.generalised_iou(point, same_point) + boxes.generalised_iou(point, box)
    assert value.isfinite().all()
    (gradient,) = torch.autograd.grad(value.sum(), point)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("function", [boxes.iou, boxes.generalised_iou])
def test_gradients_are_those_of_finite_differences(function: object) -> None:
    a = random_boxes(12, 8, torch.float64).requires_grad_()
    b = random_boxes(12, 9, torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(function, (a, b))
