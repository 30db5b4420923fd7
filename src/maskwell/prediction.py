"""``python predict.py``: counts, overlays and one COCO JSON for an image or a folder of images."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig, ListConfig
from PIL import Image

from maskwell import api, build, coco_results, restore, runs
from maskwell.data.images import SUFFIXES, read_image
from maskwell.errors import UserError

RESULTS = "predictions.json"


def predict(cfg: DictConfig, origin: runs.Origin | None = None) -> Path:
    """Predict every image of ``cfg.input``; an image that cannot be read is named and left out.

    Returns:
        The folder with ``predictions.json`` and ``overlays/``.

    Raises:
        UserError: no input, no model, or no image that could be read.
    """
    source = Path(str(cfg.input)).expanduser()
    files = find_images(source)
    model, folder = _model(cfg, origin or runs.Origin())
    output = Path(cfg.output) if cfg.output else None
    root = source if source.is_dir() else source.parent
    own = output.resolve() if output else None  # pictures of an earlier prediction are no input
    reader = _Reader([file for file in files if own not in file.resolve().parents])
    found = model.predict_all(
        reader.images(),
        _prompts(cfg.prompt),
        threshold=cfg.threshold,
        tile=cfg.tile,
        overlap=cfg.overlap,
        batch_size=cfg.batch_size,
    )
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    prompts: tuple[str, ...] = ()
    for detections in found:
        name = reader.files[len(images)].relative_to(root)
        prompts = detections.prompts
        output = output or runs.create(folder, "predictions", datetime.now())
        _report(name, detections)
        _save_overlay(detections, output / "overlays" / f"{name}.png")
        height, width = detections.prediction.size
        images.append({"id": len(images) + 1, "file_name": str(name), "width": width, "height": height})
        annotations += coco_results.entries(detections.prediction, len(images), range(1, len(prompts) + 1))
    if output is None or not images:
        raise reader.nothing(source)
    _write(output / RESULTS, images, annotations, prompts)
    print(f"\nresults:  {output / RESULTS}\noverlays: {output / 'overlays'}")
    return output


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

    def __init__(self, wanted: Sequence[Path]) -> None:
        self.wanted = wanted
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
    return api.Model(build.task(cfg).to(restore.best_device())), Path()


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


def _save_overlay(detections: api.Detections, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(detections.overlay()).save(path)


def _write(
    path: Path, images: list[dict[str, Any]], annotations: list[dict[str, Any]], prompts: Sequence[str]
) -> None:
    categories = [{"id": index, "name": prompt} for index, prompt in enumerate(prompts, 1)]
    numbered = [{"id": index, **entry, "iscrowd": 0} for index, entry in enumerate(annotations, 1)]
    coco_results.write({"images": images, "annotations": numbered, "categories": categories}, path)
