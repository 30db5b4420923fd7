"""The one LightningDataModule of the house, over any :class:`~maskwell.data.source.Source`."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from lightning import LightningDataModule
from torch.utils.data import DataLoader, Sampler

from maskwell.data.dataset import SampleDataset
from maskwell.data.prompts import PromptPolicy
from maskwell.data.rehearsal import AUTO_SCENES, RehearsalSampler, Rehearsed, rehearsal_scenes
from maskwell.data.sample import Batch, InputSpec, Sample, collate
from maskwell.data.sampler import EvalSampler, Key, TrainSampler
from maskwell.data.source import SPLITS, Source, Split
from maskwell.data.transforms import Augmentation
from maskwell.data.unlabelled import Unlabelled
from maskwell.errors import UserError

_WORKER_GRACE = 30
"""Seconds for which a loader worker outlives SIGTERM, so that the training can finish its batch."""


@dataclass(frozen=True)
class DataSummary:
    """What the start-up print shows.

    ``images`` and ``objects`` per split as they lie on disk (None where they are generated),
    ``samples`` per epoch; ``first_samples`` and ``first_batches``: their objects, as training sees them;
    ``rehearsal``: generated scenes beside each batch, which are not counted among the samples;
    ``labelled`` and ``unlabelled``: images of each, where training tells them apart.
    """

    images: dict[Split, int]
    samples: dict[Split, int]
    objects: dict[Split, int | None]
    categories: tuple[str, ...]
    first_samples: tuple[int, ...]
    first_batches: tuple[int, ...]
    rehearsal: int = 0
    labelled: int | None = None
    unlabelled: int | None = None


class BatchLoader(DataLoader[Sample]):
    """A DataLoader whose workers pass on a UserError as the sentence that it is.

    torch wraps the error of a worker in the text of its traceback, which is not for people.

    Where gradients are accumulated, the first batch of each optimiser step knows the others (see
    :attr:`Batch.accumulated`).
    """

    ahead: Callable[[], Iterator[int]] | None = None
    """How many batches each optimiser step takes, asked when the first batch is; None: one."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        try:
            batches = super().__iter__()
            for number in self.ahead() if self.ahead is not None else ():
                together = tuple(itertools.islice(batches, number))
                if together:
                    together[0].accumulated = together
                for batch in together:
                    yield batch
                    batch.accumulated = ()  # a cycle, which would keep the images
            yield from batches
        except UserError as error:
            sentence = str(error).rpartition(f"{UserError.__module__}.{UserError.__qualname__}: ")[2]
            raise UserError(sentence.strip()) from error


