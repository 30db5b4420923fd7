"""A task's answers about images of any size: windows in batches, one prediction per image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskwell import tiling
from maskwell.data.sample import Batch, Geometry, Prediction, Prompt, Sample, collate
from maskwell.data.source import Window
from maskwell.data.transforms import content_size, network_image
from maskwell.errors import UserError
from maskwell.models.base import BaseTask
from maskwell.ops import masks as mask_ops
from maskwell.ops.class_maps import Average, to_window


@dataclass(frozen=True)
class Request:
    """An image, uint8 RGB [H, W, 3], and what is asked about it (nothing for models without prompts)."""

    image: NDArray[np.uint8]
    prompts: tuple[Prompt, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.image.shape[0], self.image.shape[1]


def predict_images(
    task: BaseTask,
    requests: Iterable[Request],
    *,
    tile: int | None = None,
    overlap: float = tiling.OVERLAP,
    batch_size: int = 8,
    min_score: float = 0.0,
) -> Iterator[Prediction]:
    """One prediction per request, in order, in the frame of its image; requests are read as needed.

    Batches are filled across images. The task is put into evaluation mode and back. Detections of
    overlapping windows are merged object by object, class probabilities of a semantic task are
    averaged pixel by pixel. Points are marked on whole images, and all that were marked come out.

    Args:
        task: on the device where it shall run.
        requests: the images.
        tile: side of the windows in image px, None for whole images; see :func:`maskwell.tiling.grid`.
        overlap: least share of a tile that its neighbour sees too.
        batch_size: windows that go through the network at once.
        min_score: detections below it, and those without a pixel, are left out before tiles are merged.

    Raises:
        UserError: tiles that are none, or tiles for a task that marks points.
    """
    if task.pointwise and tile is not None:
        raise UserError(f"tile={tile}: this model marks points on whole images; give tile=null.")
    if task.pointwise:
        min_score = 0.0  # what was marked once has steered the marks after it
    was_training = task.training
    task.eval()
    try:
        jobs = _jobs(task, requests, tile, overlap)
        while batch := list(islice(jobs, batch_size)):
            for job, answer in zip(batch, _answers(task, [job.sample for job in batch]), strict=True):
                job.whole.add(_kept(answer, min_score) if isinstance(answer, Prediction) else answer)
                if job.last:
                    yield job.whole.prediction()
    finally:
        task.train(was_training)


class _Whole(Protocol):
    """An image of which some windows are answered, in their order."""

    def add(self, answer: Any) -> None: ...

    def prediction(self) -> Prediction: ...


class _Objects:
    """Detections, one :class:`Prediction` per window."""

    def __init__(self, size: tuple[int, int], windows: list[Window]) -> None:
        self.size, self.windows = size, windows
        self.answers: list[Prediction] = []

    def add(self, answer: Prediction) -> None:
        self.answers.append(answer)

    def prediction(self) -> Prediction:
        return tiling.merge(self.windows, self.answers, self.size)


class _Classes:
    """Class probabilities [C, h, w] per window; only their sum is kept."""

    def __init__(self, size: tuple[int, int], windows: list[Window]) -> None:
        self.size, self.left = size, iter(windows)
        self.average: Average | None = None

    def add(self, answer: Tensor) -> None:
        self.average = self.average or Average(self.size, len(answer))
        self.average.add(answer, next(self.left))

    def prediction(self) -> Prediction:
        assert self.average is not None
        confidence, classes = self.average.probabilities().max(0)
        return Prediction.of_classes(classes, confidence)


@dataclass(frozen=True)
class _Job:
    whole: _Whole
    sample: Sample
    last: bool


def _jobs(task: BaseTask, requests: Iterable[Request], tile: int | None, overlap: float) -> Iterator[_Job]:
    for index, request in enumerate(requests):
        windows = tiling.grid(request.size, tile, overlap)
        whole: _Whole = (_Classes if task.semantic else _Objects)(request.size, windows)
        for number, window in enumerate(windows, 1):
            yield _Job(whole, _sample(task, request, window, index), number == len(windows))


def _sample(task: BaseTask, request: Request, window: Window, index: int) -> Sample:
    """A window as training would see it, without objects."""
    x, y, width, height = window
    content = content_size((height, width), task.input_spec)
    return Sample(
        image=network_image(request.image[y : y + height, x : x + width], task.input_spec),
        boxes=torch.zeros(0, 4),
        labels=torch.zeros(0, dtype=torch.int64),
        geometry=Geometry(request.size, window, content, content),
        image_id=index,
        file_name="",
        prompts=request.prompts,
    )


def batch_of(task: BaseTask, requests: Sequence[Request]) -> Batch:
    """Whole images as the network takes them, in one batch on the task's device."""
    samples = [_sample(task, request, (0, 0, *request.size[::-1]), i) for i, request in enumerate(requests)]
    return _batch(task, samples)


def _batch(task: BaseTask, samples: list[Sample]) -> Batch:
    return collate(samples, **task.input_spec.padding).to(task.device)


def _answers(task: BaseTask, samples: list[Sample]) -> Sequence[Prediction | Tensor]:
    """Of each window its detections, or its class probabilities [C, h, w]."""
    batch = _batch(task, samples)
    with torch.inference_mode():
        return _class_probabilities(task, batch) if task.semantic else task.predict_batch(batch)


def _class_probabilities(task: BaseTask, batch: Batch) -> list[Tensor]:
    places = [sample.geometry for sample in batch.samples]
    return [
        to_window(probabilities, place.content, place.window_size)
        for probabilities, place in zip(task.class_probabilities(batch.images), places, strict=True)
    ]


def _kept(prediction: Prediction, min_score: float) -> Prediction:
    """The detections that have a pixel and a score of at least ``min_score``."""
    keep = prediction.scores >= min_score
    if prediction.rles is not None:
        keep &= mask_ops.area(prediction.rles) > 0
    chosen = keep.nonzero().flatten().tolist()
    return replace(
        prediction,
        boxes=prediction.boxes[keep],
        scores=prediction.scores[keep],
        labels=prediction.labels[keep],
        rles=None if prediction.rles is None else [prediction.rles[i] for i in chosen],
        points=None if prediction.points is None else prediction.points[keep],
    )
