"""Do exported models answer as the trained ones? ONNX of all families, and the merged sam_lora.

Each family is trained for a few steps of its experiment on real data, or taken with --run, exported, and
held against PyTorch on real validation images. Needs MASKWELL_DATA and the extra 'export'.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from benchmarks import harness
from maskwell import app, build, checkpoint, compose, restore
from maskwell.data.convert import convert
from maskwell.data.sample import Prediction, Prompt
from maskwell.export.__main__ import COMPARED, export
from maskwell.inference import Request, predict_images
from maskwell.models.base import BaseTask
from maskwell.models.sam_lora.module import SamLora

STEPS = 3
SHORT = (
    "test=false",
    "evaluate_base=false",
    "report=false",
    "trainer.limit_val_batches=1",
    "callbacks.panels=null",
    "data.num_workers=0",
    "health=none",
)
TRAININGS: Mapping[str, tuple[str, ...]] = {
    "s4gan": ("experiment=s4gan_camvid", f"model.iterations={STEPS}", f"model.evaluate_every={STEPS}"),
    "points": (
        "experiment=points_dsb2018",
        f"trainer.max_steps={STEPS}",
        f"trainer.val_check_interval={STEPS}",
    ),
    "detr": ("experiment=detr_bccd", f"trainer.max_steps={STEPS}"),
    "sam_lora": (
        "experiment=sam_lora_dsb2018",
        f"trainer.max_steps={STEPS}",
        f"trainer.val_check_interval={STEPS}",
    ),
}


def trained(family: str, folder: Path) -> Path:
    """The run folder of a short training on real data."""
    overrides = [*TRAININGS[family], *SHORT, f"paths.run_dir={folder / 'run'}"]
    if family == "detr":
        data = folder / "bccd"
        source = harness.real_data("bccd")
        assert source is not None
        convert("voc", source, data)
        overrides.append(f"data.root={data}")
    app.train(*compose.compose("train", overrides))
    return folder / "run"


def merged_difference(run: Path, merged: Path) -> float:
    """Largest difference of scores (and of boxes, in parts of the image's side) after merging the adapter.

    The model of the checkpoint keeps its adapter beside the weights here, as in training.
    """
    path = restore.find(str(run), Path(), "")
    cfg = restore.restore(path).cfg
    task = build.task(cfg)
    restore.load_weights(task, checkpoint.read(path), path)
    data = build.datamodule(cfg, task)
    records = [data.source.read("val", index, 0, None) for index in range(COMPARED)]
    prompt = (Prompt("cell nucleus", (), 0),)
    requests = [Request(record.image[:128, :128], prompt) for record in records]
    sides = (predict(model, requests) for model in (task, SamLora(str(merged))))
    return max(_apart(*pair) for pair in zip(*sides, strict=True))


def predict(task: BaseTask, requests: list[Request]) -> list[Prediction]:
    """Everything that the task says, however unsure."""
    with torch.random.fork_rng():
        return list(predict_images(task, requests))


def _apart(first: Prediction, second: Prediction) -> float:
    if len(first.scores) != len(second.scores):
        return float("inf")
    if not len(first.scores):
        return 0.0
    boxes = (first.boxes - second.boxes).abs().max() / max(first.size)
    return float(torch.maximum((first.scores - second.scores).abs().max(), boxes))


def main() -> None:
    parser = harness.arguments(__doc__ or "")
    parser.add_argument("--family", choices=list(TRAININGS), action="append", help="these alone")
    parser.add_argument("--run", action="append", default=[], metavar="FAMILY=RUN", help="a run to export")
    args: argparse.Namespace = parser.parse_args()
    started = time.monotonic()
    if harness.real_data("bccd") is None:
        raise SystemExit("Set MASKWELL_DATA to the folder that holds camvid/, dsb2018/ and bccd/.")
    given = dict(entry.split("=", 1) for entry in args.run)
    figures: dict[str, float] = {}
    for family in args.family or (["s4gan"] if args.quick else list(TRAININGS)):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            run = Path(given[family]) if family in given else trained(family, folder)
            worst = export(str(run), folder / "exported", graphs=True)
            if family == "sam_lora":
                worst["merged"] = merged_difference(run, folder / "exported" / "merged")
        figures[f"{family}.max_abs_diff"] = max(worst.values())
        figures |= {f"{family}.{graph}": off for graph, off in worst.items() if len(worst) > 1}
    told = ", ".join(f"{family} from {Path(run).name}" for family, run in given.items()) or "none"
    harness.publish(
        args,
        "export",
        figures,
        command=harness.command_line("benchmarks.export"),
        seeds=[0],
        minutes=(time.monotonic() - started) / 60,
        notes=(
            f"Largest absolute difference from PyTorch over {COMPARED} validation images of camvid, dsb2018 "
            "and bccd: probabilities of s4gan and detr, boxes of detr in parts of the side, logits and "
            "places of points, features of the vision part of sam_lora (up to 30 in size), its scores and "
            f"boxes after merging. Weights of {STEPS} training steps; of longer runs: {told}."
        ),
    )


if __name__ == "__main__":
    main()
