"""Sample, Prediction and Batch: the one convention in which data travels through the house.

image    float32 [3, H, W], normalised as the family's :class:`InputSpec` says
boxes    float32 [N, 4], xyxy in [0, 1] of the network input
masks    bool [N, h, w] at the network input or any common scale of it
semantic int64 [H, W], 255 = ignore
labels   int64 [N], contiguous from 0
points   float32 [N, 2], (x, y) in [0, 1] of the network input

Predictions and ground truth for metrics live in another frame, the *window* frame: pixels of the
file's image, origin at the corner of the window (the whole image where nothing was cropped).
:class:`Geometry` maps between the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from maskwell.ops.masks import Rle as Rle

IGNORE = 255
"""Semantic label of pixels that count nowhere."""

Colour = tuple[float, float, float]
"""Red, green, blue; of images whose values lie in [0, 1]."""

IMAGENET_MEAN: Colour = (0.485, 0.456, 0.406)
IMAGENET_STD: Colour = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class InputSpec:
    """What a family wants its network input to look like; the same in training and prediction.

    ``fit="square"`` resizes to ``size`` x ``size`` without keeping the aspect and pads nothing;
    ``fit="pad"`` scales the longer side down to ``size`` where it is larger (``None``: never), with
    ``enlarge`` also up to it where it is smaller, normalises, and pads with zeros, which is then the
    mean, to a multiple of ``multiple`` and to at least ``min_side``, px.
    """

    fit: Literal["square", "pad"]
    size: int | None
    mean: Colour
    std: Colour
    multiple: int = 32
    enlarge: bool = False
    min_side: int = 1

    def __post_init__(self) -> None:
        if (self.fit == "square" or self.enlarge) and self.size is None:
            raise ValueError('InputSpec(fit="square") and enlarge need a size in pixels.')

    @property
    def padding(self) -> dict[str, int]:
        """What :func:`collate` has to know of it."""
        if self.fit == "square":
            return {}
        return {"multiple": self.multiple, "min_side": self.min_side}


@dataclass(frozen=True)
class Geometry:
    """How a window of a file's image became the network input.

    ``file_size`` (height, width) of the decoded image; ``window`` (x, y, width, height) in its
    pixels; ``content`` (height, width) of the resized window inside the network input;
    ``input_size`` (height, width) of the network input with its padding.
    """

    file_size: tuple[int, int]
    window: tuple[int, int, int, int]
    content: tuple[int, int]
    input_size: tuple[int, int]

    @property
    def window_size(self) -> tuple[int, int]:
        """(height, width) of the window in file pixels: the frame of predictions and truth."""
        return self.window[3], self.window[2]

    def _to_window(self) -> tuple[float, float]:
        (content_h, content_w), (input_h, input_w) = self.content, self.input_size
        return input_w / content_w * self.window[2], input_h / content_h * self.window[3]

    def boxes_to_window(self, boxes: Tensor) -> Tensor:
        """xyxy [N, 4] in [0, 1] of the network input -> xyxy in window pixels, clipped to it."""
        scale_x, scale_y = self._to_window()
        scaled = boxes * boxes.new_tensor([scale_x, scale_y, scale_x, scale_y])
        limit = boxes.new_tensor([self.window[2], self.window[3]] * 2)
        return torch.minimum(scaled.clamp(min=0), limit)

    def points_to_window(self, points: Tensor) -> Tensor:
        """(x, y) [N, 2] in [0, 1] of the network input -> window pixels, clipped to it."""
        limit = points.new_tensor([self.window[2], self.window[3]])
        return torch.minimum((points * points.new_tensor(self._to_window())).clamp(min=0), limit)

    def padded_to(self, input_size: tuple[int, int]) -> Geometry:
        """The same content in a larger, zero-padded network input (content stays top left)."""
        return replace(self, input_size=input_size)


@dataclass(frozen=True)
class Prompt:
    """A phrase put to a promptable model, with the objects (indices into the sample) it names.

    No objects means a negative: the model should answer "nothing". ``label`` is the category the
    phrase stands for; words that are no category of the data have labels below 0, each its own.
    """

    text: str
    objects: tuple[int, ...]
    label: int = -1


@dataclass
class Truth:
    """Ground truth in the window frame, for metrics and panels; crowds included.

    ``size`` (height, width); ``boxes`` float32 [N, 4] xyxy pixels; ``labels`` int64 [N];
    ``iscrowd`` bool [N]; ``area`` float32 [N] in pixels; ``rles`` one mask per object, or None
    where the data has boxes only; ``semantic`` int64 [H, W] where it is semantic; ``points`` float32
    [M, 2] (x, y) pixels, one per object that is no crowd, where the task finds points.
    """

    size: tuple[int, int]
    boxes: Tensor
    labels: Tensor
    iscrowd: Tensor
    area: Tensor
    rles: list[Rle] | None = None
    semantic: Tensor | None = None
    points: Tensor | None = None


@dataclass
class Prediction:
    """What a model says of one image, in the window frame, best score first; points as they were marked.

    ``size`` (height, width); ``boxes`` float32 [K, 4] xyxy pixels; ``scores`` float32 [K] in
    [0, 1]; ``labels`` int64 [K]; ``rles`` one mask per detection or None; ``points`` float32
    [K, 2] pixels or None; ``semantic`` int64 [H, W] or None; ``present`` label -> score that the
    concept occurs in the image at all, where the model has such a score; ``confidence`` float32 [H, W]:
    probability of the class in ``semantic``, or None. Of points that were marked
    one after another, ``stopped``: whether the model itself said that no more are left (False: the cap
    was reached or a mark repeated), and ``done``: its probability of that at the last step.
    """

    size: tuple[int, int]
    boxes: Tensor
    scores: Tensor
    labels: Tensor
    rles: list[Rle] | None = None
    points: Tensor | None = None
    semantic: Tensor | None = None
    present: dict[int, float] | None = None
    stopped: bool | None = None
    done: float | None = None
    confidence: Tensor | None = None

    @classmethod
    def of_classes(cls, semantic: Tensor, confidence: Tensor | None = None) -> Prediction:
        """A prediction that is a class map, int64 [H, W], with its ``confidence``, and nothing else."""
        size = (int(semantic.shape[0]), int(semantic.shape[1]))
        none = torch.zeros(0, dtype=torch.int64)
        return cls(size, torch.zeros(0, 4), torch.zeros(0), none, semantic=semantic, confidence=confidence)

    @classmethod
    def of_points(
        cls,
        size: tuple[int, int],
        points: Tensor,
        scores: Tensor,
        stopped: bool | None = None,
        done: float | None = None,
    ) -> Prediction:
        """A prediction that is points, float32 [K, 2], in the order they were marked, without extent.

        Each has a box without area at its place, so that whatever orders or selects boxes works, and the
        label 0: marks tell no categories apart.
        """
        labels = torch.zeros(len(points), dtype=torch.int64)
        return cls(size, points.repeat(1, 2), scores, labels, points=points, stopped=stopped, done=done)


@dataclass
class MarkedState:
    """An image with some of its objects marked, and what a model says comes next; window pixels.

    ``marks`` float32 [k, 2] in their order; ``predicted`` float32 [2]; ``done`` probability of "no
    more"; ``target`` float32 [2] is the object that comes next in this very image, None where
    ``finished``: every object is marked.
    """

    marks: Tensor
    predicted: Tensor
    done: float
    target: Tensor | None
    finished: bool


@dataclass
class Sample:
    """One image ready for a network, with everything needed to score and to draw it.

    ``hidden`` int64 [H, W]: classes that training must not use, to check pseudo-labels by; ``valid``
    bool [H, W]: False where augmentation had nothing to show, None where the whole image is shown.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    geometry: Geometry
    image_id: int
    file_name: str
    masks: Tensor | None = None
    semantic: Tensor | None = None
    hidden: Tensor | None = None
    valid: Tensor | None = None
    points: Tensor | None = None
    iscrowd: Tensor | None = None
    area: Tensor | None = None
    prompts: tuple[Prompt, ...] = ()
    group: str | None = None
    truth: Truth | None = None

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Sample:
        """A copy whose tensors lie on ``device`` (the truth stays where it is: metrics run on CPU)."""
        moved: dict[str, Any] = {
            f.name: value.to(device, non_blocking=non_blocking)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)


