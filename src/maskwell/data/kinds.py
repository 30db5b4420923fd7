"""The kinds of data that ``conf/data`` names: each makes a DataModule from plain settings.

The arguments that all kinds share are those of :class:`~maskwell.data.datamodule.DataModule`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from maskwell.data.coco import CocoSource
from maskwell.data.datamodule import DataModule
from maskwell.data.generated import ScenesSource
from maskwell.data.label_choice import LabelChoice
from maskwell.data.prompts import PromptPolicy
from maskwell.data.scenes import MIN_DIAMETER
from maskwell.data.semantic import CocoSemanticSource, SemanticSource
from maskwell.data.semisup import SemiSupervisedData
from maskwell.data.synthetic import cached_cells
from maskwell.data.transforms import Augmentation


def coco(
    root: str,
    images: str | None = None,
    train: str | None = None,
    val: str | None = None,
    test: str | None = None,
    val_split: float = 0.2,
    test_split: float = 0.1,
    group_key: str = "group",
    near_duplicates: bool = True,
    semantic: bool = False,
    batch_size: int = 4,
    num_workers: int = 0,
    seed: int = 0,
    eval_batch_size: int | None = None,
    prompts: PromptPolicy | None = None,
    augment: Augmentation | None = None,
    crop: int | None = None,
    min_visible: float = 0.25,
    limit_train: int | None = None,
    rehearsal: int | Literal["auto"] | None = "auto",
    objects: Sequence[int | None] | None = None,
) -> DataModule:
    """A COCO folder (``data=coco``), as instances or, with ``semantic``, as classes.

    ``objects``: fewest and most objects of the images that are used.
    """
    make = CocoSemanticSource if semantic else CocoSource
    source = make(
        root, images, train, val, test, val_split, test_split, group_key, near_duplicates, seed, objects
    )
    return DataModule(
        source,
        batch_size,
        num_workers,
        seed,
        eval_batch_size,
        prompts,
        augment,
        crop,
        min_visible,
        limit_train,
        rehearsal,
    )


def semantic(
    root: str,
    ignore: int | None = None,
    val_split: float = 0.2,
    test_split: float = 0.1,
    near_duplicates: bool = True,
    batch_size: int = 4,
    num_workers: int = 0,
    seed: int = 0,
    eval_batch_size: int | None = None,
    augment: Augmentation | None = None,
    crop: int | None = None,
    min_visible: float = 0.25,
    limit_train: int | None = None,
    group_pattern: str | None = None,
) -> DataModule:
    """Images with index masks (``data=semantic``)."""
    source = SemanticSource(root, ignore, val_split, test_split, near_duplicates, seed, group_pattern)
    return DataModule(
        source, batch_size, num_workers, seed, eval_batch_size, None, augment, crop, min_visible, limit_train
    )


def semi(
    root: str,
    iterations: int | None,
    coco: bool = False,
    labelled: float | None = None,
    labelled_list: str | None = None,
    labelled_choice: Literal["even", "random"] = "even",
    unlabelled_root: str | None = None,
    ignore: int | None = None,
    val_split: float = 0.2,
    test_split: float = 0.1,
    group_pattern: str | None = None,
    group_key: str = "group",
    near_duplicates: bool = True,
    batch_size: int = 4,
    unlabelled_batch_size: int | None = None,
    num_workers: int = 0,
    seed: int = 0,
    eval_batch_size: int | None = None,
    augment: Augmentation | None = None,
    crop: int | None = None,
) -> SemiSupervisedData:
    """Labelled and unlabelled images with classes (``data=semi``), from index masks or a COCO folder."""
    source: SemanticSource | CocoSemanticSource
    if coco:
        source = CocoSemanticSource(
            root,
            val_split=val_split,
            test_split=test_split,
            group_key=group_key,
            near_duplicates=near_duplicates,
            seed=seed,
        )
    else:
        source = SemanticSource(
            root, ignore, val_split, test_split, near_duplicates, seed, group_pattern, unmasked=True
        )
    return SemiSupervisedData(
        source,
        iterations,
        LabelChoice(labelled, labelled_list, labelled_choice),
        unlabelled_root,
        near_duplicates,
        batch_size,
        unlabelled_batch_size,
        num_workers,
        seed,
        eval_batch_size,
        augment,
        crop,
    )


def cells(
    num_train: int = 200,
    num_val: int = 40,
    num_test: int = 40,
    size: int = 256,
    batch_size: int = 4,
    num_workers: int = 0,
    seed: int = 0,
    eval_batch_size: int | None = None,
    prompts: PromptPolicy | None = None,
    augment: Augmentation | None = None,
    crop: int | None = None,
    min_visible: float = 0.25,
    limit_train: int | None = None,
    rehearsal: int | Literal["auto"] | None = "auto",
) -> DataModule:
    """Generated microscopy-like images (``data=cells``), written to a cache on first use."""
    root = cached_cells(seed=seed, counts=(num_train, num_val, num_test), size=size)
    return DataModule(
        CocoSource(str(root), seed=seed),
        batch_size,
        num_workers,
        seed,
        eval_batch_size,
        prompts,
        augment,
        crop,
        min_visible,
        limit_train,
        rehearsal,
    )


def scenes(
    size: int,
    min_objects: int,
    max_objects: int,
    epoch_size: int,
    num_val: int,
    num_test: int,
    num_prompts: int = 4,
    negative_share: float = 0.4,
    min_diameter: float = MIN_DIAMETER,
    generic_share: float = 0.0,
    near_share: float = 0.6,
    max_crowd: int = 0,
    crowd_share: float = 0.0,
    batch_size: int = 4,
    num_workers: int = 0,
    seed: int = 0,
    eval_batch_size: int | None = None,
    prompts: PromptPolicy | None = None,
    augment: Augmentation | None = None,
) -> DataModule:
    """Generated prompt scenes (``data=scenes``), made on the fly and never repeated."""
    source = ScenesSource(
        size,
        min_objects,
        max_objects,
        epoch_size,
        num_val,
        num_test,
        num_prompts,
        negative_share,
        seed,
        min_diameter,
        generic_share,
        near_share,
        max_crowd,
        crowd_share,
    )
    return DataModule(source, batch_size, num_workers, seed, eval_batch_size, prompts, augment)
