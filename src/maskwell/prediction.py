"""``python predict.py``: what a model sees in an image or a folder of images, as pictures and figures.

Objects: counts, overlays and one COCO JSON. Classes of pixels: overlays, index masks and areas.
Points: numbered marks, COCO keypoints, and CSVs of the points and of their number in each image.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig, ListConfig
from PIL import Image

from maskwell import api, build, coco_results, point_results, restore, runs, semantic_results
from maskwell.data.images import SUFFIXES, read_image
from maskwell.errors import UserError

RESULTS, AREAS = "predictions.json", "areas.csv"
POINTS, COUNTS = "points.csv", "counts.csv"


def predict(cfg: DictConfig, origin: runs.Origin | None = None) -> Path:
    """Predict every image of ``cfg.input``; an image that cannot be read is named and left out.

    Returns:
        The folder with ``overlays/`` and ``predictions.json`` (of points also ``points.csv`` and
        ``counts.csv``), or ``masks/`` and ``areas.csv``.

    Raises:
        UserError: no input, no model, or no image that could be read.
    """
    source = Path(str(cfg.input)).expanduser()
    files = find_images(source)
    model, folder = _model(cfg, origin or runs.Origin())
    output = Path(cfg.output) if cfg.output else None
    root = source if source.is_dir() else source.parent
    own = output.resolve() if output else None  # pictures of an earlier prediction are no input
    reader = _Reader([file for file in files if own not in file.resolve().parents], root)
    job = _Job(cfg, reader, output, folder)
    kind = _mark if model.task.pointwise else _segment if model.task.semantic else _detect
    written = kind(model, job)
    if not written:
        raise reader.nothing(source)
    print()
    for name, path in written.items():
        print(f"{name + ':':<9} {path}")
    return job.output


@dataclass
class _Job:
    """What is to be predicted, and where it goes: ``given``, or else a new folder of ``run``."""

    cfg: DictConfig
    reader: _Reader
    given: Path | None
    run: Path

    @cached_property
    def output(self) -> Path:
        """Made where there is something to write."""
        return self.given or runs.create(self.run, "predictions", datetime.now())

    @property
    def windows(self) -> dict[str, Any]:
        return {"tile": self.cfg.tile, "overlap": self.cfg.overlap, "batch_size": self.cfg.batch_size}


def _detect(model: api.Model, job: _Job) -> dict[str, Path]:
    """Overlays and predictions.json; nothing where no image could be read."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    prompts: tuple[str, ...] = ()
    asked = _prompts(job.cfg.prompt)
    found = model.predict_all(job.reader.images(), asked, threshold=job.cfg.threshold, **job.windows)
    for detections in found:
        name = job.reader.name(len(images))
        prompts = detections.prompts
        _report(name, detections)
        _save_overlay(detections.overlay(), job.output / "overlays" / f"{name}.png")
        height, width = detections.prediction.size
        images.append({"id": len(images) + 1, "file_name": str(name), "width": width, "height": height})
        annotations += coco_results.entries(detections.prediction, len(images), range(1, len(prompts) + 1))
    if not images:
        return {}
    _write(job.output / RESULTS, images, annotations, prompts)
    return {"results": job.output / RESULTS, "overlays": job.output / "overlays"}


def _segment(model: api.Model, job: _Job) -> dict[str, Path]:
    """Overlays, index masks and areas.csv; nothing where no image could be read."""
    if job.cfg.prompt is not None:
        raise UserError("prompt= is for models that find objects; this one knows its classes and no others.")
    areas: list[tuple[str, dict[str, int]]] = []
    for found in model.segment_all(job.reader.images(), **job.windows):
        name = job.reader.name(len(areas))
        areas.append((str(name), found.areas()))
        _report_areas(name, areas[-1][1])
        _save_overlay(found.overlay(), job.output / "overlays" / f"{name}.png")
        semantic_results.save_index_map(found.classes, job.output / "masks" / job.reader.mask_name(name))
    if not areas:
        return {}
    semantic_results.write_areas(areas, job.output / AREAS)
    return {
        "areas": job.output / AREAS,
        "masks": job.output / "masks",
        "overlays": job.output / "overlays",
    }


def _mark(model: api.Model, job: _Job) -> dict[str, Path]:
    """Overlays with numbered marks, predictions.json, points.csv and counts.csv."""
    if job.cfg.prompt is not None:
        raise UserError("prompt= is for models that answer phrases; this one marks what it was trained on.")
    if job.cfg.tile is not None:
        raise UserError(f"tile={job.cfg.tile}: this model marks points on whole images; give tile=null.")
    marked: list[point_results.Marked] = []
    for found in model.mark_all(job.reader.images(), batch_size=job.cfg.batch_size):
        name = job.reader.name(len(marked))
        marked.append(point_results.Marked(str(name), found.prediction))
        _report_marks(name, found)
        _save_overlay(found.overlay(), job.output / "overlays" / f"{name}.png")
    if not marked:
        return {}
    coco_results.write(point_results.dataset(marked, model.phrases), job.output / RESULTS)
    point_results.write_points(marked, job.output / POINTS)
    point_results.write_counts(marked, job.output / COUNTS)
    return {
        "results": job.output / RESULTS,
        "points": job.output / POINTS,
        "counts": job.output / COUNTS,
        "overlays": job.output / "overlays",
    }


