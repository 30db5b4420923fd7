"""What each part of the stable recipe is worth: nuclei as boxes, image sizes mixed, two seeds.

Deformable DETR, which reads the pixel mask, learns boxes on generated scenes once; every variant then
trains ``experiment=detr_dsb2018`` from there, at the rates of the field notes. Variants: the stable
recipe, what the notes had earlier, and the stable one with one part as it was earlier.

Every training is a cell that is not repeated when the command is started again; one that was cut off
resumes. Several processes share the work where each names its variants:

    MASKWELL_DATA=/path/to/data python -m benchmarks.detr_recipe --only stable earlier
    MASKWELL_DATA=/path/to/data python -m benchmarks.detr_recipe              # the rest, and the file
"""

from __future__ import annotations

import csv
import json
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.figures import Result, named, paired_difference
from benchmarks.programs import NotFinished, recipe_of, training

RUNS = harness.ROOT / "runs" / "benchmarks" / "detr"
WINDOW = 25
"""Steps over which the batch loss is averaged to see how far a single batch lies off."""

VARIANTS: dict[str, tuple[str, ...]] = {
    "stable": (),
    "earlier": ("model/stability=earlier",),
    "zero_padding": ("model.recipe.padding=zero",),
    "no_pixel_mask": ("model.recipe.pixel_mask=false",),
    "double_rate": ("model.recipe.optim.lr=1e-4", "model.recipe.optim.final_share=0.01"),
    "no_clipping": ("model.recipe.max_norm=null",),
    "no_schedule": ("model.recipe.optim.final_share=1.0",),
    "no_decay": ("model.recipe.optim.weight_decay=0.0",),
}

NOTES = (
    "dsb2018 (CC0) as boxes: 383 training images of mixed sizes, longer side at most 320 px, batches of 4 "
    "padded; 97 test images, max_dets [1, 10, 400]. Deformable DETR with 2.2 million parameters and 300 "
    "queries, first 1,500 steps of 8 generated scenes, then 400 steps of each variant, two seeds, last "
    "weights. loss_spread: standard deviation of batch loss / moving mean of 25 steps, over the second "
    "half; loss_jump: its largest value there; *_minus_stable: paired by seed, with 95 % t-intervals. "
    "Recipe: mean padding, pixel mask, 5e-5 by cosine to 1e-6, norm at most 1, weight decay 1e-4; "
    "double_rate: 1e-4, also to 1e-6."
)


@dataclass(frozen=True)
class Form:
    """How much is done: variants, seeds, overrides of the pretraining and of every variant."""

    variants: tuple[str, ...]
    seeds: tuple[int, ...]
    pretrain: tuple[str, ...]
    train: tuple[str, ...]


ARCHITECTURE = ("model.architecture=deformable_detr", "model.queries=300")
FULL = Form(
    tuple(VARIANTS),
    (0, 1),
    ("trainer.max_steps=1500", "trainer.val_check_interval=1500", "data.num_val=50"),
    ("trainer.max_steps=400", "trainer.val_check_interval=400"),
)
_SHORT = ("trainer.limit_val_batches=1", "callbacks.panels=null", "model.image_size=64")
QUICK = Form(
    ("stable", "earlier"),
    (0,),
    ("trainer.max_steps=2", "trainer.val_check_interval=2", "data.size=64", "data.num_val=8", *_SHORT),
    ("trainer.max_steps=4", "trainer.val_check_interval=4", "trainer.limit_test_batches=1", *_SHORT),
)


