"""From records to samples: window, augmentation, network geometry, prompts and ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch.utils.data import Dataset

from maskwell.data import rle
from maskwell.data.prompts import PromptPolicy, phrase_prompts
from maskwell.data.sample import InputSpec, Prompt, Sample, Truth
from maskwell.data.sampler import Key
from maskwell.data.source import SPLITS, Record, Source, Split, Window
from maskwell.data.transforms import Augmentation, to_sample
from maskwell.data.windows import random_window, tiles

NO_BOXES = np.zeros((0, 4), np.float32)


class SampleDataset(Dataset[Sample]):
    """Samples of one split; item (epoch, index) is a pure function of the seed and this key.

    An int is the key (0, index). Training items are cropped and augmented at random and carry no
    truth; the others are whole images or, with ``crop``, tiles that cover them.

    Args:
        source: where records come from; ``split``: which of them.
        spec: geometry and normalisation of the network.
        seed: of windows, augmentation and negatives.
        prompts: phrases to ask, or None for models without prompts.
        augment: for the training split.
        crop: side of the windows in file pixels, None for whole images.
        min_visible: objects of which a smaller share lies in the window are dropped.
        limit: use only this many images, a seeded choice.
        images: use only these images, by their index in the split.
        training: cropped and augmented at random, without truth; whether it is the training split if None.
        around_objects: nine in ten training windows hold an object; False: they lie anywhere, as they must
            where labels may not be used.
        pointwise: give samples and truth a point per object.
    """

    def __init__(
        self,
        source: Source,
        split: Split,
        spec: InputSpec,
        seed: int,
        prompts: PromptPolicy | None = None,
        augment: Augmentation | None = None,
        crop: int | None = None,
        min_visible: float = 0.25,
        limit: int | None = None,
        images: Sequence[int] | None = None,
        training: bool | None = None,
        around_objects: bool = True,
        pointwise: bool = False,
    ) -> None:
        self.training = split == "train" if training is None else training
        self.source = source
        self.split = split
        self.spec = spec
        self.seed = seed
        self.prompts = prompts
        self.augment = augment if self.training else None
        self.crop = crop
        self.min_visible = min_visible
        self.around_objects = around_objects
        self.pointwise = pointwise
        self.images = list(range(source.size(split)) if images is None else images)
        if limit is not None and limit < len(self.images):
            chosen = np.random.default_rng(seed).permutation(len(self.images))[:limit]
            self.images = [self.images[i] for i in sorted(chosen)]
        self.items = self._items()

    def _items(self) -> list[tuple[int, Window | None]]:
        """(image, fixed window) of each sample; training windows are chosen anew each epoch."""
        if self.crop is None or self.training:
            return [(image, None) for image in self.images]
        crop = self.crop
        return [
            (i, window) for i in self.images for window in tiles(self.source.image_size(self.split, i), crop)
        ]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: int | Key) -> Sample:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        rng = np.random.default_rng([self.seed, SPLITS.index(self.split), epoch, index])
        image, window = self.items[index]
        if self.training and self.crop is not None:
            size = self.source.image_size(self.split, image)
            boxes = self.source.objects(self.split, image) if self.around_objects else NO_BOXES
            window = random_window(size, boxes, self.crop, rng)
        record = self.source.read(self.split, image, epoch, window)
        record = record.select((record.visible >= self.min_visible) | record.iscrowd)
        if self.augment is not None:
            # 0 once it is normalised, as the padding of batches
            record = self.augment(record, int(rng.integers(2**32)), self.spec.mean)
        sample = to_sample(record, self.spec, self.pointwise)
        truth = None if self.training else truth_of(record, self.pointwise)
        return replace(sample, prompts=self._prompts(record, rng), truth=truth)

    def _prompts(self, record: Record, rng: np.random.Generator) -> tuple[Prompt, ...]:
        targets = record.select(~record.iscrowd)
        if targets.phrases is not None:
            return phrase_prompts(targets.phrases)
        if self.prompts is None:
            return ()
        labels = [int(label) for label in targets.labels]
        if not self.training:
            return self.prompts.evaluation(labels, self.source.categories)
        crowds = {int(label) for label in record.labels[record.iscrowd]}
        return self.prompts.training(labels, self.source.categories, rng, unsure=crowds)


def truth_of(record: Record, pointwise: bool = False) -> Truth:
    """Ground truth of a record that was not augmented, in its window's pixels, crowds included.

    ``pointwise``: with a point per object that is no crowd.
    """
    height, width = record.image.shape[:2]
    semantic = None
    if record.semantic is not None:
        semantic = torch.from_numpy(record.semantic.astype(np.int64))
    return Truth(
        size=(height, width),
        boxes=torch.from_numpy(record.boxes),
        labels=torch.from_numpy(record.labels),
        iscrowd=torch.from_numpy(record.iscrowd),
        area=torch.from_numpy(record.area),
        rles=None if record.masks is None else rle.encode(record.masks),
        semantic=semantic,
        points=torch.from_numpy(record.select(~record.iscrowd).points()) if pointwise else None,
    )