def find_images(source: Path) -> list[Path]:
    """The image itself, or all image files below a folder in a fixed order, hidden ones left out.

    Raises:
        UserError: nothing is there.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise UserError(f"input={source}: there is no such image or folder.")
    files = [
        path
        for path in sorted(source.rglob("*"))
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(source).parts)
    ]
    if not files:
        raise UserError(f"input={source}: the folder holds no image ({', '.join(sorted(SUFFIXES))}).")
    return files


class _Reader:
    """Reads images one by one; ``files`` lists those that could be read, ``failed`` what was wrong."""

    def __init__(self, wanted: Sequence[Path], root: Path) -> None:
        self.wanted, self.root = wanted, root
        self.files: list[Path] = []
        self.failed: list[UserError] = []

    def images(self) -> Iterator[NDArray[np.uint8]]:
        for path in self.wanted:
            try:
                image = read_image(path)
            except UserError as error:
                self.failed.append(error)
                if len(self.wanted) > 1:
                    print(f"warning: {error}", file=sys.stderr)
                continue
            self.files.append(path)
            yield image

    def name(self, index: int) -> Path:
        """Of an image that was read, relative to the folder."""
        return self.files[index].relative_to(self.root)

    def mask_name(self, name: Path) -> Path:
        """``<stem>.png``, as training looks for masks; the whole name where two images share a stem."""
        stem = self.root / name.with_suffix("")
        twins = sum(path.with_suffix("") == stem for path in self.wanted)
        return name.with_suffix(".png") if twins == 1 else Path(f"{name}.png")

    def nothing(self, source: Path) -> UserError:
        if len(self.wanted) == 1:
            return self.failed[0]
        return UserError(f"input={source}: none of the {len(self.wanted)} images could be read.")


def _model(cfg: DictConfig, origin: runs.Origin) -> tuple[api.Model, Path]:
    """The model, and the folder of its run (here, where it has none)."""
    if cfg.ckpt and cfg.base:
        raise UserError("ckpt= brings its own base; give ckpt= or base=, not both.")
    if cfg.ckpt:
        path = restore.find(cfg.ckpt, Path(cfg.paths.runs), build.family(cfg))
        print(f"checkpoint: {path}")
        restored = restore.restore(
            path, lambda stored: restore.with_overrides(stored, cfg, origin, path, ("model",))
        )
        return api.from_restored(restored), runs.folder_of(path) or Path()
    if not cfg.base:
        raise UserError("No model was named: give ckpt=last, a run folder or a .ckpt file, or base=tiny.")
    cfg.model.base = cfg.base
    task = build.task(cfg)
    if not task.promptable:
        raise UserError(f"base= is for models that answer words; model={task.family} wants ckpt=.")
    return api.Model(task.to(restore.best_device())), Path()


def _prompts(prompt: Any) -> str | list[str] | None:
    if prompt is None:
        return None
    if isinstance(prompt, ListConfig):
        return [str(text) for text in prompt]
    return str(prompt)


def _report(name: Path, detections: api.Detections) -> None:
    print(f"\n{name}\n  Detected objects: {detections.count}")
    if len(detections.prompts) > 1:
        counts = Counter(detections.labels)
        print("    " + ", ".join(f"{prompt}: {counts[prompt]}" for prompt in detections.prompts))
    print(f"  Max confidence: {detections.max_confidence:.2f}")


def _report_areas(name: Path, areas: dict[str, int]) -> None:
    whole = sum(areas.values())
    largest = sorted(areas.items(), key=lambda entry: -entry[1])
    print(f"\n{name}\n  " + ", ".join(f"{label} {count / whole:.1%}" for label, count in largest if count))


def _report_marks(name: Path, found: api.Marks) -> None:
    print(f"\n{name}\n  Marked objects: {found.count}")
    if not found.complete:
        print(
            f"warning: {name}: the marking ended at the largest number of points (model.max_points) or at "
            "a point that was marked already, so that objects may be missing.",
            file=sys.stderr,
        )


def _save_overlay(picture: NDArray[np.uint8], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def _write(
    path: Path, images: list[dict[str, Any]], annotations: list[dict[str, Any]], prompts: Sequence[str]
) -> None:
    categories = [{"id": index, "name": prompt} for index, prompt in enumerate(prompts, 1)]
    numbered = [{"id": index, **entry, "iscrowd": 0} for index, entry in enumerate(annotations, 1)]
    coco_results.write({"images": images, "annotations": numbered, "categories": categories}, path)
