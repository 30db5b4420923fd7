"""Against figures worked out by hand and against torchmetrics' own matrix and Jaccard index."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassJaccardIndex

from maskwell.data.sample import Prediction, Truth
from maskwell.metrics.segmentation import SegmentationScores, class_ious, confusion_matrix, row_shares

NAMES = ("road", "tree", "car")


def _prediction(semantic: Tensor) -> Prediction:
    return Prediction.of_classes(semantic)


def _truth(semantic: Tensor) -> Truth:
    nothing = torch.zeros(0)
    return Truth(
        tuple(semantic.shape),  # type: ignore[arg-type]
        torch.zeros(0, 4),
        nothing.long(),
        nothing.bool(),
        nothing,
        semantic=semantic,
    )


def _scores(
    pairs: list[tuple[Tensor, Tensor]], names: tuple[str, ...] = NAMES, **kwargs: bool
) -> dict[str, Tensor]:
    metric = SegmentationScores(names, **kwargs)
    for found, true in pairs:
        metric.update([_prediction(found)], [_truth(true)])
    return metric.compute()


def _random_pairs(classes: int, count: int = 5) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    pairs = []
    for index in range(count):
        size = (7 + index, 11)
        true = torch.randint(0, classes, size, generator=generator)
        found = torch.where(
            torch.rand(size, generator=generator) < 0.6,
            true,
            torch.randint(0, classes, size, generator=generator),
        )
        true[torch.rand(size, generator=generator) < 0.1] = 255
        pairs.append((found, true))
    return pairs


def test_by_hand() -> None:
    true = torch.tensor([[0, 0, 0, 1], [0, 1, 1, 255]])
    found = torch.tensor([[0, 0, 1, 1], [2, 1, 0, 2]])
    assert confusion_matrix(found, true, 3).tolist() == [[2, 1, 1], [1, 2, 0], [0, 0, 0]]
    figures = _scores([(found, true)])
    # road 2 of 2 + 2 + 1, tree 2 of 2 + 1 + 1, car never true but predicted once
    assert figures["iou/road"] == pytest.approx(2 / 5)
    assert figures["iou/tree"] == pytest.approx(2 / 4)
    assert figures["iou/car"] == 0
    assert figures["miou"] == pytest.approx((2 / 5 + 2 / 4 + 0) / 3)
    assert figures["pixel_accuracy"] == pytest.approx(4 / 7)


def test_agrees_with_torchmetrics() -> None:
    pairs = _random_pairs(6)
    found = torch.cat([one.flatten() for one, _ in pairs])
    true = torch.cat([one.flatten() for _, one in pairs])
    matrix = MulticlassConfusionMatrix(6, ignore_index=255)(found, true)
    jaccard = MulticlassJaccardIndex(6, average="none", ignore_index=255)(found, true)
    metric = SegmentationScores(tuple("abcdef"))
    for one, other in pairs:
        metric.update([_prediction(one)], [_truth(other)])
    figures = metric.compute()
    assert metric.confusion is not None and torch.equal(metric.confusion, matrix)
    metric.reset()
    assert torch.equal(metric.confusion, matrix)
    torch.testing.assert_close(torch.stack([figures[f"iou/{name}"] for name in "abcdef"]), jaccard)
    torch.testing.assert_close(figures["miou"], jaccard.mean())


def test_a_class_that_is_nowhere_is_left_out_of_the_mean() -> None:
    true = torch.tensor([[0, 1], [1, 1]])
    figures = _scores([(true, true)])
    assert figures["miou"] == 1
    assert "iou/car" not in figures
    missed = _scores([(torch.zeros(2, 2, dtype=torch.int64), true)])
    assert missed["miou"] == pytest.approx((1 / 4 + 0) / 2)


def test_without_background() -> None:
    true, found = torch.tensor([[0, 1], [1, 2]]), torch.tensor([[0, 1], [0, 2]])
    assert _scores([(found, true)], background=False)["miou"] == pytest.approx((1 / 2 + 1) / 2)
    only_background = torch.zeros(2, 2, dtype=torch.int64)
    figures = _scores([(only_background, only_background)], background=False)
    assert "miou" not in figures
    assert figures["iou/road"] == 1


def test_void_counts_nowhere_and_nothing_but_void_gives_nothing() -> None:
    true = torch.tensor([[0, 255], [1, 255]])
    one = _scores([(torch.tensor([[0, 2], [1, 1]]), true)])
    other = _scores([(torch.tensor([[0, 0], [1, 2]]), true)])
    assert one == other
    assert one["miou"] == 1
    assert _scores([(torch.zeros(2, 2).long(), torch.full((2, 2), 255))]) == {}


def test_order_of_pixels_images_and_classes_does_not_matter() -> None:
    pairs = _random_pairs(3)
    figures = _scores(pairs)
    assert _scores(pairs[::-1]) == figures
    shuffle = torch.randperm(pairs[0][0].numel(), generator=torch.Generator().manual_seed(1))
    shuffled = [
        tuple(one.flatten()[shuffle].reshape(one.shape) for one in pairs[0]),
        *pairs[1:],
    ]
    assert _scores(shuffled) == figures  # type: ignore[arg-type]
    renamed = torch.tensor([2, 0, 1])
    mapped = [
        (renamed[found], torch.where(true == 255, true, renamed[true.clamp(max=2)])) for found, true in pairs
    ]
    turned = _scores(mapped, ("tree", "car", "road"))
    assert {name: float(value) for name, value in turned.items()} == pytest.approx(
        {name: float(value) for name, value in figures.items()}
    )


def test_row_shares() -> None:
    shares = row_shares(torch.tensor([[3, 1], [0, 0]]))
    assert shares.tolist() == [[0.75, 0.25], [0.0, 0.0]]
    assert class_ious(torch.zeros(2, 2).long()).isnan().all()


def test_wrong_input_is_refused() -> None:
    good = torch.zeros(2, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match="shape"):
        confusion_matrix(good, good[:1], 3)
    with pytest.raises(ValueError, match=r"truth has labels outside 0\.\.2"):
        confusion_matrix(good, good + 7, 3)
    with pytest.raises(ValueError, match="prediction has labels"):
        confusion_matrix(good + 255, good, 3)
    metric = SegmentationScores(NAMES)
    with pytest.raises(ValueError, match="class maps"):
        metric.update([Prediction((2, 2), torch.zeros(0, 4), torch.zeros(0), good[:0, 0])], [_truth(good)])


def _rank(rank: int, rendezvous: str, out: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    metric, idle = SegmentationScores(tuple("abcdef")), SegmentationScores(tuple("abcdef"))
    pairs = _random_pairs(6)
    for found, true in (pairs[:4], pairs[4:])[rank]:
        metric.update([_prediction(found)], [_truth(true)])
    if rank == 1:
        idle.update([_prediction(pairs[0][0])], [_truth(pairs[0][1])])
    figures = [{k: float(v) for k, v in m.compute().items()} for m in (metric, idle)]
    torch.save([*figures, metric.confusion], f"{out}/{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_give_the_figures_of_one(tmp_path: Path) -> None:
    mp.spawn(_rank, args=(str(tmp_path / "rendezvous"), str(tmp_path)), nprocs=2)
    pairs, names = _random_pairs(6), tuple("abcdef")
    whole = [
        {name: float(value) for name, value in _scores(part, names).items()} for part in (pairs, pairs[:1])
    ]
    alone = SegmentationScores(names)
    for found, true in pairs:
        alone.update([_prediction(found)], [_truth(true)])
    for rank in range(2):
        *figures, confusion = torch.load(tmp_path / f"{rank}.pt")
        assert figures == whole
        assert torch.equal(confusion, alone.matrix)
