"""Concept metrics against figures worked out by hand and by brute force."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from maskwell.data.sample import Prediction, Truth
from maskwell.metrics.concept import (
    ConceptF1,
    DetectionStats,
    PromptResult,
    match_counts,
    matthews,
    prompt_results,
)
from maskwell.ops import masks

NO_BOXES = torch.zeros(0, 4)


def result(scores: list[float], found: list[list[float]], true: list[list[float]]) -> PromptResult:
    return PromptResult(
        torch.tensor(scores), torch.tensor(found).reshape(-1, 4), torch.tensor(true).reshape(-1, 4)
    )


def figures(results: list[PromptResult]) -> dict[str, float]:
    metric = ConceptF1()
    metric.update(results)
    return {name: float(value) for name, value in metric.compute().items()}


def square(x: float, side: float = 10.0) -> list[float]:
    return [x, 0.0, x + side, 10.0]


def test_by_hand() -> None:
    """Overlaps 1.0 and 0.72 (hit at 5 of 10 thresholds), one missed, one false, one below 0.5."""
    positive = result(
        [0.9, 0.5, 0.8, 0.49],
        [square(0), square(100, 7.2), square(500), square(300)],
        [square(0), square(100), square(300)],
    )
    hit_both, hit_one = 2 * 2 / (2 * 2 + 1 + 1), 2 * 1 / (2 * 1 + 2 + 2)
    pmf1 = (5 * hit_both + 5 * hit_one) / 10
    quiet, noisy = result([0.2], [square(0)], []), result([0.7], [square(0)], [])
    missed = result([], [], [square(0)])
    ours = figures([positive, quiet, quiet, noisy])
    assert ours["pmf1"] == pytest.approx(pmf1)
    # table: present and found 1, absent and found 1, absent and not found 2
    mcc = (1 * 2 - 1 * 0) / math.sqrt((1 + 1) * (1 + 0) * (2 + 1) * (2 + 0))
    assert ours["il_mcc"] == pytest.approx(mcc)
    assert ours["cgf1"] == pytest.approx(pmf1 * mcc)
    with_miss = figures([positive, missed, quiet])
    assert with_miss["pmf1"] == pytest.approx((5 * 4 / (4 + 1 + 2) + 5 * 2 / (2 + 2 + 3)) / 10)


def test_perfect_and_opposite_answers() -> None:
    there, absent = result([1.0], [square(0)], [square(0)]), result([0.1], [square(0)], [])
    assert figures([there, absent]) == pytest.approx({"pmf1": 1.0, "il_mcc": 1.0, "cgf1": 1.0})
    silent, noisy = result([], [], [square(0)]), result([0.9], [square(0)], [])
    assert figures([silent, noisy]) == pytest.approx({"pmf1": 0.0, "il_mcc": -1.0, "cgf1": 0.0})


def test_what_is_undefined_is_absent() -> None:
    there, absent = result([1.0], [square(0)], [square(0)]), result([], [], [])
    assert set(figures([there])) == {"pmf1"}
    assert figures([absent]) == {}
    assert figures([]) == {}


def test_the_same_answer_everywhere_is_worth_nothing() -> None:
    always = [result([0.9], [square(0)], [square(0)]), result([0.9], [square(0)], [])]
    assert figures(always)["il_mcc"] == 0.0


def test_one_detection_matches_one_object() -> None:
    twice = result([0.9, 0.8], [square(0), square(0)], [square(0)])
    assert match_counts(twice, 0.5)[:, 0].tolist() == [1, 1, 0]


def test_matching_equals_brute_force() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        n_found, n_true = rng.integers(0, 5), rng.integers(1, 5)
        stack = rng.random((n_found + n_true, 6, 6)) < 0.7
        found, true = stack[:n_found], stack[n_found:]
        rles, true_rles = masks.encode(found), masks.encode(true)
        one = PromptResult(torch.ones(n_found), masks.boxes(rles), masks.boxes(true_rles), rles, true_rles)
        overlaps = np.array([[(a & b).sum() / (a | b).sum() for b in true] for a in found])
        overlaps = overlaps.reshape(n_found, n_true)
        square_table = np.zeros((5, 5))
        square_table[:n_found, :n_true] = overlaps
        best = max(itertools.permutations(range(5)), key=lambda p: square_table[range(5), p].sum())
        matched = square_table[range(5), best]
        for i, threshold in enumerate(np.arange(10) * 0.05 + 0.5):
            hits = int((matched >= threshold - 1e-12).sum())
            assert match_counts(one, 0.5)[:, i].tolist() == [hits, n_found - hits, n_true - hits]


def test_masks_decide_where_there_are_masks() -> None:
    """Two triangles that share a box: box overlap 1, mask overlap small."""
    lower = np.tril(np.ones((20, 20), dtype=bool))
    rles, true_rles = masks.encode(lower[None]), masks.encode(lower[None, :, ::-1])
    one = PromptResult(torch.ones(1), masks.boxes(rles), masks.boxes(true_rles), rles, true_rles)
    assert match_counts(one, 0.5)[0].tolist() == [0] * 10
    boxes_only = PromptResult(torch.ones(1), one.boxes, one.true_boxes)
    assert match_counts(boxes_only, 0.5)[0].tolist() == [1] * 10


def test_prompt_results_split_an_image_by_phrase() -> None:
    truth = Truth(
        (10, 600),
        torch.tensor([square(0), square(100), square(200)]),
        torch.tensor([0, 0, 2]),
        torch.tensor([False, True, True]),
        torch.full((3,), 100.0),
    )
    prediction = Prediction(
        (10, 600),
        torch.tensor([square(0), square(300), square(400)]),
        torch.tensor([0.9, 0.8, 0.7]),
        torch.tensor([0, -2, 1]),
    )
    results = prompt_results(prediction, truth, [0, 1, 2, -1, -2])
    assert [len(r.true_boxes) for r in results] == [1, 0, 0, 0]  # label 2 is only a crowd there
    assert [r.scores.tolist() for r in results] == [
        pytest.approx([0.9]),
        pytest.approx([0.7]),
        [],
        pytest.approx([0.8]),
    ]
    metric = ConceptF1()
    metric.update(results)
    assert metric.answers.tolist() == [[1, 2], [0, 1]]


def test_matthews_equals_correlation() -> None:
    truth = torch.tensor([1, 1, 1, 0, 0, 0, 0, 1, 0, 1])
    answer = torch.tensor([1, 0, 1, 0, 1, 0, 0, 1, 0, 1])
    confusion = torch.zeros(2, 2, dtype=torch.int64)
    for t, a in zip(truth, answer, strict=True):
        confusion[t, a] += 1
    expected = np.corrcoef(truth.numpy(), answer.numpy())[0, 1]
    assert float(matthews(confusion)) == pytest.approx(expected)


def test_detection_stats() -> None:
    def one(scores: list[float], labels: list[int]) -> Prediction:
        return Prediction(
            (5, 5), torch.zeros(len(scores), 4), torch.tensor(scores), torch.tensor(labels, dtype=torch.int64)
        )

    metric = DetectionStats()
    metric.update([one([0.9, 0.4, 0.1], [0, 1, 0]), one([0.95], [-1])])
    metric.update([one([], [])])
    metric.update([one([0.5], [0])])
    ours = {name: float(value) for name, value in metric.compute().items()}
    assert ours == pytest.approx({"detections_per_image": 3 / 4, "max_confidence": (0.9 + 0.5) / 4})
    assert DetectionStats().compute() == {}


def _random_results(seed: int) -> list[PromptResult]:
    rng = np.random.default_rng(seed)
    results = []
    for _ in range(6):
        true = [square(50.0 * i) for i in range(rng.integers(0, 4))]
        found = [square(50.0 * i + float(rng.integers(0, 4))) for i in range(rng.integers(0, 4))]
        results.append(result(rng.random(len(found)).tolist(), found, true))
    return results


def _rank(rank: int, rendezvous: str, out: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    metric, idle = ConceptF1(), ConceptF1()
    for seed in ([0, 1, 2], [3])[rank]:
        metric.update(_random_results(seed))
    if rank == 1:
        idle.update(_random_results(0))
    torch.save([{k: float(v) for k, v in m.compute().items()} for m in (metric, idle)], f"{out}/{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks(tmp_path: Path) -> None:
    mp.spawn(_rank, args=(str(tmp_path / "rendezvous"), str(tmp_path)), nprocs=2)
    expected = [
        figures([r for seed in range(4) for r in _random_results(seed)]),
        figures(_random_results(0)),
    ]
    assert set(expected[0]) == {"pmf1", "il_mcc", "cgf1"}
    for rank in range(2):
        for ours, wanted in zip(torch.load(tmp_path / f"{rank}.pt"), expected, strict=True):
            assert ours == pytest.approx(wanted)
