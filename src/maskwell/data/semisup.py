"""Labelled and unlabelled images as two streams of one training, for runs counted in iterations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader

from maskwell.data.datamodule import DataModule, DataSummary
from maskwell.data.dataset import SampleDataset
from maskwell.data.label_choice import LabelChoice, choose_labelled, unlabelled_images
from maskwell.data.sample import InputSpec, Sample
from maskwell.data.sampler import EvalSampler, IterationSampler
from maskwell.data.semantic import SemanticSource
from maskwell.data.source import SPLITS, FileSource, Split
from maskwell.data.transforms import Augmentation
from maskwell.data.unlabelled import Unlabelled, UnlabelledFolder
from maskwell.errors import UserError

FIXED_IMAGES = 32
"""Labelled images that the training mIoU is measured on."""


class SemiSupervisedData(DataModule):
    """Streams ``labelled`` and ``unlabelled`` over the training split of a semantic source.

    A training batch is ``{"labelled": Batch}`` or, where the task uses unlabelled images,
    ``{"labelled": Batch, "unlabelled": Batch}``. Both streams are functions of (seed, iteration, rank),
    and the labelled one is the same with and without the other. Labels of unlabelled images lie in
    ``Sample.hidden``. An unlabelled image is never one that is validated or tested on, nor of its group.

    Args:
        source: where the records come from.
        iterations: batches of the whole training, which is one epoch of the trainer.
        choice: which training images are labelled.
        unlabelled_root: a folder of images without labels, used instead of the rest of the training images.
        near_duplicates: leave out of that folder what shows nearly the same as an evaluated image.
        batch_size: labelled images of a batch on one rank; ``unlabelled_batch_size``: unlabelled ones, as
            many if None.
        num_workers, seed, eval_batch_size, augment, crop: as in
            :class:`~maskwell.data.datamodule.DataModule`; the workers are those of one stream.
    """

    source: FileSource

    def __init__(
        self,
        source: FileSource,
        iterations: int | None,
        choice: LabelChoice,
        unlabelled_root: str | None = None,
        near_duplicates: bool = True,
        batch_size: int = 4,
        unlabelled_batch_size: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
        eval_batch_size: int | None = None,
        augment: Augmentation | None = None,
        crop: int | None = None,
    ) -> None:
        super().__init__(source, batch_size, num_workers, seed, eval_batch_size, augment=augment, crop=crop)
        if unlabelled_root is not None and choice != LabelChoice(how=choice.how):
            raise UserError(
                "data.unlabelled_root is set, so that every training image of data.root is labelled; leave "
                "out data.labelled and data.labelled_list."
            )
        if unlabelled_batch_size is not None and unlabelled_batch_size < 1:
            raise UserError(
                f"data.unlabelled_batch_size={unlabelled_batch_size}: give 1 or more, or null for as many as "
                "data.batch_size."
            )
        self.iterations = iterations
        self.choice = choice
        self.unlabelled_root = unlabelled_root
        self.near_duplicates = near_duplicates
        self.unlabelled_batch_size = unlabelled_batch_size
        self._checked = False

    @cached_property
    def labelled(self) -> list[int]:
        """Indices of the labelled images in the training split."""
        return choose_labelled(self.source.files("train"), self.choice, self.seed)

    @cached_property
    def unlabelled(self) -> list[int]:
        """Indices of the unlabelled images, in the training split or in the second folder."""
        if self._folder is not None:
            return list(range(self._folder.size("train")))
        return unlabelled_images(self.source, self.labelled)

    @cached_property
    def _folder(self) -> UnlabelledFolder | None:
        if self.unlabelled_root is None:
            return None
        evaluated = [file.path for file in (*self.source.files("val"), *self.source.files("test"))]
        return UnlabelledFolder(self.unlabelled_root, evaluated, self.near_duplicates)

    def _check_masks(self) -> None:
        """Read every mask that training and evaluation rely on, so that no bad one stops a run later."""
        source = self.source
        if isinstance(source, SemanticSource) and not self._checked:
            source.check("train", self.labelled)
            source.check("val", range(source.size("val")))
            source.check("test", range(source.size("test")))
        self._checked = True

    def setup(self, stage: str | None = None) -> None:
        """Choose the labelled images and look at what is used.

        Raises:
            UserError: the choice cannot be met, a mask is unusable, or the task needs unlabelled images and
                there is none.
        """
        super().setup(stage)
        self._check_masks()
        if self._folder is not None:
            self._folder.setup()
        if self.needs_unlabelled and not self.unlabelled:
            raise UserError(self._none_unlabelled())

    def _none_unlabelled(self) -> str:
        rest = len(self.source.files("train")) - len(self.labelled)
        why = (
            f"the other {rest} training images belong to groups that are validated or tested on"
            if rest
            else f"all {len(self.labelled)} training images are labelled"
        )
        return (
            f"There is no unlabelled image: {why}; set data.labelled=0.125 or data.unlabelled_root, or train "
            "with the labels alone (model/recipe=supervised)."
        )

    def dataset(self, split: Split) -> SampleDataset:
        """As in any data; of the training split, the labelled images."""
        if split == "train" and split not in self._datasets:
            self._datasets[split] = self._training(self.source, self.seed, self.labelled)
        return super().dataset(split)

    def unlabelled_dataset(self) -> Unlabelled:
        """The unlabelled images, augmented as the labelled ones, by random numbers of their own."""
        seed = int(np.random.SeedSequence([self.seed, 1]).generate_state(1)[0])
        source = self._folder or self.source
        return Unlabelled(self._training(source, seed, self.unlabelled, around_objects=False))

    def _training(
        self, source: Any, seed: int, images: Sequence[int], around_objects: bool = True
    ) -> SampleDataset:
        return SampleDataset(
            source,
            "train",
            self.input_spec,
            seed,
            augment=self.augment,
            crop=self.crop,
            images=images,
            around_objects=around_objects,
        )

    def train_dataloader(self) -> CombinedLoader:  # type: ignore[override]
        """The streams; they go on in mid-run where the trainer was resumed there."""
        labelled = self.dataset("train")
        loaders = {"labelled": self._loader(labelled, self._stream(len(labelled), self.batch_size, 0))}
        if self.needs_unlabelled:
            unlabelled = self.unlabelled_dataset()
            size = self.unlabelled_batch_size or self.batch_size
            loaders["unlabelled"] = self._loader(unlabelled, self._stream(len(unlabelled), size, 1))
        return CombinedLoader(loaders, "min_size")

    def _stream(self, size: int, batch_size: int, stream: int) -> IterationSampler:
        if self.iterations is None:
            raise UserError(
                "data=semi is for runs that are counted in iterations: choose model=s4gan, or set "
                "data.iterations."
            )
        rank, world_size = self._ranks()
        fixed = self._overfits()
        return IterationSampler(
            size,
            batch_size,
            self.iterations,
            self.seed,
            stream=stream,
            rank=rank,
            world_size=world_size,
            shuffle=not fixed,
            position=(lambda: (0, 0)) if fixed else self._position,
        )

    def fixed_train_loader(self) -> DataLoader[Sample]:
        """Up to 32 labelled images, the same ones always, as in validation: whole and with truth."""
        count = min(FIXED_IMAGES, len(self.labelled))
        images = [self.labelled[i * len(self.labelled) // count] for i in range(count)]
        dataset = SampleDataset(
            self.source, "train", self.input_spec, self.seed, crop=self.crop, images=images, training=False
        )
        rank, world_size = self._ranks()
        sampler = EvalSampler(len(dataset), self.eval_batch_size, rank=rank, world_size=world_size)
        return self._loader(dataset, sampler, num_workers=0)

    def split_lists(self) -> dict[str, list[str]]:
        """Also the names of the labelled and the unlabelled images."""
        names = self.source.split_lists()
        others = names["train"] if self._folder is None else self._folder.split_lists()["train"]
        return {
            **names,
            "labelled": [names["train"][i] for i in self.labelled],
            "unlabelled": [others[i] for i in self.unlabelled],
        }

    def fingerprint(self) -> dict[str, object]:
        """Also of the second folder."""
        found = super().fingerprint()
        return found if self._folder is None else {**found, "unlabelled": self._folder.fingerprint()}

    def summary(self, batches: int = 4) -> DataSummary:
        """Counts for the start-up print; there are no objects to count."""
        return DataSummary(
            images={split: self.source.size(split) for split in SPLITS},
            samples={split: len(self.dataset(split)) for split in SPLITS},
            objects=dict.fromkeys(SPLITS),
            categories=self.categories,
            first_samples=(),
            first_batches=(),
            labelled=len(self.labelled),
            unlabelled=len(self.unlabelled) if self.needs_unlabelled else 0,
        )

    @property
    def input_spec(self) -> InputSpec:
        """Geometry and normalisation of the task that was bound."""
        if self._spec is None:
            raise RuntimeError("DataModule.bind(input_spec) comes before its datasets.")
        return self._spec
