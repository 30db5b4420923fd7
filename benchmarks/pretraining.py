"""What makes the small base leave its plateau: stage 1 of its pretraining, one thing changed at a time.

Every trial is a training of ``experiment=pretrain_tiny`` on the same scenes for the same number of steps,
and a cell that is not repeated when the command is started again. Compared are the raw loss terms of the
last decoder layer, averaged over the last 100 steps (training scenes never repeat, so that these are
figures on unseen scenes).

    python -m benchmarks.pretraining
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import harness

RUNS = harness.ROOT / "runs" / "benchmarks" / "pretraining"
STEPS = 600
WINDOW = 100
TERMS = ("loss_box", "loss_giou", "loss_dice", "loss_semantic_dice")
TRIALS: dict[str, tuple[str, ...]] = {
    "recipe": (),
    "one_to_one": ("model.loss.one_to_many=1",),
    "no_semantic": ("model.loss.weights.semantic=0", "model.loss.weights.semantic_dice=0"),
    "words_at_once": ("data.generic_share=0.25", "data.num_prompts=2", "data.batch_size=8"),
}
"""Trial -> overrides of the recipe; ``words_at_once`` sees as many (image, phrase) rows."""


def trial(overrides: tuple[str, ...], folder: Path, steps: int) -> dict[str, float]:
    """Train and average the last steps."""
    shutil.rmtree(folder, ignore_errors=True)
    arguments = [
        "experiment=pretrain_tiny",
        f"paths.run_dir={folder}",
        f"trainer.max_steps={steps}",
        f"trainer.val_check_interval={steps}",
        "trainer.limit_val_batches=1",
        "callbacks.panels=null",
        *overrides,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    subprocess.run([sys.executable, "train.py", *arguments], cwd=harness.ROOT, check=True, env=environment)
    minutes = sum(s["minutes"] for s in json.loads((folder / "record.json").read_text())["sessions"])
    return {**last_steps(folder / "metrics.csv"), "minutes": minutes}


def last_steps(path: Path, window: int = WINDOW) -> dict[str, float]:
    """Mean of each raw term over the last ``window`` training steps of a run's metrics file."""
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("train/batch_loss")][-window:]
    figures = {}
    for term in TERMS:
        values = [float(row[f"train/{term}"]) for row in rows if row.get(f"train/{term}")]
        if values:
            figures[term.removeprefix("loss_")] = sum(values) / len(values)
    return figures


def main() -> None:
    args = harness.arguments(__doc__ or "").parse_args()
    runs, steps, trials = RUNS, STEPS, TRIALS
    if args.quick:
        runs, steps, trials = RUNS / "quick", 3, {"recipe": TRIALS["recipe"]}
        shutil.rmtree(runs, ignore_errors=True)
    cells = harness.Cells(runs / "cells.jsonl")
    figures: dict[str, Any] = {
        name: cells.run({"trial": name}, lambda n=name, o=overrides: trial(o, runs / n, steps))
        for name, overrides in trials.items()
    }
    harness.publish(
        args,
        "pretraining",
        figures,
        command="python -m benchmarks.pretraining",
        seeds=[0],
        minutes=sum(figure["minutes"] for figure in figures.values()),
        notes=(
            f"Stage 1 of the small base's pretraining, {steps} steps of 16 rows at 64 px, one thread, one "
            f"seed; raw terms of the last decoder layer, mean over the last {WINDOW} steps: L1 and GIoU loss "
            "of boxes, dice loss of masks and of the semantic output. words_at_once: phrases with negatives "
            "from the first step on instead of 'object' alone."
        ),
    )


if __name__ == "__main__":
    main()
