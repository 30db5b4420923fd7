"""Rectangles and their pasting."""

from __future__ import annotations

import torch

from maskwell.ops import cutmix


def test_rectangles_are_rectangles_of_the_stated_sizes() -> None:
    torch.manual_seed(0)
    inside = cutmix.rectangles(200, (40, 60), 1.0)
    shares = inside.float().mean((1, 2))
    for mask in inside:
        rows, columns = mask.any(1), mask.any(0)
        assert torch.equal(mask, rows[:, None] & columns[None, :])
    assert shares.max() <= cutmix.AREA[1] * 1.1
    assert shares.median() > 0.1
    covered = inside.float().mean(0)
    for axis in (0, 1):  # no side is preferred
        assert (covered - covered.flip(axis)).abs().mean() < 0.06


def test_probability_says_how_many_images_get_one() -> None:
    torch.manual_seed(0)
    share = cutmix.rectangles(2000, (16, 16), 0.5).flatten(1).any(1).float().mean()
    assert 0.45 < share < 0.55
    assert not cutmix.rectangles(50, (16, 16), 0.0).any()


def test_the_same_pixels_of_images_and_labels_come_from_the_neighbour() -> None:
    labels = torch.arange(3)[:, None, None].expand(3, 4, 4).clone()
    images = labels[:, None].float().expand(3, 2, 4, 4)
    inside = torch.zeros(3, 4, 4, dtype=torch.bool)
    inside[1, 1:3, 2:] = True
    mixed = cutmix.mix(inside, labels)
    assert mixed[1, 1, 2] == 0 and mixed[1, 0, 2] == 1
    assert torch.equal(mixed[[0, 2]], labels[[0, 2]])
    assert torch.equal(cutmix.mix(inside, images)[:, 0], mixed.float())


def test_a_batch_of_one_is_left_as_it_is() -> None:
    image = torch.rand(1, 3, 8, 8)
    assert torch.equal(cutmix.mix(torch.ones(1, 8, 8, dtype=torch.bool), image), image)
