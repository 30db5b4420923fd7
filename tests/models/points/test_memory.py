"""The canvas against a plain loop, and what it must not depend on."""

from __future__ import annotations

import math

import pytest
import torch

from maskwell.models.points import memory
from maskwell.models.points.memory import NARROW, WIDE, Canvas

SIZE = (4, 6)
PLAIN = Canvas(places=False, last=False, row_height=2.0)
ORDERED = Canvas(places=True, last=True, row_height=2.0)


def marks(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(1, count, 2, generator=torch.Generator().manual_seed(seed))


def test_channels_against_a_plain_loop() -> None:
    given = marks(3)
    found = PLAIN(given, torch.tensor([3]), SIZE)
    assert found.shape == (1, 24, PLAIN.channels)
    for cell in range(24):
        cx, cy = cell % 6 + 0.5, cell // 6 + 0.5
        away = [(x * 6 - cx, y * 4 - cy) for x, y in given[0].double().tolist()]
        square = [x * x + y * y for x, y in away]
        nearest = min(range(3), key=square.__getitem__)
        wide = math.exp(-square[nearest] / (2 * WIDE**2))
        density = sum(math.exp(-s / (2 * WIDE**2)) for s in square)
        expected = [
            math.exp(-square[nearest] / (2 * NARROW**2)),
            wide,
            away[nearest][0] * wide,
            away[nearest][1] * wide,
            math.log1p(density),
        ]
        assert found[0, cell].tolist() == pytest.approx(expected, abs=1e-5)


def test_marks_of_an_unordered_state_are_a_set() -> None:
    given = marks(5)
    order = torch.tensor([3, 1, 4, 0, 2])
    counts = torch.tensor([5])
    assert torch.allclose(PLAIN(given, counts, SIZE), PLAIN(given[:, order], counts, SIZE), atol=1e-6)


def test_of_ordered_marks_the_last_one_counts_and_no_other_place() -> None:
    given, counts = marks(4), torch.tensor([4])
    swapped, moved = given[:, [1, 0, 2, 3]], given[:, [0, 1, 3, 2]]
    assert torch.allclose(ORDERED(given, counts, SIZE), ORDERED(swapped, counts, SIZE), atol=1e-6)
    assert not torch.allclose(ORDERED(given, counts, SIZE), ORDERED(moved, counts, SIZE), atol=1e-3)


def test_rows_beyond_the_count_are_ignored() -> None:
    given, other = marks(4), marks(4, seed=1)
    for canvas in (PLAIN, ORDERED):
        mixed = torch.cat([given[:, :2], other[:, 2:]], dim=1)
        counts = torch.tensor([2])
        assert torch.equal(canvas(mixed, counts, SIZE), canvas(given, counts, SIZE))
        assert torch.allclose(canvas(given[:, :2], counts, SIZE), canvas(given, counts, SIZE))


def test_states_without_marks_see_nothing_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not PLAIN(torch.zeros(2, 0, 2), torch.zeros(2, dtype=torch.int64), SIZE).any()
    given = torch.cat([marks(5), marks(5, seed=1), marks(5, seed=2)])
    counts = torch.tensor([5, 0, 3])
    whole = PLAIN(given, counts, SIZE)
    assert not whole[1].any() and whole.isfinite().all()
    monkeypatch.setattr(memory, "CHUNK", 1)
    assert torch.equal(PLAIN(given, counts, SIZE), whole)


def test_the_way_ahead_in_reading_order_grows_to_the_right_and_down() -> None:
    found = ORDERED(torch.tensor([[[0.5, 0.3]]]), torch.tensor([1]), SIZE)[0].view(4, 6, -1)
    ahead = found[..., 5 + 2 + 3]
    assert (ahead[:, 1:] > ahead[:, :-1]).all()  # to the right in every row
    assert (ahead[2] > ahead[1]).all()  # the next row of two cells
    assert float(ahead[1, 2]) < 0 < float(ahead[1, 3])  # before and after the mark


def test_marks_are_padded_and_counted() -> None:
    found, counts = memory.padded([torch.ones(2, 2), torch.zeros(0, 2)])
    assert found.shape == (2, 2, 2) and counts.tolist() == [2, 0]


def test_distance_to_the_nearest_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    points = torch.rand(3, 7, 2, generator=torch.Generator().manual_seed(0))
    given = torch.cat([marks(5), marks(5, seed=1), marks(5, seed=2)])
    found = memory.nearest_distance(points, given, torch.tensor([5, 0, 3]))
    assert found[1].isinf().all()
    for row, count in ((0, 5), (2, 3)):
        away = (points[row].double()[:, None] - given[row, :count].double()).norm(dim=2)
        assert torch.allclose(found[row].double(), away.amin(1), atol=1e-5)
    monkeypatch.setattr(memory, "CHUNK", 1)
    assert torch.allclose(memory.nearest_distance(points, given, torch.tensor([5, 0, 3])), found)
    assert memory.nearest_distance(points, given[:, :0], torch.zeros(3, dtype=torch.int64)).isinf().all()
