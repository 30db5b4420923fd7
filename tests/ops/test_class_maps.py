from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from maskwell.ops.class_maps import Average, to_window


def test_padding_is_cut_and_the_same_scale_is_left_as_it_is() -> None:
    maps = torch.rand(3, 16, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(to_window(maps, (10, 20), (10, 20)), maps[:, :10, :20])


def test_an_enlarged_map_is_interpolated_between_pixel_centres() -> None:
    maps = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    maps[:, 6:] = 9.0  # padding, which must not shine in
    found = to_window(maps, (6, 8), (15, 20))
    rows, columns = (np.arange(15) + 0.5) * 6 / 15 - 0.5, (np.arange(20) + 0.5) * 8 / 20 - 0.5
    for one, mine in zip(maps[:, :6].numpy(), found.numpy(), strict=True):
        grid = np.meshgrid(rows, columns, indexing="ij")
        np.testing.assert_allclose(mine, ndimage.map_coordinates(one, grid, order=1, mode="nearest"))


def test_probabilities_are_averaged_where_windows_overlap_the_inner_one_thrice_as_much() -> None:
    mean = Average((1, 4), 2)
    mean.add(torch.tensor([[[0.9, 0.5, 0.6]], [[0.1, 0.5, 0.4]]]), (0, 0, 3, 1))
    mean.add(torch.tensor([[[0.2, 0.3, 0.2]], [[0.8, 0.7, 0.8]]]), (1, 0, 3, 1))
    # centres lie 0.5, 1.5 and 0.5 px from an edge
    first = torch.tensor([[0.9, (1.5 * 0.5 + 0.5 * 0.2) / 2, (0.5 * 0.6 + 1.5 * 0.3) / 2, 0.2]])
    torch.testing.assert_close(mean.probabilities(), torch.stack([first, 1 - first]))
    assert mean.probabilities().argmax(0).tolist() == [[0, 1, 1, 1]]


def test_order_of_windows_does_not_matter() -> None:
    generator = torch.Generator().manual_seed(2)
    windows = [(0, 0, 6, 6), (3, 0, 6, 6), (0, 4, 6, 6), (3, 4, 6, 6)]
    answers = [torch.rand(3, 6, 6, generator=generator).softmax(0) for _ in windows]
    first, second = Average((10, 9), 3), Average((10, 9), 3)
    for window, answer in zip(windows, answers, strict=True):
        first.add(answer, window)
    for window, answer in reversed(list(zip(windows, answers, strict=True))):
        second.add(answer, window)
    torch.testing.assert_close(first.probabilities(), second.probabilities())
    torch.testing.assert_close(first.probabilities().sum(0), torch.ones(10, 9))
