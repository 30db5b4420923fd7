"""Orders, states, noise and matching of points, against enumeration and hand-made cases."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from maskwell.ops import points
from maskwell.ops.points import MODES, SAMPLINGS, Mode, Sampling


def _random(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 2, generator=torch.Generator().manual_seed(seed))


def test_signed_coordinates_and_back() -> None:
    given = torch.tensor([[0.0, 0.5], [1.0, 0.25]])
    assert points.to_signed(given).tolist() == [[-1.0, 0.0], [1.0, -0.5]]
    assert points.from_signed(points.to_signed(given)).equal(given)


def test_reading_order_is_by_rows_then_columns() -> None:
    given = torch.tensor([[0.9, 0.12], [0.5, 0.31], [0.1, 0.19], [0.2, 0.01]])
    assert points.reading_order(given, 0.2).tolist() == [2, 3, 0, 1]
    assert points.reading_order(given, 0.1).tolist() == [3, 2, 0, 1]
    assert points.reading_order(given[:0], 0.1).tolist() == []


def test_nearest_order_is_the_greedy_chain() -> None:
    given, start = _random(30), torch.tensor([0.5, 0.5])
    left, last, chain = list(range(30)), start.numpy(), []
    while left:
        _, index = cKDTree(given[left].numpy()).query(last)
        chain.append(left.pop(int(index)))
        last = given[chain[-1]].numpy()
    assert points.nearest_order(given, start).tolist() == chain
    assert points.nearest_order(given[:0], start).tolist() == []


def test_random_order_follows_the_generator() -> None:
    one, same = (points.random_order(20, torch.Generator().manual_seed(3)).tolist() for _ in range(2))
    assert one == same and sorted(one) == list(range(20)) != one


@pytest.mark.parametrize(("sampling", "mode"), list(itertools.product(SAMPLINGS, MODES)))
def test_states_have_a_distribution_whose_support_is_that_of_the_mode(sampling: Sampling, mode: Mode) -> None:
    for count in (1, 2, 7, 40):
        found = points.k_distribution(count, sampling, mode)
        assert found.shape == (count + 1,) and found.sum().item() == pytest.approx(1) and (found >= 0).all()
        support = {"regression": range(count), "mixed": range(count + 1), "done": (count - 1, count)}[mode]
        assert found.nonzero().flatten().tolist() == list(support)
    assert points.k_distribution(0, sampling, mode).tolist() == [1.0]


def test_distributions_by_hand() -> None:
    def of(sampling: Sampling, mode: Mode = "mixed") -> list[float]:
        return points.k_distribution(3, sampling, mode).tolist()

    assert of("uniform") == pytest.approx([1 / 4] * 4)
    assert of("balanced") == pytest.approx([1 / 6] * 3 + [1 / 2])
    assert of("mixed") == pytest.approx([1 / 8, 1 / 8, 3 / 8, 3 / 8])
    assert of("balanced", "regression") == pytest.approx([1 / 3] * 3 + [0])
    assert of("mixed", "regression") == pytest.approx([1 / 5, 1 / 5, 3 / 5, 0])
    assert of("balanced", "done") == of("uniform", "done") == [0, 0, 0.5, 0.5]


def test_the_expected_share_of_uniform_sampling_is_the_mean_of_one_over_n_plus_one() -> None:
    counts = [0, 1, 5, 21, 50]
    expected = np.mean([1 / (n + 1) for n in counts])
    assert points.expected_done_share(counts, "uniform") == pytest.approx(expected)
    assert points.expected_done_share(range(5, 51), "uniform") == pytest.approx(0.0485, abs=1e-4)
    assert points.expected_done_share([5, 9], "balanced") == pytest.approx(0.5)
    assert points.expected_done_share([5, 9, 0, 0], "balanced") == pytest.approx(0.75)
    assert points.expected_done_share([5, 9], "uniform", "regression") == 0
    with pytest.raises(ValueError, match="at least one image"):
        points.expected_done_share([], "uniform")


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_sampled_share_is_near_the_exact_one(sampling: Sampling) -> None:
    counts = [1, 4, 21]
    share = points.sampled_done_share(
        counts, sampling, rounds=4000, generator=torch.Generator().manual_seed(0)
    )
    exact = points.expected_done_share(counts, sampling)
    assert share.trials == 12000 and share.value == pytest.approx(exact, abs=0.015)
    low, high = share.interval
    assert low < exact < high and high - low < 0.02


def test_the_wilson_interval_against_its_formula() -> None:
    hits, trials, z = 3, 100, 1.959963985
    p = hits / trials
    middle = (p + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * np.sqrt(p * (1 - p) / trials + z**2 / (4 * trials**2))
    assert points.Share(hits, trials).interval == pytest.approx((middle - half, middle + half), abs=1e-7)
    # of the notes' 100 draws: "3 %" is compatible with the exact 4.5 % of 21 objects
    assert points.Share(3, 100).interval[0] < 1 / 22 < points.Share(3, 100).interval[1]


def test_the_balancing_weight() -> None:
    assert points.balancing_weight(1 / 22) == pytest.approx(21)
    assert points.balancing_weight(0.0) == float("inf")


def test_marks_without_noise_stay_as_they_are() -> None:
    marks = _random(9)
    found, source = points.corrupt_marks(marks)
    assert found.equal(marks) and source.tolist() == list(range(9))
    empty, source = points.corrupt_marks(marks[:0], jitter=0.1, drop=0.5, duplicate=0.5)
    assert empty.shape == (0, 2) and len(source) == 0


def test_noise_of_marks() -> None:
    marks, generator = 0.25 + _random(2000) / 2, torch.Generator().manual_seed(1)
    found, source = points.corrupt_marks(marks, 0.02, 0.2, 0.1, 50.0, generator)
    assert ((found >= 0) & (found <= 1)).all()
    of, times = source[source >= 0].unique(return_counts=True)
    assert times.max() == 2
    assert int((source == -1).sum()) == pytest.approx(50, abs=25)
    assert len(of) == pytest.approx(2000 * (1 - 0.2 * 0.9), abs=60)
    assert int((times == 2).sum()) == pytest.approx(2000 * 0.8 * 0.1, abs=45)
    moved = (found - marks[source])[source >= 0]
    assert moved.std().item() == pytest.approx(0.02, rel=0.05) and abs(moved.mean().item()) < 0.002


def test_kept_marks_keep_their_order_among_the_additional_ones() -> None:
    marks = _random(50)
    found, source = points.corrupt_marks(
        marks, drop=0.3, false_marks=20, generator=torch.Generator().manual_seed(2)
    )
    real = source[source >= 0]
    assert real.equal(real.sort().values) and len(real) < 50
    assert found[source >= 0].equal(marks[real])
    places = (source == -1).nonzero().flatten()
    assert places.min() < 10 and places.max() > len(source) - 10


def test_noise_is_a_function_of_the_generator() -> None:
    one, same = (
        points.corrupt_marks(_random(9), 0.1, 0.2, 0.2, 2.0, torch.Generator().manual_seed(4))
        for _ in range(2)
    )
    assert one[0].equal(same[0]) and one[1].equal(same[1])


def _best_by_enumeration(pred: torch.Tensor, truth: torch.Tensor, radius: torch.Tensor) -> tuple[int, float]:
    """(most pairs, their least total distance) over all assignments."""
    distance = torch.cdist(pred.double(), truth.double())
    best = (0, 0.0)
    for chosen in itertools.permutations(range(len(pred)), len(truth)):
        pairs = [(p, t) for t, p in enumerate(chosen) if distance[p, t] <= radius[t]]
        total = sum(float(distance[pair]) for pair in pairs)
        if len(pairs) > best[0] or (len(pairs) == best[0] and total < best[1]):
            best = (len(pairs), total)
    return best


@pytest.mark.parametrize("seed", range(8))
def test_matching_finds_the_most_pairs_and_then_the_nearest(seed: int) -> None:
    pred, truth = _random(6, seed), _random(4, 100 + seed)
    radius = 0.1 + 0.3 * torch.rand(4, generator=torch.Generator().manual_seed(seed))
    for limit in (0.25, radius):
        rows, columns = points.match_points(pred, truth, limit)
        assert len(set(rows.tolist())) == len(set(columns.tolist())) == len(rows)
        distance = (pred[rows] - truth[columns]).norm(dim=1)
        limits = torch.as_tensor(limit).expand(4)
        assert (distance <= limits[columns] + 1e-6).all()
        pairs, total = _best_by_enumeration(pred, truth, limits)
        assert (len(rows), float(distance.sum())) == (pairs, pytest.approx(total, abs=1e-5))


def test_a_nearer_pair_is_given_up_for_one_pair_more() -> None:
    pred, truth = torch.tensor([[0.0, 0.0], [9.0, 0.0]]), torch.tensor([[-9.0, 0.0], [1.0, 0.0]])
    rows, columns = points.match_points(pred, truth, 10.0)
    assert sorted(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 0), (1, 1)]


def test_matching_at_the_edges() -> None:
    pred, truth = torch.tensor([[0.0, 0.0], [float("nan"), 0.0]]), torch.tensor([[3.0, 4.0]])
    assert points.match_points(pred, truth, 5.0)[0].tolist() == [0]
    assert points.match_points(pred, truth, 4.99)[0].tolist() == []
    assert points.match_points(pred[1:], truth, 5.0)[0].tolist() == []
    for first, second in ((pred[:0], truth), (pred, truth[:0]), (pred[:0], truth[:0])):
        assert [len(part) for part in points.match_points(first, second, torch.ones(len(second)))] == [0, 0]


def test_duplicates_go_and_the_first_or_the_surest_stays() -> None:
    given = torch.tensor([[0.0, 0.0], [3.0, 0.0], [5.0, 0.0], [20.0, 0.0]])
    assert points.suppress_duplicates(given, 4.0).tolist() == [0, 2, 3]
    assert points.suppress_duplicates(given, 4.0, torch.tensor([0.1, 0.9, 0.5, 0.2])).tolist() == [1, 3]
    assert points.suppress_duplicates(given, 3.0).tolist() == [0, 1, 3]  # 0 and 1 are 3 apart, not nearer
    assert points.suppress_duplicates(given[:0], 3.0).tolist() == []
