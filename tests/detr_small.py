"""A detector small enough for tests, and batches of coloured rectangles."""

from __future__ import annotations

from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from maskwell.data.sample import Batch, Geometry, Sample, Truth, collate
from maskwell.models.detr.module import Detr
from maskwell.models.detr.net import Target
from maskwell.models.detr.recipe import Recipe
from maskwell.models.optimisation import AdamWCosine

NAMES = ("red", "green")
COLOURS = ((2.0, -1.0, -1.0), (-1.0, 2.0, -1.0))

FAST = Recipe(optim=AdamWCosine(lr=1e-3, weight_decay=1e-4, warmup_share=0.0, final_share=0.1))


def sample(objects: int, seed: int, size: tuple[int, int] = (64, 96)) -> Sample:
    """Rectangles, red (0) and green (1), on a ground of noise, with their truth."""
    random = torch.Generator().manual_seed(seed)
    height, width = size
    image = 0.1 * torch.randn(3, height, width, generator=random)
    boxes, labels = torch.zeros(objects, 4), torch.arange(objects) % 2
    for index in range(objects):
        w, h = (int(torch.randint(12, 28, (1,), generator=random)) for _ in range(2))
        x = int(torch.randint(0, width - w, (1,), generator=random))
        y = int(torch.randint(0, height - h, (1,), generator=random))
        image[:, y : y + h, x : x + w] = torch.tensor(COLOURS[index % 2])[:, None, None]
        boxes[index] = torch.tensor([x, y, x + w, y + h])
    truth = Truth(
        size=size,
        boxes=boxes,
        labels=labels,
        iscrowd=torch.zeros(objects, dtype=torch.bool),
        area=(boxes[:, 2:] - boxes[:, :2]).prod(1),
    )
    geometry = Geometry(size, (0, 0, width, height), size, size)
    scaled = boxes / torch.tensor([width, height, width, height])
    return Sample(image, scaled, labels, geometry, seed, f"{seed}.png", truth=truth)


def batch(*objects: int, seed: int = 0) -> Batch:
    """One image for each number of objects."""
    return collate([sample(count, seed + place) for place, count in enumerate(objects)], 32)


def make_task(architecture: str = "rt_detr_v2", **more: Any) -> Detr:
    """Bound to the two colours; 20 queries."""
    settings: dict[str, Any] = {"queries": 20, "recipe": FAST, "image_size": None, **more}
    task = Detr(architecture=architecture, **settings)
    task.bind(categories=NAMES)
    return task


def targets(content: Batch) -> list[Target]:
    return [Target(entry.boxes, entry.labels) for entry in content.samples]


class Rectangles(LightningDataModule):
    """Batches with the given numbers of objects; with several ranks each takes its part of every batch."""

    def __init__(self, *batches: tuple[int, ...]) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.batches = [batch(*counts, seed=10 * place) for place, counts in enumerate(batches)]

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader([self._part(content) for content in self.batches], batch_size=None)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader([self._part(self.batches[0])], batch_size=None)

    def _part(self, content: Batch) -> Batch:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        rows = list(range(rank, len(content), world))
        return Batch(content.images[rows], content.pixel_mask[rows], [content.samples[row] for row in rows])