class DataModule(LightningDataModule):
    """Loaders over a source. Everything random is a function of (seed, epoch, index).

    ``bind`` must be called with the task's input specification before ``setup``. Needs
    ``Trainer(use_distributed_sampler=False)``: ranks are shared out here.

    Args:
        source: where the records come from.
        batch_size: samples of a training batch on one rank.
        num_workers: loader processes; 0 loads in the training process.
        seed: of order, windows, augmentation and negatives.
        eval_batch_size: samples of a validation or test batch; the training one if None.
        prompts: which phrases are asked; None for models without prompts.
        augment: of training samples; None for none.
        crop: side of training windows and evaluation tiles in file pixels; None for whole images.
        min_visible: objects of which a smaller share lies in a window are dropped.
        limit_train: use this many training images only, a seeded choice.
        rehearsal: generated scenes beside each training batch, against forgetting; ``auto``: two where
            the base was pretrained on such scenes, else none.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int = 4,
        num_workers: int = 0,
        seed: int = 0,
        eval_batch_size: int | None = None,
        prompts: PromptPolicy | None = None,
        augment: Augmentation | None = None,
        crop: int | None = None,
        min_visible: float = 0.25,
        limit_train: int | None = None,
        rehearsal: int | Literal["auto"] | None = None,
    ) -> None:
        super().__init__()
        if rehearsal not in ("auto", None) and not (isinstance(rehearsal, int) and rehearsal >= 0):
            raise UserError(f"data.rehearsal={rehearsal}: give auto, null or a number of scenes.")
        if num_workers < 0:
            raise UserError(f"data.num_workers={num_workers}: give 0 (load in the training process) or more.")
        if batch_size < 1:
            raise UserError(f"data.batch_size={batch_size}: a batch has at least one sample.")
        self.allow_zero_length_dataloader_with_multiple_devices = True  # fewer test images than ranks
        self.source = source
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.eval_batch_size = eval_batch_size or batch_size
        self.prompts = prompts
        self.augment = augment
        self.crop = crop
        self.min_visible = min_visible
        self.limit_train = limit_train
        self.rehearsal = rehearsal
        self.needs_unlabelled = False
        self.pointwise = False
        self._scenes = 0
        self._spec: InputSpec | None = None
        self._datasets: dict[Split, SampleDataset] = {}

    def bind(
        self,
        input_spec: InputSpec,
        *,
        promptable: bool = False,
        knows_scenes: bool = False,
        unlabelled: bool = False,
        pointwise: bool = False,
    ) -> None:
        """Take the geometry and normalisation of the network that will eat the batches.

        Args:
            promptable: whether it answers phrases, as generated scenes ask them.
            knows_scenes: whether it was pretrained on generated scenes.
            unlabelled: whether it trains on unlabelled images too.
            pointwise: whether it finds points, one for each object.

        Raises:
            UserError: rehearsal of scenes is asked for and the network answers no phrases.
        """
        self._spec = input_spec
        self.needs_unlabelled = unlabelled
        self.pointwise = pointwise
        self._datasets = {}
        self._scenes = (AUTO_SCENES * knows_scenes) if self.rehearsal == "auto" else int(self.rehearsal or 0)
        if self._scenes and not promptable:
            raise UserError(
                f"data.rehearsal={self.rehearsal}: generated scenes ask phrases, which only promptable "
                "models answer; set data.rehearsal=null."
            )

    @property
    def categories(self) -> tuple[str, ...]:
        """Category names in the order of the labels; known after ``setup``."""
        return self.source.categories

    @property
    def category_ids(self) -> tuple[int, ...]:
        """Ids of the categories in the files, in the order of the labels."""
        return self.source.category_ids

    def setup(self, stage: str | None = None) -> None:
        """Read the index; raises UserError where the data cannot be used."""
        self.source.setup()
        points_only = getattr(self.source, "points_only", 0)
        if points_only and not self.pointwise:
            raise UserError(
                f"{points_only} objects of the data are points without box or mask, from which only "
                "model=points learns; choose it, or give them boxes or masks."
            )
        if self.prompts is not None:
            self.prompts.check(self.categories)

    def dataset(self, split: Split) -> SampleDataset:
        """Map-style dataset of :class:`Sample`; its keys are (epoch, index), or index in epoch 0."""
        if self._spec is None:
            raise RuntimeError("DataModule.bind(input_spec) comes before its datasets.")
        if split not in self._datasets:
            self._datasets[split] = SampleDataset(
                self.source,
                split,
                self._spec,
                self.seed,
                prompts=self.prompts,
                augment=self.augment,
                crop=self.crop,
                min_visible=self.min_visible,
                limit=self.limit_train if split == "train" else None,
                pointwise=self.pointwise,
            )
        return self._datasets[split]

    def train_dataloader(self) -> DataLoader[Sample]:
        """Shuffled batches; goes on in mid-epoch where the trainer was resumed there."""
        dataset = self.dataset("train")
        if self.needs_unlabelled:
            raise UserError(
                "The model trains on unlabelled images too, which this data does not tell apart: use "
                "data=semi, or a recipe without them (model/recipe=supervised)."
            )
        if len(dataset) == 0:
            raise UserError("The training split holds no images; check the data folder and its splits.")
        rank, world_size = self._ranks()
        fixed = self._overfits()
        sampler = TrainSampler(
            len(dataset),
            self.batch_size,
            self.seed,
            rank=rank,
            world_size=world_size,
            shuffle=not fixed,
            position=(lambda: (0, 0)) if fixed else self._position,
        )
        if self._scenes:
            scenes = rehearsal_scenes(dataset.spec, self.seed)
            loader = self._loader(Rehearsed(dataset, scenes), RehearsalSampler(sampler, self._scenes))
        else:
            loader = self._loader(dataset, sampler)
        loader.ahead = self._accumulated
        return loader

    def val_dataloader(self) -> DataLoader[Sample]:
        """Every validation sample once, over all ranks."""
        return self._eval_loader("val")

    def test_dataloader(self) -> DataLoader[Sample]:
        """Every test sample once, over all ranks."""
        return self._eval_loader("test")

    def summary(self, batches: int = 4) -> DataSummary:
        """Counts for the start-up print; builds the first ``batches`` training batches."""
        train = self.dataset("train")
        sampler = TrainSampler(len(train), self.batch_size, self.seed)
        keys = [batch for batch, _ in zip(sampler, range(batches), strict=False)]
        counts = [[len(train[key].labels) for key in batch] for batch in keys]
        return DataSummary(
            images={split: self.source.size(split) for split in SPLITS},
            samples={split: len(self.dataset(split)) for split in SPLITS},
            objects={split: self.source.num_objects(split) for split in SPLITS},
            categories=self.categories,
            first_samples=tuple(count for batch in counts for count in batch),
            first_batches=tuple(sum(batch) for batch in counts),
            rehearsal=self._scenes,
        )

    def split_lists(self) -> dict[str, list[str]]:
        """File names per split, to be kept in the run folder; empty where images are generated."""
        return self.source.split_lists()

    def fingerprint(self) -> dict[str, object]:
        """State of the data for the run record."""
        images = {split: self.source.size(split) for split in SPLITS}
        return {"digest": self.source.fingerprint(), "images": images, "categories": list(self.categories)}

    def _eval_loader(self, split: Split) -> DataLoader[Sample]:
        rank, world_size = self._ranks()
        dataset = self.dataset(split)
        sampler = EvalSampler(len(dataset), self.eval_batch_size, rank=rank, world_size=world_size)
        return self._loader(dataset, sampler)

    def _loader(
        self,
        dataset: SampleDataset | Rehearsed | Unlabelled,
        sampler: Sampler[list[Key]],
        num_workers: int | None = None,
    ) -> BatchLoader:
        workers = self.num_workers if num_workers is None else num_workers
        return BatchLoader(
            dataset,
            batch_sampler=sampler,
            num_workers=workers,
            collate_fn=partial(collate_samples, padding=dataset.spec.padding),
            persistent_workers=workers > 0,
            worker_init_fn=_leave_signals_to_training,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
        )

    def _ranks(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _overfits(self) -> bool:
        """Whether the trainer overfits on a few batches, which have to be the same in every epoch."""
        return getattr(self.trainer, "overfit_batches", 0) > 0

    def _accumulated(self) -> Iterator[int]:
        """How many batches each optimiser step takes, from the position on."""
        together = 1 if self.trainer is None else self.trainer.accumulate_grad_batches
        if self.trainer is None or together < 2:
            return
        _, done = self._position()
        while done < self.trainer.num_training_batches:
            end = min(done - done % together + together, self.trainer.num_training_batches)
            yield int(end) - done
            done = int(end)

    def _position(self) -> tuple[int, int]:
        """(epoch, finished batches of it) that the trainer has reached.

        Lightning restores its counters on resume but would replay the epoch's first batches.
        """
        if self.trainer is None:
            return 0, 0
        loop = self.trainer.fit_loop
        epoch: Any = loop.epoch_progress.current
        batch: Any = loop.epoch_loop.batch_progress.current
        return epoch.processed, batch.processed if epoch.ready > epoch.processed else 0


def _leave_signals_to_training(_: int) -> None:
    """Ctrl-C and a queue's signals reach every process of the program; the training decides when workers end.

    SIGTERM still ends a worker, later: torch ends those so that do not answer.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGALRM"):
        for number in (signal.SIGUSR1, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_WORKER_GRACE))


def collate_samples(samples: list[Sample], padding: dict[str, int]) -> Batch:
    """Picklable form of :func:`~maskwell.data.sample.collate` for worker processes."""
    return collate(samples, **padding)
