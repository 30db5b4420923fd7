"""A small RT-DETR v2 on blood cells: from random weights, and from weights learnt on generated scenes.

scratch trains ``experiment=detr_bccd``; pretrain ``experiment=detr_scenes``; init_from starts
``experiment=detr_bccd`` from it. Figures are those of the 72 whole test images, with the checkpoint that
was best on val.

Every training is a cell that is not repeated when the command is started again; one that was cut off
resumes. Two processes share the work where each names its part:

    MASKWELL_DATA=/path/to/data python -m benchmarks.detr_bccd --only scratch
    MASKWELL_DATA=/path/to/data python -m benchmarks.detr_bccd                # the rest, and the file
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.figures import Result, named, pick
from benchmarks.programs import NotFinished, Programs, best_val, tested

RUNS = harness.ROOT / "runs" / "benchmarks" / "detr"
CELLS = ("scratch", "pretrain", "init_from")

SCORES = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large", "threshold", "f1")
COSTS = ("minutes", "peak_gib")

NOTES = (
    "BCCD (MIT): 205 training, 87 validation and 72 test images of 640 x 480 px, 3 classes; input 320 px. "
    "RT-DETR v2 with 3.1 million parameters, averaged weights, one seed. scratch: random weights; pretrain: "
    "5,000 steps on generated scenes of 256 px, 35 kinds of objects as classes; init_from: from there, class "
    "layers fresh. scratch trains for 200 epochs (10,400 steps) at 1e-3, init_from for 120 at 5e-4: the "
    "trainings are not of equal length. "
    "Duplicates suppressed at IoU 0.6. Checkpoint chosen by val/map; threshold chosen on val, f1 at it at "
    "IoU 0.5. minutes: of one thread (OMP_NUM_THREADS=1) and one loader process, validation and test "
    "included. A YOLOv8n that started from COCO weights is reported at map_50 0.904 on this data. Not "
    "measured here: weights of RT-DETR v2 from the Hub (model.base=PekingU/rtdetr_v2_r18vd)."
)


@dataclass(frozen=True)
class Form:
    """How much is done: overrides of every training, by its name."""

    train: Mapping[str, tuple[str, ...]]
    always: tuple[str, ...] = ()


FULL = Form(
    {
        "scratch": (),
        "pretrain": (),
        "init_from": ("trainer.max_epochs=120", "model.recipe.optim.lr=5e-4"),
    }
)
_FEW = (
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=2",
    "trainer.limit_test_batches=1",
    "trainer.check_val_every_n_epoch=1",
)
QUICK = Form(
    {
        "scratch": _FEW,
        "pretrain": (
            "trainer.max_steps=2",
            "trainer.val_check_interval=2",
            "data.size=96",
            "data.num_val=8",
        ),
        "init_from": _FEW,
    },
    (
        "trainer.limit_val_batches=1",
        "callbacks.panels=null",
        "model.image_size=96",
        "model.queries=40",
        "data.batch_size=2",
        "data.eval_batch_size=4",
        "data.num_workers=0",
    ),
)


@dataclass(frozen=True)
class Bench:
    """Trains what figures need, or looks up what earlier starts gave."""

    programs: Programs
    form: Form
    minutes: dict[str, float] = field(default_factory=dict)  # by run folder

    def train(self, name: str) -> Result:
        """Test metrics of a training, its best mAP on val, and what it cost."""
        overrides = (*self.form.always, *self.form.train[name])
        if name == "pretrain":
            result = self.programs.train(name, "experiment=detr_scenes", *overrides, read=lambda _: {})
        else:
            start = self.train("pretrain") if name == "init_from" else None
            result = self.programs.train(name, "experiment=detr_bccd", *overrides, start=start, read=_reached)
        self.minutes[result["folder"]] = result["minutes"]
        return result

    def figures(self, name: str) -> Result:
        """Test figures and cost of a training, or the cost alone of pretraining."""
        trained = self.train(name)
        classes = {key.replace("/", "."): value for key, value in trained.items() if key.startswith("ap/")}
        return named(name, {**pick(trained, (*SCORES, *COSTS, "val_map")), **classes})


def _reached(folder: Path) -> Result:
    return {**tested(folder), "val_map": best_val((folder / "metrics.csv").read_text(), "val/map")}


def collect(bench: Bench) -> tuple[Result, list[str]]:
    """Figures of what is finished, and the names of the rest."""
    figures: Result = {}
    missing = []
    for name in CELLS:
        try:
            figures |= bench.figures(name)
        except NotFinished:
            missing.append(name)
    return figures, missing


def main() -> None:
    parser = harness.arguments(__doc__ or "")
    parser.add_argument("--only", nargs="+", choices=CELLS, help="work on these alone; collect all")
    parser.add_argument("--collect", action="store_true", help="start nothing; write what is finished")
    args: Any = parser.parse_args()
    harness.blood_cells()
    form, folder = (QUICK, RUNS / "quick") if args.quick else (FULL, RUNS)
    if args.quick:
        shutil.rmtree(folder, ignore_errors=True)
    bench = Bench(Programs(None, folder, harness.Cells(folder / "cells.jsonl")), form)
    if not args.collect:
        for name in args.only or CELLS:
            bench.figures(name)
    found = Bench(replace(bench.programs, works=False), form)
    figures, missing = collect(found)
    if figures:
        harness.publish(
            args,
            "detr_bccd",
            figures,
            command="python -m benchmarks.detr_bccd",
            seeds=[0],
            minutes=sum(found.minutes.values()),
            notes=NOTES + (f" Not measured yet: {', '.join(missing)}." if missing else ""),
        )


if __name__ == "__main__":
    main()
