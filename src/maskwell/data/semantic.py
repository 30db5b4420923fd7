"""Semantic segmentation as a source: images with index-mask PNGs, or COCO instances read as classes."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maskwell.data.coco import CocoSource
from maskwell.data.duplicates import near_duplicate_files
from maskwell.data.fingerprint import file_fingerprint
from maskwell.data.images import MAX_PIXELS, SUFFIXES, image_size, read_image
from maskwell.data.instances import InstanceMasks
from maskwell.data.sample import IGNORE
from maskwell.data.source import SPLITS, ImageFile, Record, Split, Window
from maskwell.data.splits import components, split_images
from maskwell.errors import UserError
from maskwell.reading import load_json


@dataclass(frozen=True)
class MaskedImage:
    """An image and the PNG whose pixel values are its classes, None where nobody drew one."""

    image: Path
    mask: Path | None
    group: str | None = None


@dataclass
class SemanticSource:
    """``images/<split>/*`` with ``masks/<split>/<same name>.png`` and ``classes.json``.

    ``classes.json`` is a list of class names in the order of the mask values, or an object with
    ``classes`` and ``ignore_index``. Without folders per split the images are split here.

    Args:
        root: the folder.
        ignore: value of mask pixels that count nowhere; the one of ``classes.json``, else 255, if None.
        val_split, test_split: shares, where there are no folders per split; ``val_split`` of the
            training images also where only the validation folder is missing.
        near_duplicates: keep images that show nearly the same in one split.
        seed: of the split.
        group_pattern: regular expression that finds the group (drive, slide, photograph) in a file's name:
            its first bracket, else all that it matches. Images of a group are not parted.
        unmasked: training images may lack a mask; they are unlabelled.
    """

    root: str
    ignore: int | None = None
    val_split: float = 0.2
    test_split: float = 0.1
    near_duplicates: bool = True
    seed: int = 0
    group_pattern: str | None = None
    unmasked: bool = False

    def setup(self) -> None:
        """Find the files.

        Raises:
            UserError: a folder, a mask or the class list is missing, or there is no training image.
        """
        if not self.index["train"]:
            raise UserError(f"The folder '{self.root}' holds no training images.")

    @cached_property
    def _classes(self) -> tuple[tuple[str, ...], int]:
        path = Path(self.root).expanduser() / "classes.json"
        if not path.is_file():
            raise UserError(f"'{path}' is missing; it lists the class names in the order of their values.")
        content = load_json(path)
        names = content.get("classes") if isinstance(content, dict) else content
        if not isinstance(names, list) or not 0 < len(names) <= IGNORE or _nested(names):
            raise UserError(f"'{path}' holds no list of 1 to {IGNORE} class names.")
        stated = content.get("ignore_index") if isinstance(content, dict) else None
        if stated is not None and (type(stated) is not int or not 0 <= stated <= IGNORE):
            raise UserError(f"'{path}': ignore_index is a mask value from 0 to {IGNORE}.")
        chosen = self.ignore if self.ignore is not None else stated
        return tuple(str(name) for name in names), IGNORE if chosen is None else int(chosen)

    @cached_property
    def index(self) -> dict[Split, list[MaskedImage]]:
        """Images per split."""
        root = Path(self.root).expanduser()
        for folder in (root, root / "images", root / "masks"):
            if not folder.is_dir():
                raise UserError(
                    f"The folder '{folder}' does not exist; semantic data needs images/ and masks/."
                )
        if not (root / "images" / "train").is_dir():
            return self._split(self._pairs(None, self.unmasked), self.val_split, self.test_split)
        found = {split: self._pairs(split, self.unmasked and split == "train") for split in SPLITS}
        if not found["val"]:
            parts = self._split(found["train"], self.val_split, 0.0)
            found |= {"train": parts["train"], "val": parts["val"]}
        return found

    def _pairs(self, split: Split | None, unmasked: bool) -> list[MaskedImage]:
        folder = Path(self.root).expanduser()
        images, masks = folder / "images" / (split or ""), folder / "masks" / (split or "")
        found = []
        for path in sorted(images.glob("*")) if images.is_dir() else []:
            if path.suffix.lower() not in SUFFIXES:
                continue
            mask = masks / f"{path.stem}.png"
            if not mask.is_file() and not unmasked:
                raise UserError(f"The image '{path}' has no mask; '{mask}' is missing.")
            group = group_of(path.name, self.group_pattern)
            found.append(MaskedImage(path, mask if mask.is_file() else None, group))
        return found

    def _split(self, images: list[MaskedImage], val: float, test: float) -> dict[Split, list[MaskedImage]]:
        """Images with masks are split; those without train, unless they belong to what is evaluated."""
        linked = near_duplicate_files([item.image for item in images]) if self.near_duplicates else []
        together = [str(part) for part in components([item.group for item in images], linked)]
        masked = [i for i, item in enumerate(images) if item.mask is not None]
        parts = split_images([together[i] for i in masked], val, test, self.seed)
        found: dict[Split, list[int]] = {split: [masked[i] for i in parts[split]] for split in SPLITS}
        evaluated = {together[i] for i in found["val"] + found["test"]}
        free = {i for i, item in enumerate(images) if item.mask is None and together[i] not in evaluated}
        found["train"] = sorted({*found["train"], *free})
        return {split: [images[i] for i in found[split]] for split in SPLITS}

    @property
    def categories(self) -> tuple[str, ...]:
        return self._classes[0]

    @property
    def category_ids(self) -> tuple[int, ...]:
        return tuple(range(len(self._classes[0])))

    def size(self, split: Split) -> int:
        return len(self.index[split])

    def num_objects(self, split: Split) -> int | None:
        return None

    def image_size(self, split: Split, index: int) -> tuple[int, int]:
        return image_size(self.index[split][index].image)

    def objects(self, split: Split, index: int) -> NDArray[np.float32]:
        return np.zeros((0, 4), np.float32)

    def split_lists(self) -> dict[str, list[str]]:
        base = Path(self.root).expanduser() / "images"
        return {s: [item.image.relative_to(base).as_posix() for item in self.index[s]] for s in SPLITS}

    def files(self, split: Split) -> list[ImageFile]:
        names = self.split_lists()[split]
        return [
            ImageFile(name, item.image, item.group, item.mask is not None)
            for name, item in zip(names, self.index[split], strict=True)
        ]

    def fingerprint(self) -> str:
        items = [item for split in SPLITS for item in self.index[split]]
        return file_fingerprint([p for item in items for p in (item.image, item.mask) if p is not None])

    def classes_of(self, item: MaskedImage, size: tuple[int, int]) -> NDArray[np.uint8] | None:
        """Class of every pixel of an image of ``size`` (height, width), None where it has no mask.

        Raises:
            UserError: the mask does not decode, has another size or a value beyond the class list.
        """
        if item.mask is None:
            return None
        values = read_index_mask(item.mask)
        if values.shape != size:
            raise UserError(
                f"The mask '{item.mask}' is {values.shape[0]}x{values.shape[1]} pixels (height x width), its "
                f"image {size[0]}x{size[1]}; they must agree."
            )
        names, ignore = self._classes
        known = (values < len(names)) & (values >= 0)
        wrong = values[~known & (values != ignore)]
        if len(wrong):
            raise UserError(
                f"The mask '{item.mask}' has the value {int(wrong[0])}, but there are {len(names)} classes "
                f"and {ignore} is what is ignored; correct classes.json or the mask."
            )
        return np.where(values == ignore, IGNORE, values).astype(np.uint8)

    def check(self, split: Split, indices: Sequence[int]) -> None:
        """Read the masks of these images; raises as :meth:`classes_of`."""
        for item in (self.index[split][i] for i in indices):
            self.classes_of(item, image_size(item.image))

    def read(self, split: Split, index: int, epoch: int, window: Window | None) -> Record:
        item = self.index[split][index]
        image = read_image(item.image)
        size = (image.shape[0], image.shape[1])
        semantic = self.classes_of(item, size)
        left, top, width, height = window or (0, 0, size[1], size[0])
        cut = (slice(top, top + height), slice(left, left + width))
        empty = no_objects(np.ascontiguousarray(image[cut]), item.image.name, self._number(split, index))
        return replace(
            empty,
            file_size=size,
            window=(left, top, width, height),
            group=item.group,
            semantic=None if semantic is None else np.ascontiguousarray(semantic[cut]),
        )

    def _number(self, split: Split, index: int) -> int:
        """Id of an image: its place over all splits, from 1."""
        before = SPLITS[: SPLITS.index(split)]
        return 1 + index + sum(len(self.index[other]) for other in before)


def _nested(names: list[object]) -> bool:
    return any(isinstance(name, list | dict) for name in names)


def group_of(name: str, pattern: str | None) -> str | None:
    """What ``pattern`` finds in a file's name: its first bracket, else all that it matches.

    Raises:
        UserError: the pattern is no regular expression.
    """
    if pattern is None:
        return None
    try:
        found = re.search(pattern, name)
    except re.error as error:
        raise UserError(f"data.group_pattern='{pattern}' is no regular expression ({error}).") from error
    if found is None:
        return None
    return str(found[1] if found.re.groups else found[0])


def read_index_mask(path: Path) -> NDArray[np.int32]:
    """Pixel values [H, W] of an index PNG; of a palette PNG the indices, not the colours.

    Raises:
        UserError: the file is missing, does not decode or has colours instead of values.
    """
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore")
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"it claims {image.width} x {image.height} pixels")
            values = np.asarray(image)
    except Exception as error:  # of a damaged file decoders raise whatever comes up in them
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"The mask '{path}' cannot be decoded ({reason}).") from error
    if values.ndim != 2:
        raise UserError(
            f"The mask '{path}' has colours; a mask's pixel values are the numbers of the classes."
        )
    return values.astype(np.int32)


def no_objects(image: NDArray[np.uint8], file_name: str, image_id: int) -> Record:
    """The record of an image without objects or classes."""
    height, width = image.shape[:2]
    return Record(
        image=image,
        boxes=np.zeros((0, 4), np.float32),
        labels=np.zeros(0, np.int64),
        area=np.zeros(0, np.float32),
        iscrowd=np.zeros(0, bool),
        visible=np.zeros(0, np.float32),
        image_id=image_id,
        file_name=file_name,
        file_size=(height, width),
        window=(0, 0, width, height),
        valid=np.ones((height, width), bool),
    )


class CocoSemanticSource(CocoSource):
    """COCO instances read as classes: 0 is background, crowds are ignored, small objects lie on top."""

    @property
    def categories(self) -> tuple[str, ...]:
        return ("background", *super().categories)

    @property
    def category_ids(self) -> tuple[int, ...]:
        """Ids in the file; the background has none of them, -1 stands for it."""
        return (-1, *super().category_ids)

    def read(self, split: Split, index: int, epoch: int, window: Window | None) -> Record:
        record = super().read(split, index, epoch, window)
        if record.masks is None:
            raise UserError(f"'{self.root}' has boxes alone, which cannot be read as semantic masks.")
        classes = np.where(record.iscrowd, IGNORE, record.labels + 1)
        empty = no_objects(record.image, record.file_name, record.image_id)
        return replace(
            empty,
            file_size=record.file_size,
            window=record.window,
            group=record.group,
            semantic=semantic_of(record.masks, classes),
        )


def semantic_of(masks: InstanceMasks, classes: NDArray[np.int64]) -> NDArray[np.uint8]:
    """One index map [H, W] of masks: 0 where there is none, the smaller object where two overlap."""
    if masks.flat is not None:
        return np.concatenate([[0], classes]).astype(np.uint8)[masks.flat]
    canvas = np.zeros(masks.size, np.uint8)
    planes = masks.to_planes()
    for row in np.argsort(-masks.areas(), kind="stable"):
        canvas[planes[row]] = classes[row]
    return canvas
