"""What a dataset must offer to the loader: sizes, categories and raw records of single images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from maskwell.data.instances import InstanceMasks

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

Window = tuple[int, int, int, int]
"""(x, y, width, height) in pixels of the file's image."""


@dataclass
class Record:
    """One window of one image as it lies on disk, before augmentation and network geometry.

    ``image`` uint8 RGB [H, W, 3]; ``boxes`` float32 [N, 4] xyxy in window pixels; ``labels`` int64
    [N], contiguous from 0; ``area`` float32 [N] in pixels; ``iscrowd`` bool [N]; ``masks`` of the
    objects, None where the data has boxes only; ``semantic`` uint8 [H, W], 255 = ignore;
    ``visible`` float32 [N], the share of each whole object that lies in the window; ``phrases``
    (text, indices of the objects it names) where the data brings its own prompts; ``valid`` bool
    [H, W], False where augmentation had nothing to show, of semantic data only; ``keypoints`` float32
    [N, 2], (x, y) in window pixels where the annotation itself says where the object is, NaN elsewhere.
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    area: NDArray[np.float32]
    iscrowd: NDArray[np.bool_]
    visible: NDArray[np.float32]
    image_id: int
    file_name: str
    file_size: tuple[int, int]
    window: Window
    masks: InstanceMasks | None = None
    semantic: NDArray[np.uint8] | None = None
    phrases: tuple[tuple[str, tuple[int, ...]], ...] | None = None
    group: str | None = None
    valid: NDArray[np.bool_] | None = None
    keypoints: NDArray[np.float32] | None = None

    def select(self, keep: NDArray[np.bool_]) -> Record:
        """The same record with the objects of ``keep`` (bool [N]) only; phrases follow."""
        if keep.all():
            return self
        new_index = np.cumsum(keep) - 1
        phrases = self.phrases
        if phrases is not None:
            phrases = tuple(
                (text, tuple(int(new_index[i]) for i in objects if keep[i])) for text, objects in phrases
            )
        return replace(
            self,
            boxes=self.boxes[keep],
            labels=self.labels[keep],
            area=self.area[keep],
            iscrowd=self.iscrowd[keep],
            visible=self.visible[keep],
            masks=None if self.masks is None else self.masks.select(keep),
            phrases=phrases,
            keypoints=None if self.keypoints is None else self.keypoints[keep],
        )

    def points(self) -> NDArray[np.float32]:
        """Where each object is, float32 [N, 2] in window pixels.

        Its keypoint where it has one inside the window, the centroid of its mask, or the centre of its
        box; of the part that lies in the window.
        """
        if self.masks is None:
            places = np.asarray((self.boxes[:, :2] + self.boxes[:, 2:]) / 2, np.float32)
        else:
            places = self.masks.centroids()
        if self.keypoints is None:
            return places
        sides = np.array([self.image.shape[1], self.image.shape[0]], np.float32)
        inside = np.all((self.keypoints >= 0) & (self.keypoints < sides), axis=1, keepdims=True)
        return np.asarray(np.where(inside, self.keypoints, places), np.float32)


@dataclass(frozen=True)
class ImageFile:
    """An image of a dataset: its name in the lists of the splits, and what its labels are.

    ``group`` names what must not be parted (drive, patient, slide); ``labelled``: whether labels exist.
    """

    name: str
    path: Path
    group: str | None = None
    labelled: bool = True


class Source(Protocol):
    """A dataset with splits; reading is a pure function of its arguments, safe in worker processes."""

    @property
    def categories(self) -> tuple[str, ...]:
        """Category names in the order of the contiguous labels."""

    @property
    def category_ids(self) -> tuple[int, ...]:
        """Ids of the categories in the files, in the same order (they may have gaps)."""

    def setup(self) -> None:
        """Read the index. Raises UserError for data that cannot be used. Called once or more."""

    def size(self, split: Split) -> int:
        """Images in ``split``."""

    def num_objects(self, split: Split) -> int | None:
        """Objects of a split that are no crowds, None where they are not counted beforehand."""

    def image_size(self, split: Split, index: int) -> tuple[int, int]:
        """(height, width) of an image without decoding it."""

    def objects(self, split: Split, index: int) -> NDArray[np.float32]:
        """xyxy boxes [N, 4] in file pixels of the objects of an image that are no crowds."""

    def read(self, split: Split, index: int, epoch: int, window: Window | None) -> Record:
        """Decode one image, or only ``window`` of it; ``epoch`` matters where images are generated."""

    def split_lists(self) -> dict[str, list[str]]:
        """File names per split, for the run folder; empty where images are generated."""

    def fingerprint(self) -> str:
        """Changes when the data changes."""


class FileSource(Source, Protocol):
    """A source whose images are files that can be named, chosen and compared."""

    def files(self, split: Split) -> list[ImageFile]:
        """One entry per image of ``split``, in the order of the indices."""
