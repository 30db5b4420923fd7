"""Augmentation and network geometry of records: the only module that knows albumentations."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, Literal, get_args

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # no version check over the network at import

import albumentations as A
import cv2
import numpy as np
import torch
from albumentations.augmentations.geometric import functional as geometry
from numpy.typing import NDArray

from maskwell.data.instances import InstanceMasks
from maskwell.data.sample import IGNORE, Colour, Geometry, InputSpec, Sample
from maskwell.data.source import Record
from maskwell.errors import UserError

_PIXEL_CENTRE = np.float32(0.5)
"""albumentations counts keypoints from the centre of the first pixel, boxes from its corner."""

cv2.setNumThreads(0)  # loader workers and the trainer share the cores already


Border = Literal["mean", "median"]
BORDERS: tuple[Border, ...] = get_args(Border)


class Move(A.Affine):
    """Zoom and shift. What is not in the image has its ``fill``, or the ``median`` of the image itself.

    Args:
        border: which of them.
        scale: range of the zoom.
        shift: largest move, share of the side.
    """

    def __init__(self, border: Border, scale: tuple[float, float], shift: float = 0.0) -> None:
        super().__init__(
            scale=scale,
            translate_percent=(-shift, shift),
            keep_ratio=True,
            interpolation=cv2.INTER_LINEAR,
            mask_interpolation=cv2.INTER_NEAREST,
            p=1.0,
        )
        self.border = border

    def apply(self, img: NDArray[np.uint8], **params: Any) -> NDArray[np.uint8]:
        """The image, moved."""
        if self.border == "median":
            self.fill = tuple(np.median(img, axis=(0, 1)).round().tolist())
        moved: NDArray[np.uint8] = super().apply(img, **params)
        return moved


class RandomZoom(Move):
    """Zoom that moves as far as it can: above 1 to any part of the image, below 1 showing all of it."""

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Matrices of this call, from the transform's own seeded generator."""
        height, width = params["shape"][:2]
        zoom = self.py_random.uniform(*self.scale["x"])
        room = abs(zoom - 1) / 2
        shift = {side: self.py_random.uniform(-room, room) * n for side, n in (("x", width), ("y", height))}
        shear, scale = {"x": 0.0, "y": 0.0}, {"x": zoom, "y": zoom}
        matrices = [
            geometry.create_affine_transformation_matrix(shift, shear, scale, 0.0, centre)
            for centre in (geometry.center((height, width)), geometry.center_bbox((height, width)))
        ]
        return {
            "rotate": 0.0,
            "scale": scale,
            "matrix": matrices[0],
            "bbox_matrix": matrices[1],
            "output_shape": (height, width),
        }


