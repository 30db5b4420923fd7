"""SAM-LoRA on real nuclei: the base, its adapter, full fine-tuning of the same base, and Otsu.

Adapter and full fine-tuning train the same number of steps on the same crops, each at three learning
rates; the rate with the best map_50 on val is scored on all whole test images, tiled. Every training
and every evaluation is a cell that is not repeated when the command is started again; a training that
was cut off resumes.

    MASKWELL_DATA=/path/to/data python -m benchmarks.sam_lora_dsb2018
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import classical, harness

RATES = {"lora": (7e-4, 2e-3, 5e-3), "full": (1e-4, 3e-4, 8e-4)}
NAMES = {"lora": "adapter", "full": "full"}
RUNS = harness.ROOT / "runs" / "benchmarks" / "sam_lora_dsb2018"
SCORED = (
    "max_dets=[1,10,400]",
    "data.eval_batch_size=16",
    "data.prompts.generic_words=[bicycle]",  # a word that training does not ask
)
METRICS = ("map", "map_50", "map_75", "pmf1", "il_mcc", "cgf1")


@dataclass(frozen=True)
class Form:
    """What is trained and how it is scored; ``train`` and ``score`` are further overrides of the commands."""

    runs: Path
    rates: Mapping[str, tuple[float, ...]]
    train: tuple[str, ...]
    score: tuple[str, ...]


FULL = Form(RUNS, RATES, (), ("tile=80",))  # tiles inside the range of scales that training shows
QUICK = Form(
    RUNS / "quick",
    {"lora": RATES["lora"][:1]},
    (
        "trainer.max_steps=4",
        "trainer.val_check_interval=4",
        "trainer.limit_val_batches=1",
        "callbacks.panels=null",
    ),
    ("tile=null",),
)


def train(form: Form, adaptation: str, rate: float) -> dict[str, Any]:
    """One training as a user starts it: what it reached on val and what it cost."""
    folder = form.runs / f"{adaptation}_{rate:g}"
    if (folder / "checkpoints" / "last.ckpt").is_file():
        arguments = [f"ckpt_path={folder}"]
    else:
        arguments = [
            "experiment=sam_lora_dsb2018",
            f"model.adaptation={adaptation}",
            f"optim.lr={rate}",
            f"paths.run_dir={folder}",
            *form.train,
        ]
    _run("train.py", *arguments)
    sessions = json.loads((folder / "record.json").read_text())["sessions"]
    return {
        "folder": str(folder.relative_to(harness.ROOT)),
        "val_map_50": _best_val(folder),
        "minutes": sum(session["minutes"] for session in sessions),
        "peak_gib": max(session["peak_memory_gib"]["process"] for session in sessions),
    }


def best_rate(form: Form, cells: harness.Cells, adaptation: str) -> dict[str, Any]:
    """The training with the best val/map_50 among the rates, with what the others reached."""
    runs = {
        rate: cells.run({"train": adaptation, "lr": rate}, lambda r=rate: train(form, adaptation, r))
        for rate in form.rates[adaptation]
    }
    best = max(runs, key=lambda rate: runs[rate]["val_map_50"])
    return {
        **runs[best],
        "lr": best,
        "minutes_of_all": sum(run["minutes"] for run in runs.values()),
        "val_map_50_by_lr": {str(rate): run["val_map_50"] for rate, run in runs.items()},
    }


def score(form: Form, folder: str | None) -> dict[str, float]:
    """Figures of a run's best checkpoint (None: of the base alone) on all whole test images."""
    output = form.runs / "scores" / (Path(folder).name if folder else "base")
    model = (
        [f"ckpt={folder}"]
        if folder
        else [
            "model.base=tiny",
            "data.root=${oc.env:MASKWELL_DATA}/dsb2018",
            "+data.prompts.rename.nucleus=cell nucleus",
        ]
    )
    _run("evaluate.py", *model, *SCORED, *form.score, f"output={output}")
    metrics = json.loads((output / "metrics.json").read_text())["metrics"]
    return {name: metrics[name] for name in METRICS}


def parameters(folder: str) -> dict[str, float]:
    """Trained tensors' share of all parameters of the base, and their number."""
    import torch

    from maskwell.models.sam_lora.base_model import load_base

    state = torch.load(harness.ROOT / folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    trained = sum(tensor.numel() for tensor in state.values())
    total = sum(p.numel() for p in load_base("tiny")[0].parameters())
    return {"trainable_parameters": trained, "trainable_share": trained / total}


def _run(script: str, *arguments: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    subprocess.run([sys.executable, script, *arguments], cwd=harness.ROOT, check=True, env=environment)


def _best_val(folder: Path) -> float:
    with (folder / "metrics.csv").open() as file:
        return max(float(row["val/map_50"]) for row in csv.DictReader(file) if row.get("val/map_50"))


def main() -> None:
    parser = harness.arguments(__doc__ or "")
    parser.add_argument(
        "--only", choices=RATES, help="train this one only, to share the work out over processes"
    )
    args: argparse.Namespace = parser.parse_args()
    if harness.real_data("dsb2018") is None:
        raise SystemExit("Set MASKWELL_DATA to the folder that holds dsb2018/.")
    form = QUICK if args.quick else FULL
    if args.quick:
        shutil.rmtree(form.runs, ignore_errors=True)
    cells = harness.Cells(form.runs / "cells.jsonl")
    trained = {name: best_rate(form, cells, name) for name in form.rates if args.only in (None, name)}
    if args.only:
        return
    figures: dict[str, Any] = {}
    if not args.quick:
        figures["base"] = cells.run({"score": "base"}, lambda: score(form, None))
    for adaptation, run in trained.items():
        name = NAMES[adaptation]
        scored = cells.run({"score": name, "lr": run["lr"]}, lambda folder=run["folder"]: score(form, folder))
        costs = {key: run[key] for key in ("minutes", "peak_gib", "lr", "val_map_50_by_lr")}
        figures[name] = {**scored, **parameters(run["folder"]), **costs}
    control = cells.run({"score": "classical"}, lambda: classical.evaluate("test"))
    figures["classical"] = {name: control[name] for name in METRICS if name in control}
    harness.publish(
        args,
        "sam_lora_dsb2018",
        figures,
        command="python -m benchmarks.sam_lora_dsb2018",
        seeds=[0],
        minutes=sum(run["minutes_of_all"] for run in trained.values()),
        notes=(
            "dsb2018 (CC0), 97 whole test images, prompt 'cell nucleus', tiles of 80 px, "
            "max_dets [1, 10, 400]; one thread; minutes: all trainings; crops of 64 px in training; rates "
            "chosen by val/map_50 on crops, before duplicates of an answer were suppressed as in the "
            "scores; negatives of pmf1, il_mcc, cgf1: 'bicycle'; classical: Otsu and distance-transform "
            "split, untrained."
        ),
    )


if __name__ == "__main__":
    main()
