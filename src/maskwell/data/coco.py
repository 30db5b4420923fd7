"""COCO instances as a source of records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from numpy.typing import NDArray

from maskwell.data import rle
from maskwell.data.coco_entries import load_coco
from maskwell.data.coco_index import CocoImage, read_categories, read_images
from maskwell.data.duplicates import near_duplicate_files
from maskwell.data.fingerprint import file_fingerprint
from maskwell.data.images import image_size, read_image
from maskwell.data.layouts import Layout, find_layout
from maskwell.data.source import SPLITS, ImageFile, Record, Split, Window
from maskwell.data.splits import split_images
from maskwell.errors import UserError


@dataclass
class CocoSource:
    """A COCO dataset folder.

    Args:
        root: the folder; its layout is recognised (:func:`~maskwell.data.layouts.find_layout`).
        images, train, val, test: explicit paths relative to ``root``.
        val_split, test_split: shares of the images, where one file has to be split; ``val_split`` of
            the training images also where there is a test file but no validation file.
        group_key: key of the images' entries that names what must not be parted (patient, slide).
        near_duplicates: keep images that show nearly the same in one split.
        seed: of the split.
        object_range: fewest and most objects of an image, crowds not counted, None for no bound; other
            images are left out, after the split, which stays the same.
    """

    root: str
    images: str | None = None
    train: str | None = None
    val: str | None = None
    test: str | None = None
    val_split: float = 0.2
    test_split: float = 0.1
    group_key: str = "group"
    near_duplicates: bool = True
    seed: int = 0
    object_range: Sequence[int | None] | None = None

    def __post_init__(self) -> None:
        self._range = _object_range(self.object_range)

    def setup(self) -> None:
        """Read the index and say, once, how many images were left out of it.

        Raises:
            UserError: for data that cannot be used, and for training images without any object.
        """
        known = "index" in self.__dict__
        left_out = {split: len(self._splits[split]) - len(self.index[split]) for split in SPLITS}
        if self.object_range is not None and not known:
            counts = ", ".join(f"{count} {split}" for split, count in left_out.items())
            rank_zero_only(print)(f"data.objects={list(self.object_range)}: left out {counts} images")
            if left_out["train"] and not self.index["train"]:
                raise UserError(
                    f"data.objects={list(self.object_range)} leaves out every training image of "
                    f"'{self.root}'; widen the range."
                )
        if not any((~image.iscrowd).any() for image in self.index["train"]):
            raise UserError(
                f"The training images of '{self.root}' have 0 objects, so there is nothing to learn; check "
                "the annotations with: python -m maskwell.data.checks."
            )

    @cached_property
    def layout(self) -> Layout:
        """Where the files are."""
        return find_layout(self.root, images=self.images, train=self.train, val=self.val, test=self.test)

    @cached_property
    def _read(self) -> tuple[dict[int, str], dict[Split | None, list[CocoImage]]]:
        """Names of the categories by id, and the images by file: by split, or None for the single file."""
        layout = self.layout
        contents = {file: load_coco(file) for file in layout.files.values()}
        names = read_categories(contents)
        labels = {category: label for label, category in enumerate(names)}
        images = {
            split: read_images(contents[file], file, layout, labels, self.group_key)
            for split, file in layout.files.items()
        }
        return names, images

    @cached_property
    def index(self) -> dict[Split, list[CocoImage]]:
        """Images per split, those alone whose objects are as many as wanted."""
        fewest, most = self._range

        def wanted(image: CocoImage) -> bool:
            return fewest <= int((~image.iscrowd).sum()) <= most

        return {split: [image for image in images if wanted(image)] for split, images in self._splits.items()}

    @cached_property
    def _splits(self) -> dict[Split, list[CocoImage]]:
        images = self._read[1]
        if None in images:
            return self._split(images[None], self.val_split, self.test_split)
        found: dict[Split, list[CocoImage]] = {split: images.get(split, []) for split in SPLITS}
        if not found["val"]:
            parts = self._split(found["train"], self.val_split, 0.0)
            found |= {"train": parts["train"], "val": parts["val"]}
        return found

    def _split(self, images: list[CocoImage], val: float, test: float) -> dict[Split, list[CocoImage]]:
        linked = near_duplicate_files([image.path for image in images]) if self.near_duplicates else []
        parts = split_images([image.group for image in images], val, test, self.seed, linked)
        return {split: [images[i] for i in parts[split]] for split in SPLITS}

    @cached_property
    def has_masks(self) -> bool:
        """Whether any object of the dataset has an outline or mask."""
        everything = (image for images in self._read[1].values() for image in images)
        return any(mask is not None for image in everything for mask in image.segmentations)

    @cached_property
    def points_only(self) -> int:
        """Objects of the dataset that are points without box or mask."""
        return sum(image.points_only for images in self._read[1].values() for image in images)

    @property
    def categories(self) -> tuple[str, ...]:
        return tuple(self._read[0].values())

    @property
    def category_ids(self) -> tuple[int, ...]:
        return tuple(self._read[0])

    def size(self, split: Split) -> int:
        return len(self.index[split])

    def num_objects(self, split: Split) -> int | None:
        return sum(int((~image.iscrowd).sum()) for image in self.index[split])

    def image_size(self, split: Split, index: int) -> tuple[int, int]:
        image = self.index[split][index]
        return image.size or image_size(image.path)

    def objects(self, split: Split, index: int) -> NDArray[np.float32]:
        image = self.index[split][index]
        return image.boxes[~image.iscrowd]

    def objects_by_category(self, split: Split) -> dict[str, int]:
        """How many objects of each category a split has, crowds not counted."""
        counts = np.zeros(len(self.categories), np.int64)
        for image in self.index[split]:
            counts += np.bincount(image.labels[~image.iscrowd], minlength=len(counts))
        return dict(zip(self.categories, counts.tolist(), strict=True))

    def split_lists(self) -> dict[str, list[str]]:
        return {split: [image.file_name for image in self.index[split]] for split in SPLITS}

    def files(self, split: Split) -> list[ImageFile]:
        return [ImageFile(image.file_name, image.path, image.group) for image in self.index[split]]

    def fingerprint(self) -> str:
        images = [image.path for split in SPLITS for image in self.index[split]]
        return file_fingerprint([*self.layout.files.values(), *images])

    def read(self, split: Split, index: int, epoch: int, window: Window | None) -> Record:
        image = self.index[split][index]
        pixels = read_image(image.path)
        size = (pixels.shape[0], pixels.shape[1])
        if image.size is not None and size != image.size:
            raise UserError(
                f"The image '{image.path}' is {size[0]}x{size[1]} pixels (height x width, upright), but its "
                f"annotations are for {image.size[0]}x{image.size[1]}; export the annotations again."
            )
        left, top, width, height = window or (0, 0, size[1], size[0])
        record = Record(
            image=np.ascontiguousarray(pixels[top : top + height, left : left + width]),
            boxes=image.boxes,
            labels=image.labels,
            area=image.area,
            iscrowd=image.iscrowd,
            visible=np.ones(len(image.boxes), np.float32),
            image_id=image.image_id,
            file_name=image.file_name,
            file_size=size,
            window=(left, top, width, height),
            group=image.group,
            keypoints=_keypoints(image, (left, top)),
        )
        return _cut_masks(record, image) if self.has_masks else _cut_boxes(record)


def _object_range(given: Sequence[int | None] | None) -> tuple[float, float]:
    """Fewest and most objects of an image.

    Raises:
        UserError: it is no range.
    """
    if given is None:
        return 0, math.inf
    numbers = all(bound is None or (type(bound) is int and bound >= 0) for bound in given)
    if len(given) == 2 and numbers:
        fewest, most = given[0] or 0, math.inf if given[1] is None else given[1]
        if fewest <= most:
            return fewest, most
    raise UserError(
        f"data.objects={list(given)} is no range: give the fewest and the most objects of an image, such as "
        "[5,50] or [1,null]."
    )


def _keypoints(image: CocoImage, corner: tuple[int, int]) -> NDArray[np.float32] | None:
    """float32 [N, 2] in window pixels; None where no object has one."""
    if np.isnan(image.keypoints).all():
        return None
    return np.asarray(image.keypoints - np.array(corner, np.float32), np.float32)


def _cut_boxes(record: Record) -> Record:
    """Objects of a whole image -> their parts in the window, for data with boxes alone."""
    left, top, width, height = record.window
    boxes = record.boxes - np.array([left, top, left, top], np.float32)
    cut = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
    share = np.asarray(_areas(cut) / np.maximum(_areas(boxes), 1e-6), np.float32)
    area = np.asarray(record.area * share, np.float32)
    return replace(record, boxes=cut, visible=share, area=area).select(share > 0)


def _areas(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), np.float32)


def _cut_masks(record: Record, image: CocoImage) -> Record:
    """The same for masks: only those of objects near the window are decoded."""
    left, top, width, height = record.window
    corner = np.array([left, top, left, top], np.float32)
    margin = np.array([-1, -1, 1, 1], np.float32)  # boxes are rounded, or half a pixel off
    near = image.boxes + margin
    rows = np.flatnonzero(
        (near[:, 0] < left + width) & (near[:, 2] > left) & (near[:, 1] < top + height) & (near[:, 3] > top)
    )
    try:
        runs = rle.decode(image.rles(rows, record.file_size))
    except (ValueError, TypeError, KeyError, UnicodeEncodeError) as error:
        raise UserError(_bad_mask(image, rows, record.file_size)) from error
    masks, area = rle.crop(runs, record.window)
    whole = np.bincount(runs.owner, runs.length, len(rows)).astype(np.float32)
    uncut = area == whole
    boxes = image.boxes[rows] - corner
    fits = uncut & (boxes >= 0).all(1) & (boxes <= np.array([width, height, width, height])).all(1)
    cut = Record(
        image=record.image,
        boxes=boxes if fits.all() else np.where(fits[:, None], boxes, masks.boxes()),
        labels=image.labels[rows],
        area=np.where(uncut, image.area[rows], area),
        iscrowd=image.iscrowd[rows],
        visible=np.asarray(area / np.maximum(whole, 1), np.float32),
        image_id=record.image_id,
        file_name=record.file_name,
        file_size=record.file_size,
        window=record.window,
        masks=masks,
        group=record.group,
        keypoints=None if record.keypoints is None else record.keypoints[rows],
    )
    return cut.select(area > 0)


def _bad_mask(image: CocoImage, rows: NDArray[np.int64], size: tuple[int, int]) -> str:
    """Names the first mask of ``rows`` that does not decode."""
    for row in rows:
        try:
            rle.decode(image.rles(np.array([row]), size))
        except (ValueError, TypeError, KeyError, UnicodeEncodeError) as error:
            return (
                f"The mask of annotation {image.annotation_ids[row]} on the image '{image.file_name}' "
                f"({size[0]}x{size[1]}) cannot be decoded: {error}; mend or remove it."
            )
    raise AssertionError("every mask decodes alone")
