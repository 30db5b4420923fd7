"""Small images of blobs, batches and tasks for the family points."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from maskwell.data.sample import Batch, Geometry, Sample, Truth, collate
from maskwell.models.points.module import Points
from maskwell.models.points.net import EncoderSpec

SIDE = 64


def make_sample(index: int, count: int = 4, side: int = SIDE) -> Sample:
    """``count`` bright blobs on black, at least a cell apart where there is room."""
    generator = torch.Generator().manual_seed(1000 * count + index)
    points = torch.zeros(0, 2)
    while len(points) < count:
        found = torch.rand(1, 2, generator=generator) * 0.8 + 0.1
        if not len(points) or float((points - found).norm(dim=1).min()) > 0.15:
            points = torch.cat([points, found])
    y, x = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")
    image = torch.zeros(side, side)
    for to_x, to_y in (points * side).tolist():
        image = torch.maximum(image, torch.exp(-((x - to_x) ** 2 + (y - to_y) ** 2) / 18))
    labels = torch.zeros(count, dtype=torch.int64)
    boxes = torch.cat([points - 0.05, points + 0.05], dim=1)
    truth = Truth(
        (side, side), boxes * side, labels, labels.bool(), torch.full((count,), 40.0), points=points * side
    )
    return Sample(
        image=image.expand(3, -1, -1).clone(),
        boxes=boxes,
        labels=labels,
        geometry=Geometry((side, side), (0, 0, side, side), (side, side), (side, side)),
        image_id=index,
        file_name=f"{index}.png",
        points=points,
        truth=truth,
    )


def make_batch(*counts: int, side: int = SIDE) -> Batch:
    return collate([make_sample(index, count, side) for index, count in enumerate(counts)])


def make_task(**settings: Any) -> Points:
    """A task of a narrow network, bound to one category."""
    given: dict[str, Any] = {"hidden": 16, "image_size": SIDE, "max_points": 12, "states": 4}
    task = Points(EncoderSpec(width=16), **{**given, **settings})
    task.bind(categories=["blob"])
    return task


def places(task: Points, batch: Batch) -> list[Tensor]:
    """Where the task marks each image, in window pixels."""
    found = [prediction.points for prediction in task.predict_batch(batch)]
    return [points for points in found if points is not None]
