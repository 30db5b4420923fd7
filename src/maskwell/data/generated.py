"""Prompt scenes as a source: every training sample is made on the fly and never comes twice."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from maskwell.data.instances import InstanceMasks
from maskwell.data.scenes import MIN_DIAMETER, Scene, generate_scene
from maskwell.data.source import Record, Split, Window
from maskwell.data.words import KINDS

VERSION = 2
"""Of the generator; part of the fingerprint, so that other scenes never pass for these."""

_SERIES: dict[Split, int] = {"train": 0, "val": 1, "test": 2}


class Asked(TypedDict):
    """How many phrases a scene is asked, and of which sort; see :func:`generate_scene`."""

    num_prompts: int
    negative_share: float
    near_share: float
    generic_share: float


_EVALUATION = Asked(num_prompts=4, negative_share=0.5, near_share=1.0, generic_share=0.0)
"""The same whatever is trained, so that the figures of two trainings can be compared."""


class ScenesSource:
    """Generated scenes with phrases. Scene ``epoch * epoch_size + index`` is the training sample.

    Args:
        size: side of the images in pixels.
        min_objects: fewest objects of a scene; ``max_objects``: most.
        epoch_size: training samples that count as one epoch.
        num_val: validation scenes, always the same; ``num_test``: test scenes, likewise.
        num_prompts: most phrases of a training scene; ``negative_share`` of them name nothing.
        near_share: share of the negatives of training that are near: one word off what is there.
        min_diameter: of the smallest objects, pixels.
        generic_share: share of training scenes that are asked "object" only.
        max_crowd: most objects of a crowd; ``crowd_share`` of all scenes are crowds.
        seed: another seed, other scenes; the splits never share one.
    """

    def __init__(
        self,
        size: int,
        min_objects: int,
        max_objects: int,
        epoch_size: int,
        num_val: int,
        num_test: int,
        num_prompts: int = 4,
        negative_share: float = 0.4,
        seed: int = 0,
        min_diameter: float = MIN_DIAMETER,
        generic_share: float = 0.0,
        near_share: float = 0.6,
        max_crowd: int = 0,
        crowd_share: float = 0.0,
    ) -> None:
        self.side = size
        self.objects_range = (min_objects, max_objects)
        self.sizes: dict[Split, int] = {"train": epoch_size, "val": num_val, "test": num_test}
        self.seed = seed
        self.min_diameter = min_diameter
        self.asked = Asked(
            num_prompts=num_prompts,
            negative_share=negative_share,
            near_share=near_share,
            generic_share=generic_share,
        )
        self.max_crowd = max_crowd
        self.crowd_share = crowd_share

    @property
    def categories(self) -> tuple[str, ...]:
        return tuple(KINDS)

    @property
    def category_ids(self) -> tuple[int, ...]:
        return tuple(range(1, len(KINDS) + 1))

    def setup(self) -> None:
        """Nothing to read."""

    def size(self, split: Split) -> int:
        return self.sizes[split]

    def num_objects(self, split: Split) -> int | None:
        return None

    def image_size(self, split: Split, index: int) -> tuple[int, int]:
        return self.side, self.side

    def objects(self, split: Split, index: int) -> NDArray[np.float32]:
        return self._scene(split, index).boxes

    def read(self, split: Split, index: int, epoch: int, window: Window | None) -> Record:
        number = epoch * self.sizes[split] + index
        scene = self._scene(split, number)
        masks = InstanceMasks.from_planes(scene.masks)
        count = len(scene.labels)
        return Record(
            image=scene.image,
            boxes=scene.boxes,
            labels=scene.labels,
            area=masks.areas(),
            iscrowd=np.zeros(count, bool),
            visible=np.ones(count, np.float32),
            image_id=number,
            file_name=f"scene_{split}_{number}",
            file_size=(self.side, self.side),
            window=(0, 0, self.side, self.side),
            masks=masks,
            phrases=scene.phrases,
        )

    def split_lists(self) -> dict[str, list[str]]:
        return {}

    def fingerprint(self) -> str:
        """The data are the generator's arguments."""
        low, high = self.objects_range
        crowd = f"{self.crowd_share:g}of{self.max_crowd}"
        return f"scenes-v{VERSION}-{self.seed}-{self.side}px-{low}to{high}-{self.min_diameter:g}px-{crowd}"

    def _scene(self, split: Split, number: int) -> Scene:
        low, high = self.objects_range
        return generate_scene(
            3 * self.seed + _SERIES[split],
            number,
            size=self.side,
            min_objects=low,
            max_objects=high,
            min_diameter=self.min_diameter,
            max_crowd=self.max_crowd,
            crowd_share=self.crowd_share,
            **(self.asked if split == "train" else _EVALUATION),
        )
