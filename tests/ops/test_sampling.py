"""Point sampling against scipy's interpolation and counts that can be told by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from maskwell.ops.sampling import sample_masks, sample_points, uncertain_points


def test_values_agree_with_scipy() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(3, 9, 14, generator=generator, dtype=torch.float64)
    points = torch.rand(3, 50, 2, generator=generator, dtype=torch.float64)
    for grid, xy, ours in zip(maps.numpy(), points.numpy(), sample_points(maps, points).numpy(), strict=True):
        at = np.stack([xy[:, 1] * 9 - 0.5, xy[:, 0] * 14 - 0.5])  # pixel centres lie at half pixels
        np.testing.assert_allclose(ours, map_coordinates(grid, at, order=1, mode="nearest"), atol=1e-12)


def test_pixel_centres_give_the_pixels() -> None:
    grid = torch.arange(12.0).reshape(1, 3, 4)
    y, x = torch.meshgrid((torch.arange(3) + 0.5) / 3, (torch.arange(4) + 0.5) / 4, indexing="ij")
    points = torch.stack([x, y], dim=-1).reshape(1, 12, 2)
    torch.testing.assert_close(sample_points(grid, points)[0], torch.arange(12.0))


def test_points_at_the_border_do_not_fade() -> None:
    corners = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]])
    torch.testing.assert_close(sample_points(torch.ones(1, 5, 5), corners), torch.ones(1, 4))


@pytest.mark.parametrize("size", [(9, 14), (1, 6), (1, 1)])
def test_masks_are_sampled_as_maps_of_zeros_and_ones(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(6)
    masks = torch.rand(3, *size, generator=generator) < 0.5
    points = torch.cat(
        [torch.rand(3, 200, 2, generator=generator), torch.tensor([[[0.0, 0.0], [1.0, 1.0]]] * 3)], 1
    )
    torch.testing.assert_close(
        sample_masks(masks, points), sample_points(masks.float(), points), atol=1e-5, rtol=0.0
    )


def test_gradient_is_that_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(1)
    maps = torch.randn(2, 4, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    points = torch.rand(2, 6, 2, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda m: sample_points(m, points), maps)


def test_uncertain_points_have_their_shape_and_range_and_no_gradient() -> None:
    logits = torch.randn(3, 8, 8, requires_grad=True)
    points = uncertain_points(logits, 101)
    assert points.shape == (3, 101, 2)
    assert not points.requires_grad
    assert points.min() >= 0
    assert points.max() <= 1


def test_uncertain_points_gather_where_the_logit_is_zero() -> None:
    """|logit| grows with the distance from x = 0.5: 3/4 of the points are the nearest 1/4 of 3x."""
    ramp = torch.linspace(-8, 8, 64).expand(1, 64, 64).contiguous()
    points = uncertain_points(ramp, 2000, generator=torch.Generator().manual_seed(2))
    distance = (points[0, :, 0] - 0.5).abs()
    assert distance[:1500].max() < 0.16  # the nearest 1,500 of 6,000 uniform points lie within 0.125
    assert distance[1500:].max() > 0.35
    assert (points[0, 1500:, 0] < 0.5).float().mean().item() == pytest.approx(0.5, abs=0.08)


def test_without_importance_the_points_are_uniform() -> None:
    ramp = torch.linspace(-8, 8, 64).expand(1, 64, 64).contiguous()
    points = uncertain_points(ramp, 4000, importance=0.0, generator=torch.Generator().manual_seed(3))
    assert points.mean(1)[0].tolist() == pytest.approx([0.5, 0.5], abs=0.02)
    assert points.var(1)[0].tolist() == pytest.approx([1 / 12, 1 / 12], abs=0.005)


def test_same_seed_same_points() -> None:
    logits = torch.randn(2, 8, 8)
    first, second = (
        uncertain_points(logits, 20, generator=torch.Generator().manual_seed(4)) for _ in range(2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, uncertain_points(logits, 20, generator=torch.Generator().manual_seed(5)))


def test_low_precision_logits_are_sampled_in_float32() -> None:
    logits = torch.randn(2, 8, 8).bfloat16()
    assert uncertain_points(logits, 10).dtype == torch.float32
