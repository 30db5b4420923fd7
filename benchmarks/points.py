"""Points beside their controls: nuclei (256 x 256 px images; 256 px windows of all images) and blood cells.

Ours and a one-shot control (the same encoder, data and number of steps, all points at once) try two
learning rates in short trainings on the 256 x 256 images; with the one that has the best F1 at 9.6 px on
val each trains three times on all data. Classical detectors choose their settings on the same val.
Figures are those of the test split, at the checkpoint that was best on val.

Every training is a cell that is not repeated when the command is started again; one that was cut off
resumes. Two processes share the work where each names its part:

    MASKWELL_DATA=/path/to/data python -m benchmarks.points --only dsb2018.ours bccd.ours
    MASKWELL_DATA=/path/to/data python -m benchmarks.points                    # the rest, and the file
"""

from __future__ import annotations

import json
import shutil
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.figures import Result, best_rate, named, paired_difference
from benchmarks.programs import NotFinished, best_val, cell, recipe_of, relative, training

RUNS = harness.ROOT / "runs" / "benchmarks" / "points"
DATA = harness.ROOT / "runs" / "data"
HEADS = {"ours": (), "one_shot": ("model.head=one_shot",)}
CONTROLS = ("classical", "log", "mean_count", "grid")
MAIN = "dsb2018"
CHOSEN_BY = "val_f1_9_6"
VALIDATIONS = 10
PAIRED = ("f1_9_6", "f1_19_2", "count_mae")


@dataclass(frozen=True)
class Study:
    """One data set: the overrides that name it, and the steps of a training."""

    overrides: tuple[str, ...]
    steps: int


STUDIES = {
    MAIN: Study(
        (
            "experiment=points_dsb2018",
            f"data.root={relative(DATA / 'dsb2018_256')}",
            "data.objects=null",
        ),
        3000,
    ),
    "dsb2018_crops": Study(
        (
            "experiment=points_dsb2018",
            "data.root=${oc.env:MASKWELL_DATA}/dsb2018",
            "data.objects=null",
            "data.crop=256",
        ),
        1500,
    ),
    "bccd": Study(("experiment=points_bccd", f"data.root={relative(DATA / 'bccd')}"), 1500),
}

NOTES = (
    "Input 384 px; small encoder from random weights; radii in px of that input; precision, recall and F1 "
    "of all images together. dsb2018 (CC0): the 256 x 256 px images with 5 to 50 nuclei, 164 / 32 / 41 in "
    "train / val / test, centroids; the test images are all fluorescence. dsb2018_crops: 256 px windows of "
    "all images, sizes and modalities, whatever their number of nuclei. bccd (MIT): box centres of all "
    "classes, 205 / 87 / 72 images. one_shot: P2PNet-like, the same encoder, data and steps. 3,000 steps of "
    "4 images on dsb2018, 1,500 on the others; rates chosen by val F1 at 9.6 px on dsb2018 after 600 steps; "
    "three seeds; differences paired by seed, with 95 "
    "% t-intervals. classical: Otsu and distance peaks, log: Laplacian of Gaussian, settings chosen on val; "
    "mean_count, grid: points that look at nothing."
)


@dataclass(frozen=True)
class Form:
    """How much is done; ``overrides`` go to every training."""

    studies: Mapping[str, Study]
    rates: tuple[float, ...] = (1e-3, 3e-3)
    probe_steps: int = 600
    seeds: tuple[int, ...] = (0, 1, 2)
    overrides: tuple[str, ...] = ()
    limit: int | None = None


FULL = Form(STUDIES)
QUICK = Form(
    {MAIN: replace(STUDIES[MAIN], steps=2)},
    rates=(1e-3,),
    seeds=(0,),
    overrides=(
        "trainer.limit_val_batches=1",
        "trainer.limit_test_batches=1",
        "data.batch_size=2",
        "data.eval_batch_size=2",
        "data.num_workers=0",
        "model.image_size=96",
        "model.max_points=10",
    ),
    limit=4,
)