@dataclass
class Batch:
    """Samples stacked for a network.

    ``images`` float32 [B, 3, H, W]; ``pixel_mask`` bool [B, H, W], True where a pixel is image and
    not padding, of augmentation or of collation; ``samples`` in the same order, each without its own
    copy of the image.

    ``accumulated``: of the first of several batches whose gradients are accumulated, all of them, itself
    included, as they were loaded; of copies only that of :meth:`to` has them.
    """

    images: Tensor
    pixel_mask: Tensor
    samples: list[Sample] = field(default_factory=list)
    accumulated: tuple[Batch, ...] = field(default=(), init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return self.images.shape[0]

    @property
    def num_objects(self) -> int:
        """Objects in this batch on this rank."""
        return sum(len(sample.labels) for sample in self.samples)

    def semantic(self) -> Tensor:
        """Class maps int64 [B, H, W] of samples that all have one, 255 = ignore.

        Raises:
            ValueError: a sample has no class map, as those of unlabelled images.
        """
        maps = [sample.semantic for sample in self.samples if sample.semantic is not None]
        if len(maps) < len(self.samples) or not maps:
            raise ValueError("Only batches whose samples all have a class map have a semantic().")
        return torch.stack(maps)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """Used by Lightning's transfer hook."""
        moved = Batch(
            self.images.to(device, non_blocking=non_blocking),
            self.pixel_mask.to(device, non_blocking=non_blocking),
            [sample.to(device, non_blocking=non_blocking) for sample in self.samples],
        )
        moved.accumulated = self.accumulated
        return moved

    def pin_memory(self) -> Batch:
        """Used by the DataLoader; only the images are worth pinning."""
        return replace(self, images=self.images.pin_memory())


def collate(samples: Sequence[Sample], multiple: int = 1, min_side: int = 1) -> Batch:
    """Stack samples, padding at the right and bottom to the largest height and width.

    Images must be normalised already, so that the padding value 0 is the mean. Boxes, points and
    geometry are rescaled to the padded input; masks and class maps are padded with False/255.
    ``multiple``: height and width, at least ``min_side``, are rounded up to it.
    """
    height = _round_up(max(min_side, *(s.image.shape[1] for s in samples)), multiple)
    width = _round_up(max(min_side, *(s.image.shape[2] for s in samples)), multiple)
    images = samples[0].image.new_zeros(len(samples), 3, height, width)
    pixel_mask = torch.zeros(len(samples), height, width, dtype=torch.bool)
    padded = []
    for row, sample in enumerate(samples):
        _, h, w = sample.image.shape
        images[row, :, :h, :w] = sample.image
        pixel_mask[row, :h, :w] = True if sample.valid is None else sample.valid
        padded.append(_pad_sample(sample, height, width))
    return Batch(images, pixel_mask, padded)


def _round_up(size: int, multiple: int) -> int:
    return (size + multiple - 1) // multiple * multiple


def _pad_sample(sample: Sample, height: int, width: int) -> Sample:
    _, h, w = sample.image.shape
    changes: dict[str, Any] = {"image": sample.image.new_zeros(3, 0, 0)}
    if (h, w) != (height, width):
        shrink = torch.tensor([w / width, h / height])
        changes["boxes"] = sample.boxes * shrink.repeat(2)
        changes["geometry"] = sample.geometry.padded_to((height, width))
        if sample.points is not None:
            changes["points"] = sample.points * shrink
        if sample.masks is not None:
            mask_h, mask_w = sample.masks.shape[-2:]
            target = (round(mask_h * height / h), round(mask_w * width / w))
            changes["masks"] = _pad_to(sample.masks, target, False)
        if sample.semantic is not None:
            changes["semantic"] = _pad_to(sample.semantic, (height, width), IGNORE)
        if sample.hidden is not None:
            changes["hidden"] = _pad_to(sample.hidden, (height, width), IGNORE)
        if sample.valid is not None:
            changes["valid"] = _pad_to(sample.valid, (height, width), False)
    return replace(sample, **changes)


def _pad_to(maps: Tensor, size: tuple[int, int], value: int | bool) -> Tensor:
    h, w = maps.shape[-2:]
    return torch.nn.functional.pad(maps, (0, size[1] - w, 0, size[0] - h), value=value)
