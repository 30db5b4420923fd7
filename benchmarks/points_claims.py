"""The field notes' claims about point training, each tested: does it hold, and by how much.

Claims about formulas are computed; claims about training are differences between two short trainings of
the notes' form (heads for x, y and done, reading order) on the 256 x 256 px nuclei, paired over three
seeds. Beside them stands the sound form (pointer, own marks). Every training is a cell that is not
repeated when the command is started again; one that was cut off resumes.
"""

from __future__ import annotations

import csv
import json
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import harness, points
from benchmarks.figures import Result, named, paired_difference
from benchmarks.programs import NotFinished, cell, recipe_of
from maskwell.models.points.loss import coordinate_loss
from maskwell.ops.points import expected_done_share

RUNS = harness.ROOT / "runs" / "benchmarks" / "points_claims"
SIDE, REFERENCE = 192, 384
"""Px of the input of these trainings, and of the notes', in which errors are given."""
GUIDE = (
    "model.head=xy",
    "model.order=reading",
    "model.sampling=uniform",
    "model.loss=funnel",
    "model.threshold=0.3",
    "model.done_weight=3",
    "model.own_share=0",
    "model.noise.jitter=0",
    "model.stop=0.5",
)
SOUND = ("model.noise.jitter=1", "model.threshold=0.04", "model.spatial_weight=125")
"""The sound form's own numbers are px and parts of a cell at the reference: here half, twice, a quarter."""
FORMS: dict[str, tuple[str, ...]] = {
    "funnel_0_3": GUIDE,
    "funnel_0_1": (*GUIDE, "model.threshold=0.1"),
    "huber": (*GUIDE, "model.loss=huber"),
    "mse": (*GUIDE, "model.loss=mse"),
    "balanced": (*GUIDE, "model.sampling=balanced"),
    "mixed": (*GUIDE, "model.sampling=mixed"),
    "done_weight_1": (*GUIDE, "model.done_weight=1"),
    "pos_weight": (*GUIDE, "model.done_weight=1", "model.done_pos_weight=16"),
    "sound": (),
    "sound_uniform": ("model.sampling=uniform",),
    "sound_balanced": ("model.sampling=balanced",),
    "sound_mse": ("model.loss=mse",),
    "sound_funnel_0_3": ("model.loss=funnel", "model.threshold=0.3"),
    "sound_funnel_0_1": ("model.loss=funnel", "model.threshold=0.1"),
    "sound_reading": ("model.order=reading",),
    "sound_nearest": ("model.order=nearest",),
    "sound_free": ("model.order=free",),
    "sound_true_marks": ("model.own_share=0", "model.noise.jitter=0"),
    "sound_jitter": ("model.own_share=0",),
    "sound_without_cells": ("model.cell_weight=0",),
    "sound_averaged": ("model.ema_decay=0.99",),
    "sound_noise": (
        "model.own_share=0",
        "model.noise.drop=0.05",
        "model.noise.duplicate=0.05",
        "model.noise.false_marks=0.5",
    ),
}
"""The notes' form and what they changed in it; the sound form and every other choice of a default."""
SHOWN = ("pixel_error", "f1_9_6", "f1_19_2", "count_mae", "done_auroc", "done_highest", "val_loss_rise")


@dataclass(frozen=True)
class Claim:
    """``first`` has a ``metric`` that is better than that of ``second``."""

    text: str
    first: str
    second: str
    metric: str

    @property
    def lower_is_better(self) -> bool:
        """Whether the claim holds where the difference is negative."""
        return self.metric in ("pixel_error", "count_mae")


CLAIMS = {
    "tighter_threshold": Claim(
        "A threshold of 0.1 gives smaller pixel errors than 0.3", "funnel_0_1", "funnel_0_3", "pixel_error"
    ),
    "funnel_over_mse": Claim(
        "The funnel gives smaller pixel errors than MSE", "funnel_0_3", "mse", "pixel_error"
    ),
    "done_weight": Claim(
        "Three times the done loss tells the end better", "funnel_0_3", "done_weight_1", "done_auroc"
    ),
    "done_weight_raises_done": Claim(
        "Three times the done loss makes the model say done", "funnel_0_3", "done_weight_1", "done_highest"
    ),
    "more_done_states": Claim(
        "More finished states in sampling tell the end better", "balanced", "funnel_0_3", "done_auroc"
    ),
}
DEFAULTS = {
    f"default_over_{name.removeprefix('sound_')}": Claim(
        f"Our defaults over {name.removeprefix('sound_').replace('_', ' ')}", "sound", name, "f1_9_6"
    )
    for name in FORMS
    if name.startswith("sound_")
}
COMPARED = {
    "huber_over_funnel": Claim(
        "Continuous Huber over funnel 0.3, pixel error", "huber", "funnel_0_3", "pixel_error"
    ),
    "mixed_over_balanced": Claim(
        "Mixed over balanced sampling, count error", "mixed", "balanced", "count_mae"
    ),
    "pos_weight_over_weight": Claim(
        "Weight of finished states over a weight of all", "pos_weight", "funnel_0_3", "done_auroc"
    ),
    "sound_over_guide": Claim(
        "The sound form over the notes', F1 at 9.6 px", "sound", "funnel_0_3", "f1_9_6"
    ),
    **DEFAULTS,
}
"""What the notes do not claim and this package does."""

