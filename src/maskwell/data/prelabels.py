"""Predictions as annotations that people correct: COCO with polygons, which CVAT and Label Studio import.

python -m maskwell.data.prelabels runs/.../predictions/.../predictions.json annotations.json --min-score 0.4
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from maskwell.errors import UserError
from maskwell.ops.masks import Rle

TOLERANCE = 0.75
"""Pixels by which an outline may be off, so that it has few corners to drag."""
_FINER = 4  # an outline runs along the edges of pixels: traced on a mask that is finer than they are


def polygons(rle: Rle, tolerance: float = TOLERANCE) -> list[list[float]]:
    """Outlines [x1, y1, x2, y2, ...] in pixels of every part of a mask.

    Polygons have no holes: those of the mask are filled. Specks that have no three corners are left out.
    """
    x, y, width, height = (int(value) for value in coco_mask.toBbox(rle))
    if not width or not height:
        return []
    part = np.ascontiguousarray(coco_mask.decode(rle)[y : y + height, x : x + width])
    return [[round(v, 2) for v in outline] for outline in outlines(part, (x, y), tolerance)]


def outlines(
    mask: NDArray[np.uint8], corner: tuple[int, int] = (0, 0), tolerance: float = TOLERANCE
) -> list[list[float]]:
    """The same of a mask uint8 [h, w] whose top left pixel lies at ``corner`` (x, y)."""
    fine = np.kron(mask, np.ones((_FINER, _FINER), np.uint8))
    found, _ = cv2.findContours(fine, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    shift = np.array(corner, np.float64)
    rings = []
    for contour in found:
        ring = cv2.approxPolyDP(contour, tolerance * _FINER, True)[:, 0].astype(np.float64)
        if len(ring) >= 3:
            rings.append(((ring + 0.5) / _FINER + shift).ravel().tolist())
    return rings


def correctable(content: dict[str, Any], min_score: float = 0.0) -> dict[str, Any]:
    """A COCO dataset of predictions with outlines instead of run lengths, and without unsure objects.

    Args:
        content: as ``predict.py`` writes it: images, annotations with ``score``, categories.
        min_score: annotations below it are left out; keypoints and plain boxes are kept as they are.

    Raises:
        UserError: it is a plain list of results, without images and categories.
    """
    if not isinstance(content, dict) or not {"images", "annotations", "categories"} <= content.keys():
        raise UserError(
            "The predictions have no images and categories beside them; use predictions.json of predict.py."
        )
    kept: list[dict[str, Any]] = []
    for annotation in content["annotations"]:
        if annotation.get("score", 1.0) < min_score:
            continue
        entry = dict(annotation)
        if isinstance(entry.get("segmentation"), dict):
            entry["segmentation"] = polygons(entry["segmentation"])
            if not entry["segmentation"]:
                continue
        kept.append({**entry, "id": len(kept) + 1, "iscrowd": 0})
    return {**content, "annotations": kept}


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; see above."""
    parser = argparse.ArgumentParser(
        prog="python -m maskwell.data.prelabels",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("predictions", type=Path, help="predictions.json of predict.py")
    parser.add_argument("annotations", type=Path, help="COCO file to import")
    parser.add_argument("--min-score", type=float, default=0.0, help="leave out what is less sure")
    given = parser.parse_args(arguments)
    try:
        try:
            content = json.loads(given.predictions.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{given.predictions} cannot be read as JSON ({error}).") from error
        written = correctable(content, given.min_score)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    given.annotations.parent.mkdir(parents=True, exist_ok=True)
    given.annotations.write_text(json.dumps(written) + "\n", encoding="utf-8")
    print(f"{given.annotations}: {len(written['images'])} images, {len(written['annotations'])} annotations")


if __name__ == "__main__":
    main()
