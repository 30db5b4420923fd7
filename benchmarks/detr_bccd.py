"""A small RT-DETR v2 on blood cells: from random weights, and from weights learnt on generated scenes.

scratch trains ``experiment=detr_bccd``; pretrain ``experiment=detr_scenes``; init_from starts
``experiment=detr_bccd`` from it. Both are scored by ``evaluate.py`` on the 72 whole test images with the
checkpoint that was best on val.

Every training is a cell that is not repeated when the command is started again; one that was cut off
resumes. Two processes share the work where each names its part:

    MASKWELL_DATA=/path/to/data python -m benchmarks.detr_bccd --only scratch
    MASKWELL_DATA=/path/to/data python -m benchmarks.detr_bccd                # the rest, and the file
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import harness, programs
from benchmarks.figures import Result, named, pick
from benchmarks.programs import NotFinished, best_val, recipe_of, relative, training

RUNS = harness.ROOT / "runs" / "benchmarks" / "detr"
STARTS = ("scratch", "init_from")
CELLS = ("scratch", "pretrain", "init_from")

SCORES = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large", "threshold", "f1")
COSTS = ("minutes", "peak_gib")

NOTES = (
    "BCCD (MIT): 205 training, 87 validation and 72 test images of 640 x 480 px, 3 classes; input 320 px. "
    "RT-DETR v2 with 3.1 million parameters, batch 8, averaged weights, one seed, one thread. scratch: "
    "random weights, 200 epochs. pretrain: 3,000 steps of 8 generated scenes of 256 px, 35 kinds of "
    "objects as classes; init_from: 120 epochs from there, class layers fresh. Checkpoint chosen by "
    "val/map; threshold chosen on val, f1 at it at IoU 0.5. A YOLOv8n that started from COCO weights is "
    "reported at map_50 0.904 on this data. Not measured here: weights of RT-DETR v2 from the Hub "
    "(model.base=PekingU/rtdetr_v2_r18vd)."
)


@dataclass(frozen=True)
class Form:
    """How much is done: overrides of every training, by its name."""

    train: Mapping[str, tuple[str, ...]]
    always: tuple[str, ...] = ()


FULL = Form(
    {
        "scratch": (),
        "pretrain": ("trainer.max_steps=3000",),
        "init_from": ("trainer.max_epochs=120", "model.recipe.optim.lr=3e-4"),
    }
)
_SHORT = ("trainer.limit_val_batches=1", "callbacks.panels=null", "model.image_size=96", "model.queries=40")
_FEW = ("trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.check_val_every_n_epoch=1")
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
    _SHORT,
)


@dataclass(frozen=True)
class Bench:
    """Trains and scores what figures need, or looks up what earlier starts gave (``works`` False)."""

    form: Form
    folder: Path
    cells: harness.Cells
    works: bool = True
    minutes: dict[str, float] = field(default_factory=dict)

    def train(self, name: str) -> Result:
        """Cost of a training and its best mAP on val."""
        arguments: tuple[str, ...]
        if name == "pretrain":
            arguments = ("experiment=detr_scenes",)
        else:
            arguments = ("experiment=detr_bccd", f"data.root={relative(self._data())}")
        arguments = (*arguments, *self.form.always, *self.form.train[name])
        key = {"train": name, "recipe": recipe_of("train", *arguments)}
        if name == "init_from":  # which weights is no part of the configuration's digest
            before = self.train("pretrain")
            key["of"] = before["folder"]
            arguments = (*arguments, f"init_from={before['folder']}")
        folder = self.folder / f"{name}-{key['recipe']}"
        result = self._cell(key, lambda: _train(folder, arguments))
        self.minutes[name] = result["minutes"]
        return result

    def figures(self, name: str) -> Result:
        """Test figures and cost of a training, or the cost alone of pretraining."""
        trained = self.train(name)
        if name == "pretrain":
            return named(name, pick(trained, COSTS))
        output = self.folder / "scores" / Path(trained["folder"]).name
        scored = self._cell({"score": trained["folder"]}, lambda: _score(output, trained["folder"]))
        classes = {key.replace("/", "."): value for key, value in scored.items() if key.startswith("ap/")}
        return named(name, {**pick(scored, SCORES), **classes, **pick(trained, (*COSTS, "val_map"))})

    def _data(self) -> Path:
        data = self.folder / "bccd"
        self._cell({"convert": "bccd"}, lambda: _convert(data))
        return data

    def _cell(self, key: Mapping[str, Any], work: Any) -> Result:
        if self.works:
            return self.cells.run(key, work)
        if (found := self.cells.find(key)) is None:
            raise NotFinished(json.dumps(dict(key)))
        return found


def _convert(target: Path) -> Result:
    from maskwell.data.convert import convert

    source = harness.real_data("bccd")
    assert source is not None
    convert("voc", source, target, link=True)
    return {"folder": relative(target)}


def _train(folder: Path, arguments: Sequence[str]) -> Result:
    costs = training(folder, arguments)
    return {**costs, "val_map": best_val((folder / "metrics.csv").read_text(), "val/map")}


def _score(output: Path, folder: str) -> Result:
    started = time.monotonic()
    programs.start("evaluate.py", f"ckpt={folder}", f"output={output}")
    metrics = json.loads((output / "metrics.json").read_text())["metrics"]
    return {**metrics, "minutes": (time.monotonic() - started) / 60}


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
    if harness.real_data("bccd") is None:
        raise SystemExit("Set MASKWELL_DATA to the folder that holds bccd/.")
    form, folder = (QUICK, RUNS / "quick") if args.quick else (FULL, RUNS)
    if args.quick:
        shutil.rmtree(folder, ignore_errors=True)
    bench = Bench(form, folder, harness.Cells(folder / "cells.jsonl"))
    if not args.collect:
        for name in args.only or CELLS:
            bench.figures(name)
    found = Bench(form, folder, bench.cells, works=False)
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
