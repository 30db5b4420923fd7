"""Small tasks, batches and data for the family S4GAN."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from maskwell.data.sample import IGNORE, Batch, Geometry, Sample, Truth, collate
from maskwell.models.s4gan.discriminator import DiscriminatorSpec
from maskwell.models.s4gan.module import S4Gan
from maskwell.models.s4gan.net import GeneratorSpec
from maskwell.models.s4gan.optimisation import Rates
from maskwell.models.s4gan.recipe import Recipe

CLASSES = ("ground", "box", "disc")
SIDE = 32

RECIPES = {
    "guide": Recipe(True, True, threshold_st=0.2, pseudo_labels="student", st_start=2),
    "sound": Recipe(
        True,
        True,
        threshold_st=0.2,
        pixel_threshold=0.4,
        class_wise=True,
        strong_views=True,
        cutmix=0.5,
        real_confidence=0.9,
        fill_void=True,
        spectral_norm=True,
        st_start=2,
    ),
    "sound_without_d": Recipe(
        True, pixel_threshold=0.4, class_wise=True, strong_views=True, cutmix=0.5, st_start=2
    ),
    "supervised": Recipe(False, pseudo_labels="student"),
    "consistency": Recipe(True, pixel_threshold=0.4, strong_views=True, cutmix=0.5, st_start=0),
}
"""The named recipes, with thresholds and gates that a few iterations of a small network reach."""


def make_sample(index: int, *, labelled: bool = True, hidden: bool = False, side: int = SIDE) -> Sample:
    """An image whose colours tell its classes: a box of class 1 and a column of class 2; a row of void."""
    generator = torch.Generator().manual_seed(index)
    labels = torch.zeros(side, side, dtype=torch.int64)
    y, x = torch.randint(0, side // 2, (2,), generator=generator).tolist()
    labels[y : y + side // 3, x : x + side // 3] = 1
    labels[:, -4:] = 2
    image = torch.stack([(labels == c).float() for c in range(3)]) * 2 - 1
    image = image + 0.1 * torch.randn(3, side, side, generator=generator)
    labels[0] = IGNORE
    geometry = Geometry((side, side), (0, 0, side, side), (side, side), (side, side))
    empty = torch.zeros(0, dtype=torch.int64)
    truth = Truth(
        (side, side), torch.zeros(0, 4), empty, empty.bool(), torch.zeros(0), semantic=labels.clone()
    )
    return Sample(
        image=image,
        boxes=torch.zeros(0, 4),
        labels=empty,
        geometry=geometry,
        image_id=index,
        file_name=f"{index}.png",
        semantic=labels if labelled else None,
        hidden=labels.clone() if hidden else None,
        truth=truth if labelled else None,
    )


def make_batch(*indices: int, labelled: bool = True, side: int = SIDE) -> Batch:
    return collate([make_sample(i, labelled=labelled, hidden=not labelled, side=side) for i in indices])


def train_batch(first: int = 0, count: int = 2) -> dict[str, Batch]:
    """Labelled and unlabelled images, no two alike."""
    places = range(first, first + count)
    return {
        "labelled": make_batch(*places),
        "unlabelled": make_batch(*(100 + i for i in places), labelled=False),
    }


def make_task(recipe: str | Recipe = "sound", **more: Any) -> S4Gan:
    """A task over the small backbone with its networks built; GroupNorm and no dropout by default."""
    chosen = RECIPES[recipe] if isinstance(recipe, str) else recipe
    settings: dict[str, Any] = {
        "generator": GeneratorSpec(norm="group", width=16, dropout=0.0),
        "discriminator": DiscriminatorSpec(ndf=4),
        "rates": Rates(lr_generator=1e-2, lr_discriminator=1e-3),
        "iterations": 6,
        "evaluate_every": 2,
    }
    task = S4Gan(chosen, **{**settings, **more})
    task.bind(categories=CLASSES)
    return task


class Images(Dataset[Sample]):
    def __init__(self, keys: list[int], labelled: bool) -> None:
        self.keys, self.labelled = keys, labelled

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, place: int) -> Sample:
        return make_sample(self.keys[place], labelled=self.labelled, hidden=not self.labelled)


class Batches:
    """Keys of so many batches, from where the trainer stands; ranks share each batch."""

    def __init__(self, module: SyntheticStreams) -> None:
        self.module = module

    def __len__(self) -> int:
        return self.module.iterations

    def __iter__(self) -> Iterator[list[int]]:
        trainer = self.module.trainer
        assert trainer is not None
        for iteration in range(self.module.done(), self.module.iterations):
            order = torch.randperm(4, generator=torch.Generator().manual_seed(iteration)).tolist()
            yield order[trainer.global_rank :: trainer.world_size]


class SyntheticStreams(LightningDataModule):
    """Labelled and unlabelled streams, validation and fixed training images."""

    def __init__(self, iterations: int, unlabelled: bool = True) -> None:
        super().__init__()
        self.iterations, self.unlabelled = iterations, unlabelled

    def done(self) -> int:
        assert self.trainer is not None
        progress = self.trainer.fit_loop.epoch_loop.batch_progress.current
        epoch = self.trainer.fit_loop.epoch_progress.current
        return progress.processed if epoch.ready > epoch.processed else 0

    def _stream(self, first: int, labelled: bool) -> DataLoader[Sample]:
        images = Images(list(range(first, first + 4)), labelled)
        return DataLoader(images, batch_sampler=Batches(self), collate_fn=collate)  # type: ignore[arg-type]

    def train_dataloader(self) -> CombinedLoader:
        loaders = {"labelled": self._stream(0, True)}
        if self.unlabelled:
            loaders["unlabelled"] = self._stream(100, False)
        return CombinedLoader(loaders, "min_size")

    def _plain(self, *keys: int) -> DataLoader[Sample]:
        return DataLoader(Images(list(keys), True), batch_size=2, collate_fn=collate)

    def val_dataloader(self) -> DataLoader[Sample]:
        return self._plain(200, 201, 202)

    def fixed_train_loader(self) -> DataLoader[Sample]:
        return self._plain(0, 1, 2)


def doubled(batch: Batch) -> Batch:
    """The batch in float64."""
    return replace(batch, images=batch.images.double())


def gradients(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
