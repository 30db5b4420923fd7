"""A trained model as files for others.

python -m maskwell.export runs/detr/2026-11-21_10-00-00 exported/ --onnx
python -m maskwell.export last exported/ --half

Writes model.safetensors, which maskwell loads again, and a model card; of sam_lora also the adapter as a
peft folder and the merged model in Hub layout; with --onnx the graphs of detr, s4gan, points and the vision
part of sam_lora, compared with PyTorch on images of the data that the model was trained on, or of --images.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig

from maskwell import build, checkpoint, restore, runs
from maskwell.data.images import read_image
from maskwell.data.sample import Batch
from maskwell.errors import UserError
from maskwell.export import onnx, weights
from maskwell.export.card import card
from maskwell.inference import Request, batch_of
from maskwell.models.base import BaseTask
from maskwell.models.sam_lora.module import SamLora
from maskwell.prediction import find_images
from maskwell.report.run import Run

COMPARED = 4
"""Images on which ONNX is held against PyTorch."""


def export(
    ckpt: str,
    folder: Path,
    *,
    graphs: bool = False,
    half: bool = False,
    images: Path | None = None,
    root: Path = Path("runs"),
) -> dict[str, float]:
    """Write everything that the family has into ``folder``.

    Args:
        ckpt: a run folder, a checkpoint file, or ``last``.
        folder: new or empty.
        graphs: ONNX too.
        half: float16 weights in the merged model of sam_lora.
        images: an image or a folder of them to compare ONNX on; None: of the run's own data.
        root: where ``last`` looks.

    Returns:
        Largest difference of each ONNX graph from PyTorch; empty without graphs.

    Raises:
        UserError: no such checkpoint, the folder holds something, or ONNX is not to be had.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty; give a new folder for the export.")
    path = restore.find(ckpt, root, "")
    restored = restore.restore(path)
    task, cfg = restored.task, restored.cfg
    folder.mkdir(parents=True, exist_ok=True)
    weights.write(checkpoint.read(path), folder / "model.safetensors")
    files = {"model.safetensors": "all weights; `maskwell.load('model.safetensors')` and ckpt= take it"}
    if isinstance(task, SamLora):
        task.save_merged(folder / "merged", dtype=torch.float16 if half else torch.float32)
        files["merged/"] = "the whole model in Hub layout, adapters merged; serves as model.base="
        if task.save_adapter(folder / "adapter"):
            files["adapter/"] = "the adapter alone, for peft.PeftModel.from_pretrained"
    worst: dict[str, float] = {}
    if graphs:
        batch = _images(task, images) if images else _own_images(task, cfg)
        worst = onnx.export(task, batch.images, batch.pixel_mask, folder)
        size = f"{batch.images.shape[-1]} x {batch.images.shape[-2]} px"
        files |= {f"{name}.onnx": f"graph for one image of {size}" for name in worst}
    home = runs.folder_of(path)
    page = card(task, restored.categories, None if home is None else Run(home), files, worst, COMPARED)
    (folder / "README.md").write_text(page, encoding="utf-8")
    return worst


def _images(task: BaseTask, source: Path) -> Batch:
    found = find_images(source)[:COMPARED]
    return batch_of(task, [Request(read_image(path)) for path in found])


def _own_images(task: BaseTask, cfg: DictConfig) -> Batch:
    """The first validation images of the run's data."""
    data = build.datamodule(cfg, task)
    count = min(COMPARED, data.source.size("val"))
    records = [data.source.read("val", index, 0, None) for index in range(count)]
    if not records:
        raise UserError("The run's data has no validation images; give --images FOLDER.")
    return batch_of(task, [Request(record.image) for record in records])


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; see above."""
    parser = argparse.ArgumentParser(
        prog="python -m maskwell.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("ckpt", help="a run folder, a checkpoint file, or 'last'")
    parser.add_argument("folder", type=Path, help="where it goes; new or empty")
    parser.add_argument("--onnx", action="store_true", help="ONNX graphs too (extra 'export')")
    parser.add_argument("--half", action="store_true", help="float16 in the merged model of sam_lora")
    parser.add_argument("--images", type=Path, help="compare ONNX on these instead of the run's own data")
    given = parser.parse_args(arguments)
    try:
        worst = export(given.ckpt, given.folder, graphs=given.onnx, half=given.half, images=given.images)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    for name, off in worst.items():
        print(f"{name}.onnx: largest difference from PyTorch {off:.2g}")
    print(f"exported: {given.folder}")


if __name__ == "__main__":
    main()