@dataclass(frozen=True)
class Bench:
    """Trains what figures need, or looks up what earlier starts gave (``works`` False)."""

    form: Form
    folder: Path
    cells: harness.Cells
    works: bool = True
    minutes: dict[str, float] = field(default_factory=dict)

    def pretrained(self) -> Result:
        """The weights that every variant starts from."""
        arguments = ("experiment=detr_scenes", *ARCHITECTURE, *self.form.pretrain)
        key = {"train": "pretrain_deformable", "recipe": recipe_of("train", *arguments)}
        return self._cell(key, arguments, training)

    def run(self, variant: str, seed: int) -> Result:
        """One training: its test metrics, its losses, its cost."""
        base = self.pretrained()["folder"]
        arguments = ("experiment=detr_dsb2018", *VARIANTS[variant], f"seed={seed}", *self.form.train)
        key = {"train": f"{variant}_seed{seed}", "recipe": recipe_of("train", *arguments), "of": base}
        return self._cell(key, (*arguments, f"init_from={base}"), _train)

    def figures(self) -> tuple[Result, list[str]]:
        """Figures of all finished variants, and the names of the others."""
        finished: dict[str, list[Result]] = {}
        missing = []
        for variant in self.form.variants:
            try:
                finished[variant] = [self.run(variant, seed) for seed in self.form.seeds]
            except NotFinished:
                missing.append(variant)
        figures: Result = {}
        for variant, runs in finished.items():
            figures |= named(variant, summary(runs))
        for variant in finished.keys() - {"stable"} if "stable" in finished else ():
            for metric in ("map", "loss_spread"):
                pairs = ([run[metric] for run in finished[name]] for name in (variant, "stable"))
                figures |= named(f"{variant}_minus_stable", paired_difference(*pairs, metric))
        return dict(sorted(figures.items())), missing

    def _cell(self, key: Mapping[str, str], arguments: Sequence[str], work: Any) -> Result:
        folder = self.folder / f"{key['train']}-{key['recipe']}"
        if self.works:
            result = self.cells.run(key, lambda: work(folder, arguments))
        elif (found := self.cells.find(key)) is not None:
            result = found
        else:
            raise NotFinished(json.dumps(dict(key)))
        self.minutes[result["folder"]] = result["minutes"]
        return result


def _train(folder: Path, arguments: Sequence[str]) -> Result:
    costs = training(folder, arguments)
    scored = json.loads((folder / "results.json").read_text())["trained"]
    metrics = {name: scored[name] for name in ("map", "map_50", "f1") if name in scored}
    return {**costs, **metrics, **spread(_losses(folder / "metrics.csv"))}


def _losses(path: Path) -> list[float]:
    with path.open() as file:
        rows = [row.get("train/batch_loss") for row in csv.DictReader(file)]
    return [float(value) for value in rows if value]


def spread(losses: Sequence[float], window: int = WINDOW) -> dict[str, float]:
    """How far single batches lie off the mean of their neighbours, over the second half of a training.

    ``loss_spread``: standard deviation of batch loss / centred moving mean; ``loss_jump``: the largest
    such ratio; ``loss_end``: mean of the last ``window`` steps.
    """
    values = np.asarray(losses, np.float64)
    size = min(window, len(values))
    padded = np.pad(values, (size // 2, size - 1 - size // 2), mode="reflect") if size > 1 else values
    smooth = np.convolve(padded, np.ones(size) / size, mode="valid")
    ratios = (values / smooth)[len(values) // 2 :]
    return {
        "loss_spread": float(ratios.std()),
        "loss_jump": float(ratios.max()),
        "loss_end": float(values[-size:].mean()),
    }


def summary(runs: Sequence[Result]) -> Result:
    """Mean of every metric over seeds, with the spread from two seeds on."""
    figures: Result = {}
    names = ("map", "map_50", "f1", "loss_spread", "loss_jump", "loss_end", "minutes", "peak_gib")
    for name in names:
        values = [run[name] for run in runs if name in run]
        if len(values) == len(runs):
            figures[name] = statistics.mean(values)
            if len(values) > 1 and name not in ("minutes", "peak_gib"):
                figures[f"{name}.std"] = statistics.stdev(values)
    return figures


def main() -> None:
    parser = harness.arguments(__doc__ or "")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), help="work on these alone; collect all")
    parser.add_argument("--collect", action="store_true", help="start nothing; write what is finished")
    args: Any = parser.parse_args()
    if harness.real_data("dsb2018") is None:
        raise SystemExit("Set MASKWELL_DATA to the folder that holds dsb2018/.")
    form, folder = (QUICK, RUNS / "quick_recipe") if args.quick else (FULL, RUNS)
    if args.quick:
        shutil.rmtree(folder, ignore_errors=True)
    bench = Bench(form, folder, harness.Cells(folder / "recipe_cells.jsonl"))
    if not args.collect:
        for variant in args.only or form.variants:
            for seed in form.seeds:
                bench.run(variant, seed)
    found = Bench(form, folder, bench.cells, works=False)
    figures, missing = found.figures()
    if figures:
        harness.publish(
            args,
            "detr_recipe",
            figures,
            command="python -m benchmarks.detr_recipe",
            seeds=form.seeds,
            minutes=sum(found.minutes.values()),
            notes=NOTES + (f" Not measured yet: {', '.join(missing)}." if missing else ""),
        )


if __name__ == "__main__":
    main()
