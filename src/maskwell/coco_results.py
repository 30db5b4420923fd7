"""Predictions as COCO JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maskwell.data.sample import Prediction
from maskwell.ops import masks as mask_ops


def entries(prediction: Prediction, image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """One COCO result per detection: box as (x, y, width, height) px, score, RLE with text counts.

    ``category_ids``: by label; detections with a negative label (words that are no category) are left out.
    """
    areas = None if prediction.rles is None else mask_ops.area(prediction.rles).tolist()
    results = []
    for index, label in enumerate(prediction.labels.tolist()):
        if label < 0:
            continue
        left, top, right, bottom = (round(value, 2) for value in prediction.boxes[index].tolist())
        entry = {
            "image_id": image_id,
            "category_id": int(category_ids[label]),
            "bbox": [left, top, round(right - left, 2), round(bottom - top, 2)],
            "score": round(float(prediction.scores[index]), 5),
        }
        if prediction.rles is not None and areas is not None:
            rle = prediction.rles[index]
            size = [int(side) for side in rle["size"]]
            entry["segmentation"] = {"size": size, "counts": rle["counts"].decode("ascii")}
            entry["area"] = areas[index]
        results.append(entry)
    return results


def write(content: object, path: Path) -> None:
    """Write JSON so that ``path`` is never half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.tmp")
    beside.write_text(json.dumps(content) + "\n", encoding="utf-8")
    beside.replace(path)
