"""Greedy suppression against a plain loop, and what must not be lost."""

from __future__ import annotations

import torch

from maskwell.ops.suppression import greedy


def test_a_better_answer_removes_its_duplicates_only() -> None:
    overlaps = torch.tensor([[1.0, 0.8, 0.1], [0.8, 1.0, 0.7], [0.1, 0.7, 1.0]])
    # The second goes because of the first; the third overlaps the second only, which is gone.
    assert greedy(overlaps, 0.5).tolist() == [0, 2]


def test_nothing_overlaps_nothing_goes() -> None:
    assert greedy(torch.eye(4), 0.5).tolist() == [0, 1, 2, 3]
    assert greedy(torch.zeros(0, 0), 0.5).tolist() == []


def test_equals_the_plain_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        half = torch.rand(12, 12, generator=generator)
        overlaps = (half + half.T) / 2
        expected: list[int] = []
        for i in range(12):
            if all(overlaps[i, j] <= 0.6 for j in expected):
                expected.append(i)
        assert greedy(overlaps, 0.6).tolist() == expected
