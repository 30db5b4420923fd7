"""Points against hand-computed cases, scipy's assignment and two processes."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from scipy import stats
from torch import Tensor

from maskwell.data.sample import Prediction, Truth
from maskwell.metrics.points import PointScores, TeacherForced, f1

Points = list[tuple[float, float]]


def _prediction(points: Points | Tensor, size: int = 384, stopped: bool | None = True) -> Prediction:
    marks = torch.as_tensor(points, dtype=torch.float32).reshape(-1, 2)
    count = len(marks)
    return Prediction(
        (size, size),
        torch.zeros(count, 4),
        torch.ones(count),
        torch.zeros(count, dtype=torch.int64),
        points=marks,
        stopped=stopped,
    )


def _truth(points: Points | Tensor, size: int = 384, side: float = 20.0, crowds: Points = []) -> Truth:  # noqa: B006
    """Objects of ``side`` x ``side`` around the points; crowds of 40 x 40."""
    centres = torch.as_tensor(points, dtype=torch.float32).reshape(-1, 2)
    others = torch.as_tensor(crowds, dtype=torch.float32).reshape(-1, 2)
    boxes = torch.cat([torch.cat([c - s / 2, c + s / 2], 1) for c, s in ((centres, side), (others, 40.0))])
    count = len(boxes)
    return Truth(
        (size, size),
        boxes,
        torch.zeros(count, dtype=torch.int64),
        torch.arange(count) >= len(centres),
        torch.ones(count),
        points=centres,
    )


def _scores(*pairs: tuple[Prediction, Truth]) -> dict[str, float]:
    metric = PointScores()
    for prediction, truth in pairs:
        metric.update([prediction], [truth])
    return {name: float(value) for name, value in metric.compute().items()}


def test_a_case_by_hand() -> None:
    # distances 3, 12 and 30 px, one mark too many
    marks = [(103.0, 100.0), (200.0, 212.0), (330.0, 300.0), (20.0, 20.0)]
    found = _scores((_prediction(marks), _truth([(100.0, 100.0), (200.0, 200.0), (300.0, 300.0)])))
    assert found["precision_9_6"] == 1 / 4
    assert found["recall_9_6"] == pytest.approx(1 / 3)
    assert found["f1_9_6"] == pytest.approx(2 / 7)
    assert found["f1_19_2"] == pytest.approx(4 / 7)
    assert found["f1_relative"] == pytest.approx(2 / 7)  # objects of 20 px: within 10 px
    assert found["mean_distance"] == pytest.approx(7.5)
    assert (found["count_mae"], found["count_rmse"], found["exact"], found["within_one"]) == (1, 1, 0, 1)
    # radii 0.96, 1.92, ...: the first mark counts from 3.84 on (17 of 20), the second from 12.48 (8 of 20)
    assert found["f1_integral"] == pytest.approx((17 + 8) / 20 * 2 / 7)
    assert (found["early"], found["late"]) == (1, 0)


def test_two_marks_on_one_object_are_one_hit() -> None:
    found = _scores((_prediction([(50.0, 50.0), (51.0, 50.0)]), _truth([(50.0, 50.0), (90.0, 50.0)])))
    assert (found["f1_9_6"], found["exact"], found["early"]) == (0.5, 1, 1)


def test_radii_mean_the_same_at_every_size() -> None:
    marks, objects = [(12.0, 10.0)], [(10.0, 10.0)]
    assert _scores((_prediction(marks), _truth(objects)))["f1_9_6"] == 1
    small = _scores((_prediction(marks, 64), _truth(objects, 64)))  # 2 px of 64 are 12 of 384
    assert (small["f1_9_6"], small["f1_19_2"], small["mean_distance"]) == (0, 1, pytest.approx(12.0))
    assert small["f1_relative"] == 1


@pytest.mark.parametrize(
    ("marks", "objects", "stopped", "early", "late"),
    [
        ([], [], True, 0, 0),
        ([(5.0, 5.0)], [], True, 0, 1),
        ([], [(5.0, 5.0)], True, 1, 0),
        ([(5.0, 5.0)], [(5.0, 5.0)], True, 0, 0),
        ([(5.0, 5.0)], [(5.0, 5.0)], False, 0, 1),  # the cap
        ([(90.0, 5.0), (5.0, 5.0)], [(5.0, 5.0)], True, 0, 0),  # a false mark before the end, then the stop
        ([(5.0, 5.0), (90.0, 5.0)], [(5.0, 5.0)], True, 0, 1),
        ([(90.0, 5.0)], [(5.0, 5.0)], False, 0, 1),
    ],
)
def test_stops(marks: Points, objects: Points, stopped: bool, early: int, late: int) -> None:
    found = _scores((_prediction(marks, stopped=stopped), _truth(objects)))
    assert (found["early"], found["late"]) == (early, late)


def test_models_without_a_stop_and_empty_data() -> None:
    empty = _scores((_prediction([], stopped=None), _truth([])))
    assert "early" not in empty and "precision_9_6" not in empty and "mean_distance" not in empty
    assert (empty["f1_9_6"], empty["exact"]) == (1, 1)
    assert PointScores().compute() == {}
    assert f1(torch.tensor([0]), torch.tensor(3), torch.tensor(0)).tolist() == [0.0]


def test_marks_in_a_crowd_count_only_where_they_match() -> None:
    truth = _truth([(100.0, 100.0)], crowds=[(100.0, 100.0)])
    found = _scores((_prediction([(99.0, 100.0), (110.0, 110.0), (300.0, 300.0)]), truth))
    assert (found["precision_9_6"], found["count_mae"]) == (0.5, 1)


def _best(points: np.ndarray, objects: np.ndarray, radius: float) -> int:
    """Most matches within a radius, by trying all ways."""
    near = np.linalg.norm(points[:, None] - objects[None], axis=2) <= radius
    rows, columns = near.shape
    if rows > columns:
        near, rows, columns = near.T, columns, rows
    return max(
        sum(near[row, column] for row, column in enumerate(chosen))
        for chosen in itertools.permutations(range(columns), rows)
    )


def test_random_images_against_all_assignments() -> None:
    rng = np.random.default_rng(0)
    hits, marked, objects = 0, 0, 0
    pairs = []
    for _ in range(20):
        true = rng.uniform(0, 60, (rng.integers(1, 6), 2)).astype(np.float32)
        found = rng.uniform(0, 60, (rng.integers(1, 6), 2)).astype(np.float32)
        pairs.append((_prediction(torch.from_numpy(found)), _truth(torch.from_numpy(true))))
        hits += _best(found, true, 19.2)
        marked, objects = marked + len(found), objects + len(true)
    assert _scores(*pairs)["f1_19_2"] == pytest.approx(2 * hits / (marked + objects))


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="ascending"):
        PointScores(radii=(19.2, 9.6))
    bare = _prediction([])
    bare.points = None
    with pytest.raises(ValueError, match="has none"):
        PointScores().update([bare], [_truth([])])


def _states(count: int = 200) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    marked = torch.randint(0, 30, (count,), generator=generator)
    finished = torch.rand(count, generator=generator) < 0.3
    done = (torch.rand(count, generator=generator) * 0.7 + 0.3 * finished).clamp(0, 1)
    error = torch.rand(count, generator=generator) * 50
    error[finished] = torch.nan
    return marked, error, done, finished


def _forced(*parts: tuple[Tensor, Tensor, Tensor, Tensor]) -> dict[str, float]:
    metric = TeacherForced()
    for part in parts:
        metric.update(*part)
    return {name: float(value) for name, value in metric.compute().items()}


def test_teacher_forced_states() -> None:
    marked, error, done, finished = _states()
    found = _forced((marked, error, done, finished))
    wins = stats.mannwhitneyu(done[finished], done[~finished]).statistic
    assert found["done_auroc"] == pytest.approx(wins / (int(finished.sum()) * int((~finished).sum())))
    assert found["pixel_error"] == pytest.approx(float(error.nanmean()))
    inside = (marked >= 5) & (marked <= 9) & ~finished
    assert found["pixel_error/k_5_9"] == pytest.approx(float(error[inside].mean()))
    assert found["pixel_error/k_20_up"] == pytest.approx(float(error[(marked >= 20) & ~finished].mean()))
    assert found["done_highest"] == pytest.approx(float(done.max()))
    place = np.minimum((done.numpy() * 15).astype(int), 14)
    gaps = [
        abs(float(done[place == b].mean()) - float(finished[place == b].float().mean())) * (place == b).mean()
        for b in np.unique(place)
    ]
    assert found["done_ece"] == pytest.approx(sum(gaps), abs=1e-5)


def test_what_teacher_forcing_cannot_say_is_left_out() -> None:
    none = torch.tensor([torch.nan])
    one = _forced((torch.tensor([3]), none, torch.tensor([0.5]), torch.tensor([True])))
    assert set(one) == {"done_mean", "done_highest", "done_ece"}
    assert _forced() == {}


def _rank(rank: int, rendezvous: str, out: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    forced, scores, idle = TeacherForced(), PointScores(), TeacherForced()
    whole = _states()
    forced.update(*(part[:150] if rank == 0 else part[150:] for part in whole))
    if rank == 1:
        idle.update(*whole)
    else:
        scores.update([_prediction([(5.0, 5.0)])], [_truth([(8.0, 5.0), (90.0, 5.0)])])
    found = [{k: float(v) for k, v in m.compute().items()} for m in (forced, scores, idle)]
    torch.save(found, f"{out}/{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_give_the_figures_of_one(tmp_path: Path) -> None:
    mp.spawn(_rank, args=(str(tmp_path / "rendezvous"), str(tmp_path)), nprocs=2)
    scores = _scores((_prediction([(5.0, 5.0)]), _truth([(8.0, 5.0), (90.0, 5.0)])))
    for rank in range(2):
        forced, measured, idle = torch.load(tmp_path / f"{rank}.pt")
        assert forced == pytest.approx(_forced(_states())) and idle == pytest.approx(_forced(_states()))
        assert measured == pytest.approx(scores)
