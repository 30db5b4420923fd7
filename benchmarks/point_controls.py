"""Controls of point models that are not trained: classical detectors, and points that look at nothing.

They see the network's own input (the same windows at the same scale), so all lengths are pixels of an
image whose longer side has 384. Settings are chosen on the validation windows; the test windows are only
reported on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks.classical import BlobSettings, Settings, blobs, distance_peaks
from benchmarks.figures import Result
from maskwell import build, compose
from maskwell.data.datamodule import DataModule
from maskwell.data.sample import InputSpec, Prediction, Sample
from maskwell.metrics.points import PointScores

Detector = Callable[[npt.NDArray[np.uint8]], Tensor]
"""Image uint8 [H, W, 3] -> points (x, y) float [K, 2] in its pixels."""

PEAKS = tuple(
    Settings(blur, area, peak_blur, distance)
    for blur, area, peak_blur, distance in itertools.product((0, 1), (30, 80), (1, 2, 4), (5, 10, 20))
)
BLOBS = tuple(
    BlobSettings(small, large, least)
    for (small, large), least in itertools.product(
        ((4, 8), (6, 12), (8, 16), (12, 24)), (0.03, 0.06, 0.12, 0.25)
    )
)


@dataclass(frozen=True)
class Window:
    """A window of an image as the network sees it, uint8 [H, W, 3], and its sample."""

    image: npt.NDArray[np.uint8]
    sample: Sample


def data_of(overrides: Sequence[str]) -> tuple[DataModule, InputSpec]:
    """The data module of a training with these overrides, set up, and the network's input."""
    cfg, _ = compose.compose("train", overrides)
    task = build.task(cfg)
    return build.datamodule(cfg, task), task.input_spec


def windows(data: DataModule, spec: InputSpec, split: Any, limit: int | None = None) -> Iterator[Window]:
    """Every window of a split, as validation and test see them."""
    dataset = data.dataset(split)
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (spec.mean, spec.std))
    for index in range(len(dataset) if limit is None else min(limit, len(dataset))):
        sample = dataset[index]
        height, width = sample.geometry.content
        pixels = ((sample.image[:, :height, :width] * std + mean) * 255).round().clamp(0, 255)
        yield Window(pixels.byte().permute(1, 2, 0).numpy(), sample)


def score(found: Sequence[Window], detector: Detector) -> Result:
    """All figures of a detector on windows."""
    scores = PointScores()
    for window in found:
        place, truth = window.sample.geometry, window.sample.truth
        assert truth is not None
        height, width = place.input_size
        points = place.points_to_window(detector(window.image) / torch.tensor([width, height]))
        scores.update([Prediction.of_points(place.window_size, points, torch.ones(len(points)))], [truth])
    return {name: float(value) for name, value in scores.compute().items()}


def classical(val: Sequence[Window], test: Sequence[Window], quick: bool = False) -> Result:
    """Figures on ``test`` of both detectors with the settings that are best on ``val``.

    ``classical.*``: distance peaks, ``log.*``: Laplacian of Gaussian; their settings as figures beside them.
    """
    figures: Result = {}
    for name, find, grid in (("classical", distance_peaks, PEAKS), ("log", blobs, BLOBS)):
        tried: Sequence[Any] = grid[:2] if quick else grid
        best = max(tried, key=lambda settings, find=find: score(val, _with(find, settings))["f1_9_6"])
        figures |= {f"{name}.{key}": value for key, value in score(test, _with(find, best)).items()}
        figures |= {f"{name}.settings.{key}": value for key, value in asdict(best).items()}
    return figures


def trivial(counts: Sequence[int], val: Sequence[Window], test: Sequence[Window]) -> Result:
    """Figures of points that look at nothing.

    ``mean_count.*``: as many as the training windows have on average, evenly spread; ``grid.*``: the square
    grid with the best F1 at 19.2 px on ``val``.
    """
    mean = max(1, round(sum(counts) / len(counts)))
    best = max(range(2, 13), key=lambda side: score(val, _spread(side**2))["f1_19_2"])
    return {
        f"{name}.{key}": value
        for name, count in (("mean_count", mean), ("grid", best**2))
        for key, value in {**score(test, _spread(count)), "points": count}.items()
    }


def even_grid(count: int, height: int, width: int) -> Tensor:
    """``count`` points in rows over an image, as square as it goes: float32 [count, 2]."""
    columns = max(1, round(math.sqrt(count * width / height)))
    rows = math.ceil(count / columns)
    places = [
        ((column + 0.5) * width / columns, (row + 0.5) * height / rows)
        for row in range(rows)
        for column in range(columns)
    ]
    return torch.tensor(places[:count])


def _with(find: Callable[..., Tensor], settings: object) -> Detector:
    return lambda image: find(image, settings)


def _spread(count: int) -> Detector:
    return lambda image: even_grid(count, image.shape[0], image.shape[1])