@dataclass(frozen=True)
class Bench:
    """Trains what figures need, or looks up what earlier starts gave (``works`` False)."""

    form: Form
    folder: Path
    cells: harness.Cells
    works: bool = True
    minutes: dict[str, float] = field(default_factory=dict)  # by run folder

    def rate(self, head: str) -> float:
        """The rate of a head with the best F1 on val of the 256 x 256 px images, in a short training."""
        if len(self.form.rates) == 1:
            return self.form.rates[0]
        steps = self.form.probe_steps
        return best_rate({rate: self.run(MAIN, head, rate, 0, steps) for rate in self.form.rates}, CHOSEN_BY)

    def runs(self, study: str, head: str) -> dict[int, Result]:
        """The trainings of a head by seed, at its best rate."""
        rate = self.rate(head)
        steps = self.form.studies[study].steps
        return {seed: self.run(study, head, rate, seed, steps) for seed in self.form.seeds}

    def run(self, study: str, head: str, rate: float, seed: int, steps: int) -> Result:
        """One training: what it cost, its best F1 on val, and the test metrics of that checkpoint."""
        arguments = (
            *self.form.studies[study].overrides,
            *HEADS[head],
            f"optim.lr={rate:g}",
            f"seed={seed}",
            f"trainer.max_steps={steps}",
            f"trainer.val_check_interval={max(1, steps // VALIDATIONS)}",
            *self.form.overrides,
        )
        label = f"{study}_{head}_{rate:g}_seed{seed}_{steps}"
        name = {"train": label, "recipe": recipe_of("train", *arguments)}
        folder = self.folder / "-".join(name.values())
        result = cell(self.cells, name, lambda: train(folder, arguments), works=self.works)
        self.minutes[result["folder"]] = result["minutes"]
        return result

    def controls(self, study: str) -> Result:
        """Figures of what is not trained."""
        overrides = self.form.studies[study].overrides
        key = {"controls": study, "recipe": recipe_of("train", *overrides), "limit": self.form.limit}
        return cell(self.cells, key, lambda: _controls(overrides, self.form.limit), works=self.works)

    def figures(self, study: str) -> tuple[Result, list[str]]:
        """Figures of what is finished of a study, and the names of the rest."""
        figures: Result = {}
        missing: list[str] = []
        finished: dict[str, dict[int, Result]] = {}
        for head in HEADS:
            try:
                finished[head] = self.runs(study, head)
            except NotFinished:
                missing.append(f"{study}.{head}")
                continue
            prefix = "" if head == "ours" else head
            figures |= named(prefix, {**over_seeds(finished[head]), "lr": self.rate(head)})
        try:
            figures |= self.controls(study)
        except NotFinished:
            missing.append(f"{study}.controls")
        figures |= differences(finished, figures)
        return named(study, figures), missing


def train(folder: Path, arguments: Sequence[str]) -> Result:
    """Run ``train.py``, or the rest of a run that was cut off in ``folder``."""
    costs = training(folder, arguments)
    scored = json.loads((folder / "results.json").read_text())
    return {
        **costs,
        CHOSEN_BY: best_val((folder / "metrics.csv").read_text(), "val/f1_9_6"),
        **{name: value for name, value in scored["trained"].items() if not name.startswith("loss")},
    }


def _controls(overrides: Sequence[str], limit: int | None) -> Result:
    from benchmarks import point_controls

    data, spec = point_controls.data_of(overrides)
    val, test = (list(point_controls.windows(data, spec, split, limit)) for split in ("val", "test"))
    train_set = data.dataset("train")
    counts = [len(train_set[index].labels) for index in range(len(train_set) if limit is None else limit)]
    return {
        **point_controls.classical(val, test, quick=limit is not None),
        **point_controls.trivial(counts, val, test),
    }


def over_seeds(runs: Mapping[int, Result]) -> Result:
    """Mean and spread of every metric that all seeds have, F1 and count error of each, mean minutes."""
    figures: Result = {}
    shared = set.intersection(*(set(run) for run in runs.values())) - {"folder", "peak_gib"}
    for name in sorted(shared):
        values = [float(run[name]) for run in runs.values()]
        dotted = name.replace("/", ".")
        figures[dotted] = statistics.mean(values)
        if len(values) > 1 and name != "minutes":
            figures[f"{dotted}.std"] = statistics.stdev(values)
        if len(values) > 1 and name in PAIRED:
            figures |= {f"{dotted}.seed_{seed}": float(run[name]) for seed, run in runs.items()}
    return figures