class Augmentation:
    """Seeded random colour, scale and shift, flips and quarter turns, the same for all of a record.

    Args:
        scale: range of the zoom; above 1 crops, below 1 shows what is not in the image.
        shift: largest move as a share of the side; None for as far as the zoom allows, which shows every
            part of an image equally often.
        hflip: probability; ``vflip``: probability; ``rotate90``: probability of a random quarter turn.
        brightness: largest relative change; ``contrast``, ``saturation``: the same.
        hue: largest turn as a share of the colour circle.
        min_visible: an object is dropped where a smaller share of it is left inside.
        border: colour of what is not in the image: ``mean``, that of the padding of batches, or ``median``,
            the image's own in each channel, which on a plain ground (microscopy) cannot be told from it.
    """

    def __init__(
        self,
        scale: tuple[float, float] = (0.8, 1.25),
        shift: float | None = 0.05,
        hflip: float = 0.5,
        vflip: float = 0.5,
        rotate90: float = 0.5,
        brightness: float = 0.2,
        contrast: float = 0.2,
        saturation: float = 0.1,
        hue: float = 0.02,
        min_visible: float = 0.25,
        border: Border = "mean",
    ) -> None:
        if border not in BORDERS:
            raise UserError(f"data.augment.border={border}: give one of {', '.join(BORDERS)}.")
        self.min_visible, self.border = min_visible, border
        steps: list[Any] = []
        if max(brightness, contrast, saturation, hue) > 0:  # first: what is uncovered keeps its colour
            around = [(1 - amount, 1 + amount) for amount in (brightness, contrast, saturation)]
            steps.append(A.ColorJitter(*around, hue=(-hue, hue), p=0.8))
        if shift is None:
            steps.append(RandomZoom(border, (float(scale[0]), float(scale[1]))))
        elif tuple(scale) != (1, 1) or shift > 0:
            steps.append(Move(border, (float(scale[0]), float(scale[1])), shift))
        steps += [A.HorizontalFlip(p=hflip), A.VerticalFlip(p=vflip), A.RandomRotate90(p=rotate90)]
        self._moves = [step for step in steps if isinstance(step, Move)]
        self._compose = A.Compose(
            steps,
            additional_targets={"semantic": "mask", "valid": "mask"},
            bbox_params=A.BboxParams(format="pascal_voc", label_fields=["box_index"], clip=True),
            keypoint_params=A.KeypointParams(format="xy", remove_invisible=False),
            save_applied_params=True,
        )

    def __call__(self, record: Record, seed: int, mean: Colour = (0.0, 0.0, 0.0)) -> Record:
        """A new record, a function of the arguments alone.

        Args:
            record: is not changed.
            seed: of all random choices.
            mean: colour of the padding of batches.
        """
        self._compose.set_random_seed(seed % 2**32)
        for move in self._moves:
            move.fill = tuple(round(255 * value) for value in mean)
        out = self._compose(**_targets(record))
        changed = replace(record, image=out["image"])
        if record.semantic is not None:
            changed = replace(changed, semantic=IGNORE - out["semantic"])
        if record.valid is not None:
            changed = replace(changed, valid=out["valid"].astype(bool))
        if record.keypoints is not None:
            moved = np.asarray(out["keypoints"], np.float32).reshape(-1, 2) + _PIXEL_CENTRE
            changed = replace(changed, keypoints=np.where(np.isnan(record.keypoints), np.nan, moved))
        if record.masks is None:
            return self._with_boxes(changed, out)
        return self._with_masks(changed, record.masks, out)

    def _with_masks(self, record: Record, before: InstanceMasks, out: dict[str, Any]) -> Record:
        if before.flat is not None:
            masks = InstanceMasks(before.count, flat=out["mask"])
        else:
            masks = InstanceMasks(before.count, planes=np.stack(out["masks"]))
        area = masks.areas()
        visible = area / np.maximum(before.areas() * _zoom(out) ** 2, 1)
        changed = replace(record, masks=masks, boxes=masks.boxes(), area=area)
        return changed.select((visible >= self.min_visible) & (area > 0))

    def _with_boxes(self, record: Record, out: dict[str, Any]) -> Record:
        inside = np.zeros(len(record.boxes), bool)
        inside[np.asarray(out["box_index"], np.int64)] = True
        before = record.select(inside)
        boxes = np.asarray(out["bboxes"], np.float32).reshape(-1, 4)
        share = _box_area(boxes) / np.maximum(_box_area(before.boxes), 1e-6)
        changed = replace(before, boxes=boxes, area=_float32(before.area * share))
        return changed.select(share / _zoom(out) ** 2 >= self.min_visible)


