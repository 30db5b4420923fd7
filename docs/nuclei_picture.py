"""Draws docs/nuclei.png: truth, the base and its adapter on test images of dsb2018 (CC0).

RUN_FOLDER: a training with experiment=sam_lora_dsb2018, such as those of benchmarks/base.py.

MASKWELL_DATA=/path/to/data python docs/nuclei_picture.py RUN_FOLDER
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from maskwell import build, draw, restore
from maskwell.data.dataset import truth_of
from maskwell.data.sample import Prediction, Prompt, Truth
from maskwell.inference import Request, predict_images

NUMBERS = (3, 10)  # test images: few large nuclei, many small ones
SIDE, GAP, THRESHOLD, TILE = 420, 8, 0.4, 80


def main(run: str) -> None:
    restored = restore.restore(restore.find(run, Path("runs"), "sam_lora"))
    data = build.datamodule(restored.cfg, restored.task)
    base = build.task(restored.cfg)  # fresh adapters are zero: this is the base
    rows = []
    for number in NUMBERS:
        record = data.source.read("test", number, 0, None)
        columns = {"truth": truth_of(record)}
        for name, task in (("base", base), ("adapter", restored.task)):
            asked = [Request(record.image, (Prompt("cell nucleus", (), 0),))]
            (found,) = predict_images(task, asked, tile=TILE, batch_size=16, min_score=THRESHOLD)
            columns[name] = _without_scores(found)
        titled = [
            _titled(draw.overlay(record.image, objects), f"{name}: {len(objects.labels)}")
            for name, objects in columns.items()
        ]
        rows.append(np.hstack(titled))
    picture = Image.fromarray(np.vstack(rows)).quantize(128)
    picture.save(Path(__file__).parent / "nuclei.png", optimize=True)


def _without_scores(found: Prediction) -> Truth:
    """Crowded pictures are easier to read without a score on every object."""
    none = torch.zeros(len(found.labels))
    return Truth(found.size, found.boxes, found.labels, none.bool(), none, found.rles)


def _titled(picture: np.ndarray, title: str) -> np.ndarray:
    square = cv2.resize(picture[: min(picture.shape[:2]), : min(picture.shape[:2])], (SIDE, SIDE))
    bar = np.full((30, SIDE, 3), 245, np.uint8)
    cv2.putText(bar, title, (8, 21), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (30, 30, 30), 1, cv2.LINE_AA)
    return np.pad(np.vstack([bar, square]), ((0, GAP), (0, GAP), (0, 0)), constant_values=255)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(sys.argv[1])