NOTES = (
    "holds: 1 where the claim is right (of trainings: the mean difference over seeds has the claimed "
    "sign; decided: its 95 % t-interval leaves out 0); by: the difference, or the figure that the claim "
    "is about. Trainings: 256 x 256 px nuclei scaled to 192 px, small encoder from random weights, rate "
    "1e-3, 400 steps of 4 images with 8 states, test images, errors in px of 384. Notes' form: heads for "
    "x, y, done, reading order, uniform sampling, done weight 3, true marks, stop at 0.5; sound form: the "
    "defaults brought to 192 px, stop chosen on val; checkpoints chosen by the validation loss; its "
    "pixel errors are to the nearest object that is left. The notes trained a 2 B model for 55 epochs: what "
    "holds here is about the formulas, not about its size. Texts: benchmarks/points_claims.py."
)


@dataclass(frozen=True)
class Form:
    """How much is done."""

    steps: int = 400
    validations: int = 5
    seeds: tuple[int, ...] = (0, 1, 2)
    forms: tuple[str, ...] = tuple(FORMS)
    overrides: tuple[str, ...] = ()


FULL = Form()
QUICK = Form(
    steps=2,
    validations=1,
    seeds=(0,),
    forms=("funnel_0_3",),
    overrides=(
        "trainer.limit_val_batches=1",
        "trainer.limit_test_batches=1",
        "data.eval_batch_size=2",
        "model.max_points=10",
    ),
)


@dataclass(frozen=True)
class Bench:
    """Trains what figures need, or looks up what earlier starts gave (``works`` False)."""

    form: Form
    folder: Path
    cells: harness.Cells
    works: bool = True
    minutes: dict[str, float] = field(default_factory=dict)  # by run folder

    def runs(self, name: str) -> dict[int, Result]:
        """The trainings of a form by seed."""
        return {seed: self._run(name, seed) for seed in self.form.seeds}

    def _run(self, name: str, seed: int) -> Result:
        arguments = (
            *points.STUDIES[points.MAIN].overrides,
            f"model.image_size={SIDE}",
            "model.min_distance=3",  # 6 px of the reference
            *(SOUND if name.startswith("sound") else ()),
            *FORMS[name],
            "callbacks.checkpoint.monitor=val/loss",  # the best F1 of forms that find nothing is chance
            "callbacks.checkpoint.mode=min",
            "optim.lr=0.001",
            "data.batch_size=4",
            "data.num_workers=0",
            "trainer.max_epochs=-1",
            f"trainer.max_steps={self.form.steps}",
            "trainer.check_val_every_n_epoch=null",
            f"trainer.val_check_interval={self.form.steps // self.form.validations}",
            "callbacks.panels=null",
            "callbacks.point_panels=null",
            f"seed={seed}",
            *self.form.overrides,
        )
        key = {"train": f"{name}_seed{seed}", "recipe": recipe_of("train", *arguments)}
        folder = self.folder / "-".join(key.values())
        result = cell(self.cells, key, lambda: _train(folder, arguments), works=self.works)
        self.minutes[result["folder"]] = result["minutes"]
        return result

    def figures(self) -> tuple[Result, list[str]]:
        """Figures of all finished forms and the claims about them, and the names of the other forms."""
        finished: dict[str, dict[int, Result]] = {}
        missing = []
        for name in self.form.forms:
            try:
                finished[name] = self.runs(name)
            except NotFinished:
                missing.append(name)
        figures = computed_claims()
        if "funnel_0_3" in finished:
            rise = statistics.mean(run["val_loss_rise"] for run in finished["funnel_0_3"].values())
            figures |= {"overfits.holds": int(rise > 1.05), "overfits.by": rise}
        for name, claim in {**CLAIMS, **COMPARED}.items():
            if claim.first in finished and claim.second in finished:
                figures |= named(name, judged(claim, finished))
        for name, runs in finished.items():
            figures |= named(f"runs.{name}", _summary(runs))
        return figures, missing


