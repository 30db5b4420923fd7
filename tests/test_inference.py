"""Windows in batches over many images, with a model that is exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from maskwell.data.sample import Batch, Prediction
from maskwell.inference import Request, predict_images
from maskwell.ops import masks as mask_ops
from trained import Oracle, spots


@pytest.mark.parametrize("tile", [None, 48, 64])
def test_images_of_any_size_come_back_in_order_with_every_object_once(tile: int | None) -> None:
    sizes = [(100, 140), (40, 60), (64, 64), (130, 50)]
    images = [spots(size) for size in sizes]
    found = list(predict_images(Oracle(), [Request(image) for image in images], tile=tile, batch_size=3))
    assert [prediction.size for prediction in found] == sizes
    for prediction, (height, width), image in zip(found, sizes, images, strict=True):
        assert len(prediction.scores) == (height // 20) * (width // 20)
        assert prediction.rles is not None
        union = mask_ops.decode(prediction.rles, (height, width)).any(0).numpy()
        assert np.array_equal(union, image[..., 0] > 128)


def test_batches_are_filled_across_images() -> None:
    task = Oracle()
    list(predict_images(task, [Request(spots((40, 40)))] * 5, batch_size=2))
    assert task.batches == [2, 2, 1]


def test_requests_are_read_as_needed() -> None:
    read = []

    def requests() -> object:
        for index in range(10):
            read.append(index)
            yield Request(spots((40, 40)))

    answers = predict_images(Oracle(), requests(), batch_size=2)  # type: ignore[arg-type]
    next(answers)
    assert read == [0, 1]


def test_the_mode_of_the_task_is_restored() -> None:
    task = Oracle().train()
    list(predict_images(task, [Request(spots((40, 40)))]))
    assert task.training
    task.eval()
    list(predict_images(task, [Request(spots((40, 40)))]))
    assert not task.training


def test_weak_and_empty_detections_are_left_out() -> None:
    class Unsure(Oracle):
        def predict_batch(self, batch: Batch) -> list[Prediction]:
            empty = torch.zeros(1, 40, 40, dtype=torch.bool)
            full = torch.ones(2, 40, 40, dtype=torch.bool)
            return [
                Prediction(
                    size=(40, 40),
                    boxes=torch.zeros(3, 4),
                    scores=torch.tensor([0.9, 0.5, 0.04]),
                    labels=torch.tensor([0, 1, 2]),
                    rles=mask_ops.encode(torch.cat([empty, full])),
                )
            ]

    [found] = predict_images(Unsure(), [Request(spots((40, 40)))], min_score=0.05)
    assert found.labels.tolist() == [1] and found.scores.tolist() == [0.5] and len(found.rles or []) == 1