def differences(finished: Mapping[str, Mapping[int, Result]], figures: Mapping[str, Any]) -> Result:
    """Ours minus the one-shot control, paired by seed, and ours minus the classical one (one figure)."""
    if "ours" not in finished:
        return {}
    ours, found = finished["ours"], Result()
    for metric in PAIRED:
        values = [run[metric] for run in ours.values()]
        if "one_shot" in finished:
            theirs = [run[metric] for run in finished["one_shot"].values()]
            found |= named("ours_minus_one_shot", paired_difference(values, theirs, metric))
        if f"classical.{metric}" in figures:
            theirs = [figures[f"classical.{metric}"]] * len(values)
            found |= named("ours_minus_classical", paired_difference(values, theirs, metric))
    return found


def prepare() -> None:
    """Write the data folders that the trainings read, where they are not there yet."""
    nuclei, blood = harness.real_data("dsb2018"), harness.real_data("bccd")
    if nuclei is None or blood is None:
        raise SystemExit("Set MASKWELL_DATA to the folder that holds dsb2018/ and bccd/.")
    with harness.alone(DATA):
        if not (DATA / "dsb2018_256" / "test.json").is_file():
            square_images(nuclei, DATA / "dsb2018_256")
    harness.blood_cells(DATA / "bccd")


def square_images(source: Path, target: Path, side: int = 256, fewest: int = 5, most: int = 50) -> None:
    """A COCO folder with the images of ``side`` x ``side`` px that have ``fewest`` to ``most`` objects.

    Annotations are copied, the folder of the images is linked.
    """
    target.mkdir(parents=True, exist_ok=True)
    if not (target / "images").exists():
        (target / "images").symlink_to((source / "images").resolve(), target_is_directory=True)
    for split in ("train", "val", "test"):
        content = json.loads((source / f"{split}.json").read_text())
        counts = Counter(entry["image_id"] for entry in content["annotations"] if not entry["iscrowd"])
        images = [
            image
            for image in content["images"]
            if image["width"] == image["height"] == side and fewest <= counts[image["id"]] <= most
        ]
        kept = {image["id"] for image in images}
        annotations = [entry for entry in content["annotations"] if entry["image_id"] in kept]
        content |= {"images": images, "annotations": annotations}
        (target / f"{split}.json").write_text(json.dumps(content))


def main() -> None:
    parser = harness.arguments(__doc__ or "")
    parts = [f"{study}.{part}" for study in STUDIES for part in (*HEADS, "controls")]
    parser.add_argument("--only", nargs="+", choices=parts, help="work on these alone; collect all")
    parser.add_argument("--collect", action="store_true", help="start nothing; write what is finished")
    args: Any = parser.parse_args()
    prepare()
    form, folder = (QUICK, RUNS / "quick") if args.quick else (FULL, RUNS)
    if args.quick:
        shutil.rmtree(folder, ignore_errors=True)
    bench = Bench(form, folder, harness.Cells(folder / "cells.jsonl"))
    if not args.collect:
        work(bench, args.only or parts)
    publish(replace(bench, works=False, minutes={}), args)


def work(bench: Bench, wanted: Sequence[str]) -> None:
    """Run the cells of the parts ``<study>.<ours, one_shot or controls>``."""
    for study in bench.form.studies:
        if f"{study}.controls" in wanted:
            bench.controls(study)
        for head in HEADS:
            if f"{study}.{head}" in wanted:
                bench.runs(study, head)


def publish(bench: Bench, args: Any) -> None:
    """Print and write what is finished."""
    figures: Result = {}
    missing: list[str] = []
    for study in bench.form.studies:
        found, unfinished = bench.figures(study)
        figures, missing = figures | found, missing + unfinished
    if not figures:
        return
    harness.publish(
        args,
        "points",
        figures,
        command="python -m benchmarks.points",
        seeds=bench.form.seeds,
        minutes=sum(bench.minutes.values()),
        notes=NOTES + (f" Not measured yet: {', '.join(missing)}." if missing else ""),
    )


if __name__ == "__main__":
    main()
