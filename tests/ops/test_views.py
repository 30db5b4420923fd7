"""Strong views: each operation against a hand-computed or scipy reference, and what stays as it was."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from maskwell.ops import views

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_blur_is_scipys() -> None:
    colours = torch.rand(2, 3, 20, 24, dtype=torch.float64)
    sigma = torch.tensor([0.8, 1.7], dtype=torch.float64)
    found = views.blur(colours, sigma, radius=6)
    for row in range(2):
        wanted = gaussian_filter(
            colours[row].numpy(), (0, float(sigma[row]), float(sigma[row])), mode="nearest", radius=(0, 6, 6)
        )
        np.testing.assert_allclose(found[row].numpy(), wanted, atol=1e-12)


def test_no_blur_at_sigma_zero() -> None:
    colours = torch.rand(1, 3, 9, 9)
    assert torch.allclose(views.blur(colours, torch.zeros(1), 3), colours)


def test_hue_turns_by_a_third_and_back() -> None:
    colours = 0.3 + 0.4 * torch.rand(1, 3, 5, 5, dtype=torch.float64)
    third = torch.tensor([1 / 3])
    turned = views.turn_hue(colours, third)
    assert torch.allclose(views.luma(turned), views.luma(colours), atol=1e-6)
    assert torch.allclose(views.turn_hue(turned, -third), colours, atol=1e-6)
    before, after = (colorsys.rgb_to_hsv(*image[0, :, 2, 2].tolist())[0] for image in (colours, turned))
    assert min(abs((after - before) % 1 - share) for share in (1 / 3, 2 / 3)) < 0.12  # YIQ is not HSV


def test_views_stay_colours_and_differ_between_images() -> None:
    torch.manual_seed(0)
    scale, centre = torch.tensor(STD)[:, None, None], torch.tensor(MEAN)[:, None, None]
    images = (torch.rand(1, 3, 32, 32).expand(8, -1, -1, -1) - centre) / scale
    found = views.strong_view(images, MEAN, STD)
    colours = found * scale + centre
    assert colours.min() > -1e-5 and colours.max() < 1 + 1e-5
    assert found.shape == images.shape
    assert len({round(float(image.sum()), 3) for image in found}) > 5


def test_the_global_generator_decides() -> None:
    images = torch.randn(2, 3, 16, 16)
    torch.manual_seed(3)
    first = views.strong_view(images, MEAN, STD)
    torch.manual_seed(3)
    assert torch.equal(first, views.strong_view(images, MEAN, STD))
    assert not torch.equal(first, views.strong_view(images, MEAN, STD))


@pytest.mark.parametrize("name", ["P_JITTER", "P_GREY", "P_BLUR"])
def test_each_change_alone_changes_something(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    images = torch.rand(4, 3, 200, 200)
    for other in ("P_JITTER", "P_GREY", "P_BLUR"):
        monkeypatch.setattr(views, other, 0.0)
    assert torch.allclose(views.strong_view(images, (0.0,) * 3, (1.0,) * 3), images, atol=1e-6)
    monkeypatch.setattr(views, name, 1.1)
    changed = views.strong_view(images, (0.0,) * 3, (1.0,) * 3)
    assert (changed - images).abs().max() > 0.01
    if name == "P_GREY":
        assert (changed.std(1) < 1e-6).all()
