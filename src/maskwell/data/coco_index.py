"""What COCO annotation files say, checked and indexed; masks stay encoded until they are needed."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from maskwell.data import rle
from maskwell.data.coco_entries import LARGEST, check_segmentation, number, outline, shown, side
from maskwell.data.layouts import Layout
from maskwell.data.sample import Rle
from maskwell.errors import UserError
from maskwell.reading import check_name

_POINT_SIDE = 3  # px of the box that stands for a point without extent
Segmentation = Rle | list[list[float]] | dict[str, Any] | None


@dataclass
class CocoImage:
    """One image and its annotations, as the file has them.

    ``size`` (height, width) or None where the file does not say; ``boxes`` float32 [N, 4] xyxy
    pixels; ``labels`` int64 [N], contiguous; ``area`` float32 [N]; ``iscrowd`` bool [N];
    ``segmentations`` one per object, in any of COCO's forms, None for a box alone; ``keypoints`` float32
    [N, 2], see :func:`first_keypoint`, NaN where an object has none; ``points_only``: how many objects
    are keypoints without box or mask, which get a small box around it.
    """

    image_id: int
    file_name: str
    path: Path
    size: tuple[int, int] | None
    group: str | None
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    area: NDArray[np.float32]
    iscrowd: NDArray[np.bool_]
    segmentations: list[Segmentation]
    annotation_ids: list[Any]
    keypoints: NDArray[np.float32]
    points_only: int = 0

    def rles(self, rows: NDArray[np.int64], size: tuple[int, int]) -> list[Rle]:
        """Compressed masks of ``rows`` at ``size``; polygons are encoded once and kept so.

        An object with a box alone counts as the filled box: tools write rectangles without outline.
        """
        encoded = []
        for row in rows:
            found = self.segmentations[row]
            if not (isinstance(found, dict) and isinstance(found["counts"], bytes)):
                found = _encode(found, self.boxes[row], size)
                self.segmentations[row] = found
            if list(found["size"]) != list(size):
                raise ValueError(f"the mask is {found['size'][0]}x{found['size'][1]} pixels")
            encoded.append(Rle(size=found["size"], counts=found["counts"]))
        return encoded


def _encode(segmentation: Segmentation, box: NDArray[np.float32], size: tuple[int, int]) -> Rle:
    height, width = size
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        if isinstance(counts, str):
            return Rle(size=list(segmentation["size"]), counts=counts.encode("ascii"))
        mask_height, mask_width = segmentation["size"]
        if any(run < 0 for run in counts) or sum(counts) != mask_height * mask_width:
            raise ValueError("the runs do not cover the image")
        encoded = coco_mask.frPyObjects(dict(segmentation), mask_height, mask_width)
        return Rle(size=encoded["size"], counts=encoded["counts"])
    x1, y1, x2, y2 = (float(v) for v in box)
    outlines = [
        outline(ring).tolist() for ring in segmentation or [] if len(ring) >= 6 and len(ring) % 2 == 0
    ]
    outlines = outlines or [[x1, y1, x2, y1, x2, y2, x1, y2]]
    encoded = coco_mask.merge(coco_mask.frPyObjects(outlines, height, width))
    return Rle(size=encoded["size"], counts=encoded["counts"])


def inside(folder: Path, file_name: object, file: Path) -> Path:
    """``folder / file_name``, refused where the name would leave the folder.

    Raises:
        UserError: for absolute names and for names that climb out.
    """
    if not isinstance(file_name, str) or not file_name:
        raise UserError(f"An image in '{file}' has no file_name.")
    check_name(file_name, f"An image in '{file}'")
    name = os.path.normpath(file_name.replace("\\", "/"))
    if name.startswith("/") or name.split("/")[0] == ".." or re.match(r"[A-Za-z]:/", name):
        raise UserError(
            f"The file_name '{file_name}' in '{file}' leaves the image folder, which is refused; write names "
            "relative to it."
        )
    return folder / name


def read_images(
    content: Mapping[str, Any], file: Path, layout: Layout, labels: Mapping[int, int], group_key: str
) -> list[CocoImage]:
    """Images of one annotation file with their annotations.

    Args:
        content: of ``file``, from :func:`~maskwell.data.coco_entries.load_coco`; ``layout``: knows where
            its images lie.
        labels: category id -> contiguous label, over all files of the dataset.
        group_key: key of an image's entry that names its group.

    Raises:
        UserError: an id twice, an unknown image or category, a name that leaves the folder, a box
            that is none, or a missing image.
    """
    folder = _image_folder(content["images"], layout, file)
    rows: dict[int, list[dict[str, Any]]] = {}
    for entry in content["images"]:
        if type(entry.get("id")) is not int:
            raise UserError(
                f"The image {shown(entry.get('file_name'))} in '{file}' has no whole number as its id."
            )
        if entry["id"] in rows:
            raise UserError(f"Two images in '{file}' have the id {entry['id']}; make the ids unique.")
        rows[entry["id"]] = []
    for annotation in content["annotations"]:
        image_id = annotation.get("image_id")
        if type(image_id) is not int or image_id not in rows:
            raise UserError(
                f"Annotation {shown(annotation.get('id'))} in '{file}' belongs to image {shown(image_id)}, "
                "which the file does not list."
            )
        rows[image_id].append(_checked(annotation, labels, file))
    images = [
        _image(entry, rows[entry["id"]], folder, labels, group_key, file) for entry in content["images"]
    ]
    missing = [image.path for image in images if not image.path.is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(images)} images of '{file}' are missing, the first is '{missing[0]}'."
        )
    return images


def _image_folder(images: Sequence[Mapping[str, Any]], layout: Layout, file: Path) -> Path:
    folders = layout.image_folders(file)
    if not images:
        return folders[0]
    names = [entry.get("file_name") for entry in images[:20]]
    found = Counter({f: sum(inside(f, name, file).is_file() for name in names) for f in folders})
    best, count = found.most_common(1)[0]
    if count == 0:
        looked = ", ".join(f"'{folder}'" for folder in folders if folder.is_dir()) or f"'{layout.root}'"
        raise UserError(
            f"The images of '{file}' (such as '{names[0]}') were not found in {looked}; set data.images to "
            "their folder."
        )
    return best


def _checked(annotation: dict[str, Any], labels: Mapping[int, int], file: Path) -> dict[str, Any]:
    """The annotation, with a box."""
    which = f"Annotation {shown(annotation.get('id'))} in '{file}'"
    category = annotation.get("category_id")
    if type(category) is not int or category not in labels:
        raise UserError(f"{which} has the category {shown(category)}, which the file does not list.")
    try:
        point = first_keypoint(annotation)
    except ValueError as error:
        raise UserError(f"{which} has keypoints that are none: {error}.") from error
    try:
        check_segmentation(annotation.get("segmentation"))
        box = annotation.get("bbox") or _box_of(annotation.get("segmentation"))
    except ValueError as error:
        raise UserError(f"{which} cannot be used: {error}; mend or remove it.") from error
    if annotation.get("area") is not None and number(annotation["area"]) is None:
        raise UserError(f"{which} has the area {shown(annotation['area'])}; it is a number of pixels.")
    if point is not None and is_point(annotation):
        left, top = (math.floor(v) - _POINT_SIDE // 2 for v in point)
        return {**annotation, "bbox": (left, top, _POINT_SIDE, _POINT_SIDE), "points_only": True}
    try:
        x, y, w, h = (float(v) for v in box or ())
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"{which} has the box {shown(box)}; a box is four numbers, [x, y, width, height]."
        ) from error
    if not np.isfinite([x, y, w, h]).all() or w < 0 or h < 0 or max(map(abs, (x, y, w, h))) > LARGEST:
        raise UserError(
            f"{which} has the box {shown(box)}, which is not finite or has a negative side; mend or remove "
            "it."
        )
    return {**annotation, "bbox": (x, y, w, h)}


def first_keypoint(annotation: Mapping[str, Any]) -> tuple[float, float] | None:
    """Where an annotation itself says that its object is: (x, y) of its first keypoint, if it is labelled.

    Raises:
        ValueError: the keypoints are not COCO's list of x, y and visibility for each.
    """
    given = annotation.get("keypoints")
    if not given:
        return None
    numbers = isinstance(given, list) and all(isinstance(v, int | float) and abs(v) <= LARGEST for v in given)
    if not numbers or len(given) % 3:
        raise ValueError("COCO's are a list of x, y and visibility for each")
    return (float(given[0]), float(given[1])) if given[2] > 0 else None


def is_point(annotation: Mapping[str, Any]) -> bool:
    """Whether an annotation has neither a mask nor a box with sides."""
    box = annotation.get("bbox") or (0, 0, 0, 0)
    if not isinstance(box, list | tuple):
        return False
    return not annotation.get("segmentation") and len(box) == 4 and all(side == 0 for side in box[2:])


def _box_of(segmentation: Any) -> list[float] | None:
    """COCO box of a segmentation, for files that leave the boxes out."""
    if isinstance(segmentation, list) and any(segmentation):
        points = np.concatenate([outline(ring).reshape(-1, 2) for ring in segmentation if ring])
        low, high = points.min(0), points.max(0)
        return [*low.tolist(), *(high - low).tolist()]
    if isinstance(segmentation, dict):
        encoded = _encode(segmentation, np.zeros(4, np.float32), (0, 0))
        rle.decode([encoded])  # the library's own code trusts what it is given
        return [float(v) for v in coco_mask.toBbox(dict(encoded))]
    return None


def _image(
    entry: Mapping[str, Any],
    annotations: list[dict[str, Any]],
    folder: Path,
    labels: Mapping[int, int],
    group_key: str,
    file: Path,
) -> CocoImage:
    # A box without area holds no object that could be found; data-check counts them.
    kept = [a for a in annotations if a["bbox"][2] > 0 and a["bbox"][3] > 0]
    boxes = np.array([a["bbox"] for a in kept], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    areas = [a["area"] if a.get("area") is not None else a["bbox"][2] * a["bbox"][3] for a in kept]
    height, width = side(entry, "height", file), side(entry, "width", file)
    group = entry.get(group_key)
    return CocoImage(
        image_id=entry["id"],
        file_name=str(entry.get("file_name")),
        path=inside(folder, entry.get("file_name"), file),
        size=(height, width) if height and width else None,
        group=None if group is None else shown(group) if isinstance(group, list | dict) else str(group),
        boxes=boxes.astype(np.float32),
        labels=np.array([labels[a["category_id"]] for a in kept], np.int64),
        area=np.array(areas, np.float32),
        iscrowd=np.array([bool(a.get("iscrowd", 0)) for a in kept], bool),
        segmentations=[a.get("segmentation") or None for a in kept],
        annotation_ids=[a.get("id") for a in kept],
        keypoints=np.array([first_keypoint(a) or (np.nan, np.nan) for a in kept], np.float32).reshape(-1, 2),
        points_only=sum("points_only" in a for a in kept),
    )


def read_categories(contents: Mapping[Path, Mapping[str, Any]]) -> dict[int, str]:
    """Category id -> name over all files (path -> content), ids ascending.

    Roboflow's placeholder, a category 0 that is only the supercategory of the others and has no
    annotations, is left out.

    Raises:
        UserError: one id with two names, or one name with two ids.
    """
    names: dict[int, str] = {}
    parents: set[str] = set()
    used: set[int] = set()
    for file, content in contents.items():
        used |= {a["category_id"] for a in content["annotations"] if type(a.get("category_id")) is int}
        for category in content["categories"]:
            if names.setdefault(category["id"], category["name"]) != category["name"]:
                raise UserError(
                    f"Category {category['id']} is '{category['name']}' in '{file}' and "
                    f"'{names[category['id']]}' in another file of the dataset."
                )
            parents.add(str(category.get("supercategory")))
    names = {
        i: n for i, n in names.items() if not (i == 0 and n in parents and i not in used and len(names) > 1)
    }
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    if twice:
        raise UserError(f"The category '{twice[0]}' has several ids in '{next(iter(contents))}'; merge them.")
    return dict(sorted(names.items()))
