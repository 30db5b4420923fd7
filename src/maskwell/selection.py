"""The command behind ``python -m maskwell.data.select``: what to label next, with pre-labels."""

from __future__ import annotations

import argparse
import csv
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskwell import api, coco_results, point_results
from maskwell.data import select
from maskwell.data.duplicates import near_duplicates, signature
from maskwell.data.images import read_image
from maskwell.data.prelabels import correctable, outlines
from maskwell.data.sample import Prediction, Prompt
from maskwell.errors import UserError
from maskwell.image_results import THRESHOLD
from maskwell.inference import Request, predict_images
from maskwell.metrics.quality import quality
from maskwell.prediction import find_images

COLUMNS = ("image", "chosen", "score", "uncertainty", "disagreement", "found")
ANNOTATIONS = Path("annotations") / "instances_default.json"
"""Where CVAT looks for the annotations of an imported COCO folder."""
SPECK = 16
"""Regions of fewer pixels become no pre-label of a class map."""


def run(ckpt: str, source: Path, output: Path, count: int, tile: int | None = None) -> list[str]:
    """Judge every image, copy the chosen ones with their pre-labels, and write the table.

    Args:
        ckpt: a run folder or a checkpoint file.
        source: folder of images.
        output: new or empty folder.
        count: images to choose, those of which a near duplicate is chosen left out.
        tile: side of the windows of large images, px; None: whole images.

    Returns:
        Names of the chosen images, the most rewarding first.

    Raises:
        UserError: no model, no images, or an output folder that holds something.
    """
    if count < 1:
        raise UserError(f"--count {count}: choose at least one image.")
    if output.exists() and any(output.iterdir()):
        raise UserError(f"{output} is not empty; give a new folder.")
    files = find_images(source)
    root = source if source.is_dir() else source.parent
    names = [str(path.relative_to(root)) for path in files]
    model = api.load(ckpt)
    hashes, thumbnails, found, judged = [], [], [], []
    for name, (image, own, mirror) in zip(names, _answers(model, files, tile), strict=True):
        signs = signature(image)
        hashes.append(signs[0])
        thumbnails.append(signs[1])
        found.append(own)
        judged.append(_judge(name, own, mirror, model.task.threshold))
    scores = select.scores(judged)
    chosen = select.choose(scores, near_duplicates(np.stack(hashes), np.stack(thumbnails)), count)
    _write_table(judged, scores, set(chosen), output / "select.csv")
    for index in chosen:
        target = output / "images" / names[index]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(files[index], target)
    content = prelabels(model, [(names[index], found[index]) for index in chosen])
    coco_results.write(content, output / ANNOTATIONS)
    return [names[index] for index in chosen]


def _answers(
    model: api.Model, files: Sequence[Path], tile: int | None
) -> Iterator[tuple[NDArray[np.uint8], Prediction, Prediction]]:
    """Each image, what the model says of it, and what it says of its mirror image, mirrored back."""
    prompts = tuple(Prompt(text, (), label) for label, text in enumerate(model.phrases))
    images: list[NDArray[np.uint8]] = []

    def requests() -> Iterator[Request]:
        for path in files:
            images.append(read_image(path))
            yield Request(images[-1], prompts)
            yield Request(np.ascontiguousarray(images[-1][:, ::-1]), prompts)

    answers = predict_images(model.task, requests(), tile=tile, min_score=0.05)
    for own, mirror in zip(answers, answers, strict=True):
        yield images.pop(0), own, select.mirrored(mirror)


def _judge(name: str, own: Prediction, mirror: Prediction, threshold: float | None) -> select.Judged:
    least = THRESHOLD if threshold is None else threshold
    if own.points is not None:
        least = 0.0  # all that was marked counts
    truth = select.as_truth(own, least)
    agreement = quality(mirror, truth, least).score
    return select.Judged(name, select.uncertainty(own), 1 - agreement, len(truth.labels))


def _write_table(
    judged: Sequence[select.Judged], scores: select.Floats, chosen: set[int], path: Path
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for index in sorted(range(len(judged)), key=lambda i: (-scores[i], i)):
            of = judged[index]
            figures = [f"{value:.4f}" for value in (scores[index], of.uncertainty, of.disagreement)]
            table.writerow([of.name, "yes" if index in chosen else "no", *figures, of.found])


def prelabels(
    model: api.Model,
    chosen: Sequence[tuple[str, Prediction]],
    phrases: Sequence[str] | None = None,
    least: float | None = None,
) -> dict[str, Any]:
    """A COCO dataset of what the model says, with outlines, for people to correct.

    Args:
        model: of any family.
        chosen: name of each image and what was said of it.
        phrases: what was asked, by label; None: what the model was trained with.
        least: lowest score that is kept; None: that which the model has chosen, else 0.3.
    """
    names = tuple(model.phrases if phrases is None else phrases)
    if model.task.pointwise:
        return point_results.dataset([point_results.Marked(*one) for one in chosen], names)
    if least is None:
        least = THRESHOLD if model.task.threshold is None else model.task.threshold
    ids = range(1, len(names) + 1)
    images, annotations = [], []
    for number, (name, prediction) in enumerate(chosen, 1):
        height, width = prediction.size
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        if prediction.semantic is not None:
            annotations += _regions(prediction.semantic.numpy(), names, number)
        else:
            annotations += coco_results.entries(prediction, number, ids)
    categories = [{"id": number, "name": name} for number, name in zip(ids, names, strict=True)]
    dataset = {"images": images, "annotations": annotations, "categories": categories}
    return correctable(dataset, least)


def _regions(classes: NDArray[np.int64], names: Sequence[str], image_id: int) -> list[dict[str, Any]]:
    """One annotation per connected region of a class map; a class called background has none."""
    import cv2

    found = []
    for label in np.unique(classes).tolist():
        if label >= len(names) or names[label].lower() == "background":
            continue
        count, regions, boxes, _ = cv2.connectedComponentsWithStats((classes == label).astype(np.uint8))
        for region in range(1, count):
            x, y, width, height, area = boxes[region].tolist()
            if area < SPECK:
                continue
            part = (regions[y : y + height, x : x + width] == region).astype(np.uint8)
            found.append(
                {
                    "image_id": image_id,
                    "category_id": label + 1,
                    "bbox": [x, y, width, height],
                    "area": area,
                    "segmentation": outlines(part, (x, y)),
                }
            )
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; see :mod:`maskwell.data.select`."""
    parser = argparse.ArgumentParser(
        prog="python -m maskwell.data.select",
        description=select.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("ckpt", help="a run folder or a checkpoint file")
    parser.add_argument("images", type=Path, help="folder of images without labels")
    parser.add_argument("--output", type=Path, default=Path("to_label"), help="new folder (to_label)")
    parser.add_argument("--count", type=int, default=20, help="images to choose (default: 20)")
    parser.add_argument("--tile", type=int, help="side of the windows of large images, px")
    given = parser.parse_args(arguments)
    try:
        names = run(given.ckpt, given.images, given.output, given.count, given.tile)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    for name in names:
        print(name)
    print(f"\nimages and pre-labels: {given.output} (import {ANNOTATIONS} as COCO)")
    print(f"every image's score:   {given.output / 'select.csv'}")