def to_sample(record: Record, spec: InputSpec, pointwise: bool = False) -> Sample:
    """Resize and normalise a record as ``spec`` says; objects that are crowds are left out.

    The image is padded later, when samples are collated. ``pointwise``: give each object its point, and
    no mask.
    """
    record = record.select(~record.iscrowd)
    height, width = record.image.shape[:2]
    target = content_size((height, width), spec)
    sides = torch.tensor([width, height])
    boxes = (torch.from_numpy(record.boxes) / sides.repeat(2)).clamp(0, 1)
    masks = None
    if record.masks is not None and not pointwise:
        masks = record.masks.map(lambda plane: _nearest(plane, target))
    semantic = None if record.semantic is None else _nearest(record.semantic, target)
    image, valid = network_image(record.image, spec), _valid(record, target)
    if valid is not None:
        image = image * valid  # 0 is the mean, as in the padding of collation
    return Sample(
        image=image,
        boxes=boxes,
        labels=torch.from_numpy(record.labels),
        geometry=Geometry(record.file_size, record.window, target, target),
        image_id=record.image_id,
        file_name=record.file_name,
        masks=None if masks is None else torch.from_numpy(masks.to_planes()),
        semantic=None if semantic is None else torch.from_numpy(semantic.astype(np.int64)),
        valid=valid,
        points=(torch.from_numpy(record.points()) / sides).clamp(0, 1) if pointwise else None,
        iscrowd=torch.zeros(len(boxes), dtype=torch.bool),
        area=torch.from_numpy(record.area),
        group=record.group,
    )


def _valid(record: Record, target: tuple[int, int]) -> torch.Tensor | None:
    """bool [h, w] of the resized record, None where the whole image is shown."""
    if record.valid is None or record.valid.all():
        return None
    return torch.from_numpy(_nearest(record.valid.astype(np.uint8), target).astype(bool))


def content_size(size: tuple[int, int], spec: InputSpec) -> tuple[int, int]:
    """(height, width) of the network input, before padding, for an image of (height, width)."""
    if spec.size is None:
        return size
    if spec.fit == "square":
        return spec.size, spec.size
    scale = spec.size / max(size)
    if not spec.enlarge:
        scale = min(1.0, scale)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def network_image(image: NDArray[np.uint8], spec: InputSpec) -> torch.Tensor:
    """uint8 RGB [H, W, 3] -> float32 [3, h, w], resized and normalised; not padded."""
    target = content_size((image.shape[0], image.shape[1]), spec)
    if target != image.shape[:2]:
        smaller = target[0] * target[1] < image.shape[0] * image.shape[1]
        method = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
        image = cv2.resize(image, (target[1], target[0]), interpolation=method).astype(np.uint8, copy=False)
    scale = 1 / (255 * np.asarray(spec.std, np.float32))
    shift = np.asarray(spec.mean, np.float32) / np.asarray(spec.std, np.float32)
    return torch.from_numpy(np.ascontiguousarray((image * scale - shift).transpose(2, 0, 1)))


def _nearest(plane: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    if plane.shape == size:
        return plane
    return np.asarray(cv2.resize(plane, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT))


def _targets(record: Record) -> dict[str, Any]:
    """What albumentations gets: label maps where it can, since a plane per object is slow."""
    targets: dict[str, Any] = {"image": record.image, "bboxes": np.zeros((0, 4)), "box_index": []}
    none = np.zeros((0, 2), np.float32)
    targets["keypoints"] = (
        none if record.keypoints is None else np.nan_to_num(record.keypoints) - _PIXEL_CENTRE
    )
    if record.semantic is not None:
        targets["semantic"] = IGNORE - record.semantic  # so that the fill value 0 means "ignore"
    if record.valid is not None:
        targets["valid"] = record.valid.astype(np.uint8)
    if record.masks is None:
        targets["bboxes"], targets["box_index"] = record.boxes, np.arange(len(record.boxes))
    elif record.masks.flat is not None:
        targets["mask"] = record.masks.flat
    else:
        targets["masks"] = record.masks.planes
    return targets


def _zoom(out: dict[str, Any]) -> float:
    """Zoom that the random scale of this sample applied."""
    for name, params in out["applied_transforms"]:
        if name in ("Move", "RandomZoom"):
            return float(params["scale"]["x"])
    return 1.0


def _box_area(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    return _float32(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))


def _float32(values: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(values, np.float32)
