"""Faults of the data: samples change on their way from the dataset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from lightning import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import Dataset

from maskwell.callbacks.faults.base import Fault, replace_method
from maskwell.data.sample import IGNORE, InputSpec, Prompt, Sample

Key = int | tuple[int, int]


class Spoilt(Dataset[Sample]):
    """A dataset whose samples go through ``change(sample, index)``; all else is the dataset's own."""

    def __init__(self, dataset: Any, change: Callable[[Sample, int], Sample]) -> None:
        self.dataset, self.change = dataset, change

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> Sample:
        return self.change(self.dataset[key], key[1] if isinstance(key, tuple) else key)

    def __getattr__(self, name: str) -> Any:
        if name == "dataset":  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)


class SampleFault(Fault):
    """Changes samples of ``splits``; there from the beginning, like a mistake in a data pipeline."""

    splits: ClassVar[tuple[str, ...]] = ("train",)
    spec: InputSpec

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stand between the data module's datasets and whoever asks for them."""
        data: Any = getattr(trainer, "datamodule", None)
        self.spec = pl_module.input_spec  # type: ignore[assignment]
        give = data.dataset
        made: dict[str, Spoilt] = {}

        def dataset(split: str) -> Any:
            if split not in self.splits:
                return give(split)
            if split not in made:
                made[split] = Spoilt(give(split), self.spoil)
            return made[split]

        replace_method(data, "dataset", dataset)
        if "train" in self.splits and hasattr(data, "unlabelled_dataset"):
            more = data.unlabelled_dataset
            replace_method(data, "unlabelled_dataset", lambda: Spoilt(more(), self.spoil))

    def spoil(self, sample: Sample, index: int) -> Sample:
        """The sample of this index as the fault leaves it."""
        raise NotImplementedError


class EmptyTargets(SampleFault):
    """A ``severity`` share of the training samples has lost its targets."""

    def spoil(self, sample: Sample, index: int) -> Sample:
        return without_targets(sample) if self.hit(self.severity, index) else sample


class NoObjects(SampleFault):
    """No sample of any split has an object, as when the ids of images and annotations do not meet."""

    splits = ("train", "val")

    def spoil(self, sample: Sample, index: int) -> Sample:
        return without_targets(sample)


class Stretched(SampleFault):
    """Images were normalised with a standard deviation that is ``severity`` times too small."""

    splits = ("train", "val")

    def spoil(self, sample: Sample, index: int) -> Sample:
        return replace(sample, image=sample.image * self.severity)


class RawBytes(SampleFault):
    """Images are numbers from 0 to ``severity`` (255) that nobody normalised."""

    splits = ("train", "val")

    def spoil(self, sample: Sample, index: int) -> Sample:
        mean, std = (sample.image.new_tensor(v)[:, None, None] for v in (self.spec.mean, self.spec.std))
        return replace(sample, image=(sample.image * std + mean) * self.severity)


class ShiftedValidation(SampleFault):
    """Images of validation alone are brighter by ``severity`` standard deviations."""

    splits = ("val",)

    def spoil(self, sample: Sample, index: int) -> Sample:
        return replace(sample, image=sample.image + self.severity)


class SwappedBoxes(SampleFault):
    """A ``severity`` share of the samples has (centre, size) where the corners of boxes should be."""

    def spoil(self, sample: Sample, index: int) -> Sample:
        if not len(sample.boxes) or not self.hit(self.severity, index):
            return sample
        low, high = sample.boxes[:, :2], sample.boxes[:, 2:]
        return replace(sample, boxes=torch.cat([(low + high) / 2, high - low], 1))


class PixelBoxes(SampleFault):
    """Boxes are in pixels of an image of ``severity`` px instead of shares."""

    def spoil(self, sample: Sample, index: int) -> Sample:
        return replace(sample, boxes=sample.boxes * self.severity)


class ShiftedLabels(SampleFault):
    """Class numbers of training are ``severity`` too high, the last ones wrapping round."""

    classes: int

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self.classes = len(pl_module.categories)  # type: ignore[arg-type]

    def spoil(self, sample: Sample, index: int) -> Sample:
        by = int(self.severity)
        changed = replace(
            sample,
            labels=(sample.labels + by) % self.classes,
            prompts=rolled_prompts(sample.prompts, by),
        )
        if sample.semantic is None:
            return changed
        kept = sample.semantic == IGNORE
        return replace(
            changed, semantic=torch.where(kept, sample.semantic, (sample.semantic + by) % self.classes)
        )


class NoisyLabels(SampleFault):
    """A ``severity`` share of what training says is wrong: classes, pixels, places or answers."""

    classes: int

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self.classes = len(pl_module.categories)  # type: ignore[arg-type]

    def spoil(self, sample: Sample, index: int) -> Sample:
        random = self.random(index)
        wrong = torch.from_numpy(random.random(len(sample.labels)) < self.severity)
        classes = torch.from_numpy(random.integers(0, self.classes, len(sample.labels)))
        changed = replace(sample, labels=torch.where(wrong, classes, sample.labels))
        if sample.points is not None:
            places = torch.from_numpy(random.random((len(sample.points), 2))).to(sample.points)
            changed = replace(changed, points=torch.where(wrong[:, None], places, sample.points))
        if random.random() < self.severity:
            changed = replace(changed, prompts=rolled_prompts(sample.prompts, 1))
        if sample.semantic is not None:
            changed = replace(changed, semantic=self._pixels(sample.semantic, random))
        return changed

    def _pixels(self, labels: Tensor, random: np.random.Generator) -> Tensor:
        shape = tuple(labels.shape)
        wrong = torch.from_numpy(random.random(shape) < self.severity) & (labels != IGNORE)
        return torch.where(wrong, torch.from_numpy(random.integers(0, self.classes, shape)), labels)


class BadPixels(SampleFault):
    """A ``severity`` share of the training images, and one of them at least, holds a NaN."""

    length: int

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self.length = len(trainer.datamodule.dataset("train"))  # type: ignore[attr-defined]

    def spoil(self, sample: Sample, index: int) -> Sample:
        certain = int(self.random().integers(self.length))
        if index != certain and not self.hit(self.severity, index):
            return sample
        image = sample.image.clone()
        image[0, 0, 0] = torch.nan
        return replace(sample, image=image)

    def batch_starts(self, trainer: Trainer, module: LightningModule, batch: Any) -> None:
        parts = batch.values() if isinstance(batch, dict) else [batch]
        if any(bool(part.images.isnan().any()) for part in parts):
            self.act()


def without_targets(sample: Sample) -> Sample:
    """The same image where nothing is marked."""

    def none(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[:0]

    return replace(
        sample,
        boxes=sample.boxes[:0],
        labels=sample.labels[:0],
        masks=none(sample.masks),
        points=none(sample.points),
        iscrowd=none(sample.iscrowd),
        area=none(sample.area),
        semantic=None if sample.semantic is None else torch.full_like(sample.semantic, IGNORE),
        prompts=tuple(replace(prompt, objects=()) for prompt in sample.prompts),
    )


def rolled_prompts(prompts: tuple[Prompt, ...], by: int) -> tuple[Prompt, ...]:
    """Each phrase with the objects of the one ``by`` places before it; the phrases stay."""
    objects = [prompt.objects for prompt in prompts]
    count = max(1, len(objects))
    return tuple(replace(p, objects=objects[(i - by) % count]) for i, p in enumerate(prompts))