def judged(claim: Claim, finished: Mapping[str, Mapping[int, Result]]) -> Result:
    """Whether a claim holds and by how much, over the seeds."""
    first, second = (
        [run[claim.metric] for run in finished[form].values()] for form in (claim.first, claim.second)
    )
    found = paired_difference(first, second, "by")
    sign = -1 if claim.lower_is_better else 1
    decided = "by.low" in found and found["by.low"] * found["by.high"] > 0
    return {"holds": int(sign * found["by"] > 0), "decided": int(decided), **found}


def computed_claims() -> Result:
    """Claims about formulas and about the data, without any training.

    ``threshold_0_3_is_57_px`` (also called 115 px there); ``mse_pulls_alike``: "10 px off gets the same
    gradient as 100 px off", by: the second gradient over the first; ``tighter_threshold_pulls_harder``:
    "strong penalty at 30 px", by: the gradient with 0.1 over that with 0.3; ``done_share_is_0_03``: by:
    the exact share of finished states in val with uniform sampling.
    """
    covered = 0.3 * REFERENCE / 2
    alike = gradient("mse", 0.0, 100) / gradient("mse", 0.0, 10)
    pulled = gradient("funnel", 0.1, 30) / gradient("funnel", 0.3, 30)
    content = json.loads((points.DATA / "dsb2018_256" / "val.json").read_text())
    counts = {image["id"]: 0 for image in content["images"]}
    for entry in content["annotations"]:
        counts[entry["image_id"]] += not entry["iscrowd"]
    share = expected_done_share(counts.values(), "uniform")
    found = {
        "threshold_0_3_is_57_px": (abs(covered - 57) < 1, covered),
        "mse_pulls_alike": (abs(alike - 1) < 0.1, alike),
        "tighter_threshold_pulls_harder": (pulled > 1, pulled),
        "done_share_is_0_03": (abs(share - 0.03) < 0.005, share),
    }
    return {
        f"{name}.{part}": value
        for name, (holds, by) in found.items()
        for part, value in (("holds", int(holds)), ("by", by))
    }


def gradient(kind: Any, threshold: float, pixels: float) -> float:
    """Of the loss of coordinates, by one coordinate that is off by ``pixels`` of 384."""
    off = torch.tensor([2 * pixels / REFERENCE, 0.0], dtype=torch.float64, requires_grad=True)
    coordinate_loss(off, torch.zeros_like(off), kind, threshold).backward()
    assert off.grad is not None
    return float(off.grad[0])


def _train(folder: Path, arguments: Sequence[str]) -> Result:
    result = points.train(folder, arguments)
    losses = [
        float(row["val/loss"])
        for row in csv.DictReader((folder / "metrics.csv").read_text().splitlines())
        if row.get("val/loss")
    ]
    return {
        **result,
        "pixel_error": result["pixel_error"] * REFERENCE / SIDE,
        "val_loss_rise": losses[-1] / min(losses),
    }


def _summary(runs: Mapping[int, Result]) -> Result:
    figures: Result = {}
    for name in SHOWN:
        values = [run[name] for run in runs.values() if name in run]
        if len(values) == len(runs):
            figures[name] = statistics.mean(values)
            if len(values) > 1:
                figures[f"{name}.std"] = statistics.stdev(values)
    return figures


def main() -> None:
    parser = harness.arguments(__doc__ or "")
    parser.add_argument("--only", nargs="+", choices=FORMS, help="work on these alone; collect all")
    parser.add_argument("--collect", action="store_true", help="start nothing; write what is finished")
    args: Any = parser.parse_args()
    points.prepare()
    form, folder = (QUICK, RUNS / "quick") if args.quick else (FULL, RUNS)
    if args.quick:
        shutil.rmtree(folder, ignore_errors=True)
    bench = Bench(form, folder, harness.Cells(folder / "cells.jsonl"))
    if not args.collect:
        for name in form.forms:
            if args.only is None or name in args.only:
                bench.runs(name)
    done = replace(bench, works=False, minutes={})
    figures, missing = done.figures()
    for name, claim in {**CLAIMS, **COMPARED}.items():
        if f"{name}.holds" in figures:
            print(f"{name}: {claim.text} ({claim.metric}): {'yes' if figures[f'{name}.holds'] else 'no'}")
    harness.publish(
        args,
        "points_claims",
        figures,
        command="python -m benchmarks.points_claims",
        seeds=form.seeds,
        minutes=sum(done.minutes.values()),
        notes=NOTES + (f" Not measured yet: {', '.join(missing)}." if missing else ""),
    )


if __name__ == "__main__":
    main()
