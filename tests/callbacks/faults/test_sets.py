"""Faults of the data as a whole."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch.utils.data import DataLoader

import points_small
import s4gan_small
from maskwell.callbacks.faults import InOrder, Leak
from maskwell.callbacks.faults.sets import Sorted, amount


def test_a_pass_is_sorted_by_content() -> None:
    batches = [[(0, 3), (0, 1)], [(0, 0), (0, 2)], [(1, 2), (1, 0)], [(1, 1), (1, 3)]]
    content = [5.0, 1.0, 7.0, 3.0]
    assert list(Sorted(batches, content, 1.0)) == [
        [(0, 1), (0, 3)],
        [(0, 0), (0, 2)],
        [(1, 1), (1, 3)],
        [(1, 0), (1, 2)],
    ]
    assert list(Sorted(batches, content, 0.5))[1] == batches[1]


def test_validation_reads_training_images() -> None:
    class Source:
        def size(self, split: str) -> int:
            return 4

        def read(self, split: str, index: int, epoch: int) -> tuple[str, int]:
            return split, index

        objects = image_size = read

        def files(self, split: str) -> list[str]:
            return [f"{split}{i}" for i in range(4)]

    source: Any = Source()
    trainer: Any = SimpleNamespace(datamodule=SimpleNamespace(source=source))
    Leak(0.5).setup(trainer, None, "fit")  # type: ignore[arg-type]
    assert [source.read("val", i, 0)[0] for i in range(4)] == ["train", "train", "val", "val"]
    assert (
        source.files("val") == ["train0", "train1", "val2", "val3"] and source.read("test", 0, 0)[0] == "test"
    )


def test_a_loader_gets_the_sorted_order() -> None:
    class Data:
        samples = tuple(points_small.make_sample(i, count) for i, count in enumerate((3, 1, 4, 2)))

        def dataset(self, split: str) -> Any:
            return self.samples

        def train_dataloader(self) -> Any:
            batches: Any = [[(0, 2), (0, 1)], [(0, 3), (0, 0)]]
            keyed = SimpleNamespace(__len__=lambda: 4)
            return DataLoader(keyed, batch_sampler=batches, collate_fn=list)  # type: ignore[arg-type]

    data: Any = Data()
    InOrder(1.0).setup(SimpleNamespace(datamodule=data), None, "fit")  # type: ignore[arg-type]
    assert list(data.train_dataloader().batch_sampler) == [[(0, 1), (0, 3)], [(0, 0), (0, 2)]]


def test_content_is_objects_or_labelled_pixels() -> None:
    assert amount(points_small.make_sample(0, 3)) == 3
    sample = s4gan_small.make_sample(0)
    assert sample.semantic is not None
    assert amount(sample) == int(((sample.semantic == 1) | (sample.semantic == 2)).sum())
    sample.semantic = torch.full_like(sample.semantic, 255)
    assert amount(sample) == 0
