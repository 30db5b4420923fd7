"""S4GAN from few labels beside its controls: CamVid (1/8 of the labels, also 1/4, 1/16 and all) and nuclei.

Five recipes on the same network, images, augmentation and number of iterations: supervised (the
labelled images alone), guide (the field notes' S4GAN), sound, its twin without the discriminator, and
consistency (mean teacher). At 1/8 each trains at three learning rates with one seed; the one with the
best mIoU on val goes on with two more seeds, and into the smaller studies. Test mIoU is that of the
checkpoint that was best on val. All recipes of a study train with one seed before the next seed begins.

Every training is a cell that is not repeated when the command is started again; one that was cut off
resumes. Two processes share the work where each names its part:

    MASKWELL_DATA=/path/to/data python -m benchmarks.s4gan_camvid --only 1_8.sound 1_8.guide
    MASKWELL_DATA=/path/to/data python -m benchmarks.s4gan_camvid                  # the rest, and the files
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.figures import Result, best_rate, named, paired_difference
from benchmarks.programs import NotFinished, best_val, cell, recipe_of, training

RUNS = harness.ROOT / "runs" / "benchmarks" / "s4gan"
RECIPES = ("supervised", "guide", "sound", "sound_without_d", "consistency")
PAIRS = (
    *((recipe, "supervised") for recipe in RECIPES[1:]),
    ("sound", "sound_without_d"),
    ("sound", "consistency"),
)
"""Recipes whose difference over seeds is published."""

NUCLEI = (
    "data.root=${oc.env:MASKWELL_DATA}/dsb2018",
    "data.coco=true",
    "data.labelled=0.0625",
    "data.crop=128",
    "data.augment.vflip=0.5",
    "data.augment.rotate90=0.5",
    "model.image_size=null",
)


@dataclass(frozen=True)
class Study:
    """One share of labels: ``file`` of results and ``prefix`` of its figures there, and what is trained."""

    file: str
    prefix: str
    overrides: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    recipes: tuple[str, ...] = RECIPES


MAIN = "1_8"
STUDIES = {
    MAIN: Study("s4gan_camvid", "", ("data.labelled=0.125",), (0, 1, 2)),
    "1_4": Study("s4gan_camvid", "1_4", ("data.labelled=0.25",)),
    "1_16": Study("s4gan_camvid", "1_16", ("data.labelled=0.0625",)),
    "all": Study("s4gan_camvid", "all", ("data.labelled=1.0",), recipes=("supervised",)),
    "dsb2018": Study("s4gan_dsb2018", "", NUCLEI),
}

NOTES = {
    "s4gan_camvid": (
        "CamVid (CC BY-NC 4.0) at 160 x 120 px, scored on 480 x 360; 11 classes; 1/8 = 46 of 367 images "
        "labelled, spread evenly in time; test: 233 images, most of them of a drive that is not in train or "
        "val. "
        "ResNet of 1.3 million parameters with DeepLabv3+ head from random weights, AdamW, batch 4 + 4, "
        "4,000 iterations, averaged weights, checkpoint chosen on val (the drive of most training images). "
        "1_8: each recipe at the best of three rates on val, chosen with seed 0; three seeds; differences "
        "are paired by seed, with 95 % t-intervals. 1_4 and 1_16: those rates, one seed. all: "
        "every one of the 367 labels, supervised: what labels could give. minutes: wall clock of one core, "
        "shared with other trainings and paused at times: no measure of cost."
    ),
    "s4gan_dsb2018": (
        "Nuclei as classes background and nucleus: dsb2018 (CC0), 1/16 = 24 of 383 images labelled, windows "
        "of 128 px, 97 test images; rates and settings of s4gan_camvid; one seed."
    ),
}


@dataclass(frozen=True)
class Form:
    """How much is done; ``overrides`` go to every training."""

    recipes: tuple[str, ...]
    rates: tuple[float, ...]
    studies: Mapping[str, Study]
    overrides: tuple[str, ...] = ()

    def of(self, study: str) -> list[str]:
        """The recipes that a study trains."""
        return [recipe for recipe in self.recipes if recipe in self.studies[study].recipes]


FULL = Form(RECIPES, (0.0005, 0.001, 0.002), STUDIES)
QUICK = Form(
    ("supervised", "sound"),
    (0.002,),
    {name: replace(STUDIES[name], seeds=(0,)) for name in (MAIN, "dsb2018")},
    (
        "model.iterations=4",
        "model.evaluate_every=4",
        "model.image_size=64",
        "trainer.limit_val_batches=1",
        "trainer.limit_test_batches=1",
        "callbacks.panels=null",
    ),
)


@dataclass(frozen=True)
class Bench:
    """Trains what figures need, or looks up what earlier starts gave (``works`` False)."""

    form: Form
    folder: Path
    cells: harness.Cells
    works: bool = True
    minutes: dict[tuple[str, str], float] = field(default_factory=dict)  # by study and run folder

    def rate(self, recipe: str) -> float:
        """The rate of a recipe with the best mIoU on val at 1/8, with the first seed."""
        return best_rate({rate: self._run(MAIN, recipe, rate, 0) for rate in self.form.rates}, "val_miou")

    def run(self, study: str, recipe: str, seed: int) -> Result:
        """The training of a recipe with a seed, at its best rate."""
        return self._run(study, recipe, self.rate(recipe), seed)

    def runs(self, study: str, recipe: str) -> tuple[dict[int, Result], list[str]]:
        """The finished trainings of a recipe by seed, and the names of the others."""
        found, missing = {}, []
        for seed in self.form.studies[study].seeds:
            try:
                found[seed] = self.run(study, recipe, seed)
            except NotFinished:
                missing.append(f"{study}.{recipe} (seed {seed})")
        return found, missing if found else [f"{study}.{recipe}"]

    def figures(self, study: str) -> tuple[Result, list[str]]:
        """Figures of a study from all finished trainings, and the names of the others."""
        finished: dict[str, dict[int, Result]] = {}
        missing: list[str] = []
        for recipe in self.form.of(study):
            runs, unfinished = self.runs(study, recipe)
            finished |= {recipe: runs} if runs else {}
            missing += unfinished
        figures: Result = {}
        for recipe, runs in finished.items():
            figures |= named(recipe, summary(runs))
            figures[f"{recipe}.lr"] = self.rate(recipe)
            if study == MAIN:
                for rate in self.form.rates:
                    figures[f"{recipe}.val_miou_at_{rate:g}"] = self._run(MAIN, recipe, rate, 0)["val_miou"]
        for first, second in PAIRS:
            shared = sorted(finished.get(first, {}).keys() & finished.get(second, {}).keys())
            if shared:
                ours, theirs = ([finished[name][seed]["miou"] for seed in shared] for name in (first, second))
                figures |= named(f"{first}_minus_{second}", paired_difference(ours, theirs, "miou"))
        return named(self.form.studies[study].prefix, figures), missing

    def _run(self, study: str, recipe: str, rate: float, seed: int) -> Result:
        arguments = (
            "experiment=s4gan_camvid",
            f"model/recipe={recipe}",
            f"model.rates.lr_generator={rate}",
            f"seed={seed}",
            *self.form.studies[study].overrides,
            *self.form.overrides,
        )
        key = {"train": f"{study}_{recipe}_{rate:g}_seed{seed}", "recipe": recipe_of("train", *arguments)}
        folder = self.folder / "-".join(key.values())
        result = cell(self.cells, key, lambda: _train(folder, arguments), works=self.works)
        self.minutes[study, result["folder"]] = result["minutes"]
        return result


def _train(folder: Path, arguments: Sequence[str]) -> Result:
    """Cost of a training, its best mIoU on val, and the test metrics of that checkpoint."""
    costs = training(folder, arguments)
    scored = json.loads((folder / "results.json").read_text())
    return {
        **costs,
        "val_miou": best_val((folder / "metrics.csv").read_text(), "val/miou"),
        **{name: value for name, value in scored["trained"].items() if name.startswith(("miou", "iou/"))},
    }


def summary(runs: Mapping[int, Result]) -> Result:
    """Test mIoU over seeds (mean, spread, each), mean IoU of each class, and minutes of one training."""
    scores = [run["miou"] for run in runs.values()]
    figures: Result = {"miou": statistics.mean(scores)}
    if len(scores) > 1:
        figures["miou.std"] = statistics.stdev(scores)
        figures |= {f"miou.seed_{seed}": run["miou"] for seed, run in runs.items()}
    for name in sorted(set.intersection(*(set(run) for run in runs.values()))):
        if name.startswith("iou/"):
            figures[name.replace("/", ".")] = statistics.mean(run[name] for run in runs.values())
    figures["minutes"] = statistics.mean(run["minutes"] for run in runs.values())
    return figures


def main() -> None:
    parser = harness.arguments(__doc__ or "")
    parts = [f"{study}.{recipe}" for study in STUDIES for recipe in FULL.of(study)]
    parser.add_argument(
        "--only", nargs="+", choices=[*STUDIES, *parts], help="work on these alone; collect all"
    )
    parser.add_argument("--collect", action="store_true", help="start nothing; write what is finished")
    args: Any = parser.parse_args()
    if harness.real_data("camvid") is None:
        raise SystemExit("Set MASKWELL_DATA to the folder that holds camvid/ and dsb2018/.")
    form, folder = (QUICK, RUNS / "quick") if args.quick else (FULL, RUNS)
    if args.quick:
        shutil.rmtree(folder, ignore_errors=True)
    bench = Bench(form, folder, harness.Cells(folder / "cells.jsonl"))
    wanted = args.only or list(form.studies)
    if not args.collect:
        for study, details in form.studies.items():
            for seed, recipe in itertools.product(details.seeds, form.of(study)):
                if study in wanted or f"{study}.{recipe}" in wanted:
                    bench.run(study, recipe, seed)
    publish(replace(bench, works=False, minutes={}), args)


def publish(bench: Bench, args: Any) -> None:
    """Print and write the results file of every data set of which something is finished."""
    for file in dict.fromkeys(study.file for study in bench.form.studies.values()):
        figures: Result = {}
        missing: list[str] = []
        studies = [name for name, study in bench.form.studies.items() if study.file == file]
        for name in studies:
            found, unfinished = bench.figures(name)
            figures, missing = figures | found, missing + unfinished
        if not figures:
            continue
        # --out names the file of CamVid; that of another data set lies beside it
        out = args.out if not args.out or file == STUDIES[MAIN].file else args.out.with_name(f"{file}.json")
        harness.publish(
            argparse.Namespace(quick=args.quick, out=out),
            file,
            figures,
            command="python -m benchmarks.s4gan_camvid",
            seeds=sorted({seed for name in studies for seed in bench.form.studies[name].seeds}),
            minutes=sum(minutes for (study, _), minutes in bench.minutes.items() if study in studies),
            notes=NOTES[file] + (f" Not measured yet: {', '.join(missing)}." if missing else ""),
        )


if __name__ == "__main__":
    main()
