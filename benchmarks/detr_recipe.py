"""What each part of the stable recipe is worth: nuclei as boxes, image sizes mixed, three seeds.

Deformable DETR, which reads the pixel mask, learns boxes on generated cells once; every variant then
trains ``experiment=detr_dsb2018`` from there, at the rates of the field notes. Variants: the stable
recipe, what the notes had earlier, and the stable one with one part as it was earlier.

Every training is a cell that is not repeated when the command is started again; one that was cut off
resumes. Several processes share the work where each names its variants:

    MASKWELL_DATA=/path/to/data python -m benchmarks.detr_recipe --only stable earlier
    MASKWELL_DATA=/path/to/data python -m benchmarks.detr_recipe              # the rest, and the file
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.figures import Result, named, over_seeds, paired_difference, pick
from benchmarks.programs import NotFinished, Programs, logged, tested

RUNS = harness.ROOT / "runs" / "benchmarks" / "detr"
WINDOW = 25
"""Steps over which the batch loss is averaged to see how far a single batch lies off."""

METRICS = ("map", "map_50", "f1", "loss_spread", "loss_std", "loss_jump", "loss_end")
COMPARED = ("map", "map_50", "loss_spread", "loss_std")

VARIANTS: dict[str, tuple[str, ...]] = {
    "stable": ("evaluate_base=true",),  # what the pretraining alone is worth
    "earlier": ("model/stability=earlier",),
    "zero_padding": ("model.recipe.padding=zero",),
    "no_pixel_mask": ("model.recipe.pixel_mask=false",),
    "double_rate": ("model.recipe.optim.lr=1e-4", "model.recipe.optim.final_share=0.01"),
    "no_clipping": ("model.recipe.max_norm=null",),
    "no_schedule": ("model.recipe.optim.final_share=1.0",),
    "no_decay": ("model.recipe.optim.weight_decay=0.0",),
}

NOTES = (
    "dsb2018 (CC0) as boxes: 383 training images of mixed sizes, longer side at most 192 px, batches of 4 "
    "padded; 97 test images, max_dets [1, 10, 400]. Deformable DETR with 2.2 million parameters and 150 "
    "queries, first {pretraining} steps of 8 generated cells (data=cells, 2,000 images), whose class nucleus "
    "it keeps, then {steps} steps of each variant, {seeds} seeds, last weights. start_map: that of the "
    "pretraining alone. In the second half, beside the moving mean over 25 steps: loss_std, standard "
    "deviation of batch loss - mean; loss_spread, that of batch loss / mean; loss_jump, its largest value. "
    "*_minus_stable: paired by seed, with 95 % t-intervals. Recipe: mean padding, pixel mask, 5e-5 by cosine "
    "to 1e-6, norm at most 1, weight decay 1e-4; double_rate: 1e-4, also to 1e-6. minutes: of one thread "
    "(OMP_NUM_THREADS=1) and one loader process."
)


@dataclass(frozen=True)
class Form:
    """How much is done: variants, seeds, steps, and further overrides of every training."""

    variants: tuple[str, ...]
    seeds: tuple[int, ...]
    pretraining: int
    steps: int
    cells: int
    train: tuple[str, ...] = ()


ARCHITECTURE = ("model.architecture=deformable_detr", "model.queries=150", "model.image_size=192")
PRETRAINING = (
    "model=detr",
    "data=cells",
    "data.crop=null",
    "data.batch_size=8",
    "data.eval_batch_size=8",
    "data.num_workers=1",
    "data.augment.scale=[0.5,1.5]",  # dsb2018 has nuclei of many sizes
    "model.ema_decay=0.999",
    "model.one_to_many=4",
    "model.recipe.optim.lr=5e-4",  # random weights
    "model.recipe.optim.warmup_share=0.02",
    "trainer.max_epochs=-1",
    "trainer.check_val_every_n_epoch=null",
    "callbacks.early_stopping=null",
    "evaluate_base=false",
    "test=false",
)
FULL = Form(tuple(VARIANTS), (0, 1, 2), pretraining=2000, steps=800, cells=2000)
QUICK = Form(
    ("stable", "earlier"),
    (0,),
    pretraining=2,
    steps=4,
    cells=16,
    train=(
        "trainer.limit_val_batches=1",
        "trainer.limit_test_batches=1",
        "callbacks.panels=null",
        "model.image_size=64",
        "data.batch_size=2",
        "data.eval_batch_size=2",
        "data.num_workers=0",
    ),
)


@dataclass(frozen=True)
class Bench:
    """Trains what figures need, or looks up what earlier starts gave."""

    programs: Programs
    form: Form
    minutes: dict[str, float] = field(default_factory=dict)  # by run folder

    def pretrained(self) -> Result:
        """The weights that every variant starts from."""
        overrides = (*PRETRAINING, f"data.num_train={self.form.cells}", *self._steps(self.form.pretraining))
        return self._train("pretrain_deformable", overrides, None)

    def run(self, variant: str, seed: int) -> Result:
        """One training: its test metrics, its losses, its cost."""
        overrides = ("experiment=detr_dsb2018", *VARIANTS[variant], *self._steps(self.form.steps))
        return self._train(f"{variant}_seed{seed}", (*overrides, f"seed={seed}"), self.pretrained())

    def figures(self) -> tuple[Result, list[str]]:
        """Figures of all finished variants, and the names of the others."""
        finished: dict[str, dict[int, Result]] = {}
        missing = []
        for variant in self.form.variants:
            try:
                finished[variant] = {seed: self.run(variant, seed) for seed in self.form.seeds}
            except NotFinished:
                missing.append(variant)
        figures: Result = {}
        for variant, runs in finished.items():
            figures |= named(variant, over_seeds({seed: pick(run, METRICS) for seed, run in runs.items()}))
            figures |= named(variant, means(list(runs.values()), ("minutes", "peak_gib")))
        if "stable" in finished:
            figures |= means(list(finished["stable"].values()), ("start_map", "start_map_50"))
            figures |= differences(finished)
        return dict(sorted(figures.items())), missing

    def _steps(self, steps: int) -> tuple[str, ...]:
        lengths = (f"trainer.max_steps={steps}", f"trainer.val_check_interval={steps}")
        return (*ARCHITECTURE, *lengths, *self.form.train)

    def _train(self, name: str, overrides: Sequence[str], start: Result | None) -> Result:
        read = _reached if start else lambda _: {}
        result = self.programs.train(name, *overrides, start=start, read=read)
        self.minutes[result["folder"]] = result["minutes"]
        return result


def _reached(folder: Path) -> Result:
    losses = logged((folder / "metrics.csv").read_text(), "train/batch_loss")
    before = {f"start_{name}": value for name, value in tested(folder, "base").items()}
    return {**tested(folder), **before, **spread(losses)}


def spread(losses: Sequence[float], window: int = WINDOW) -> dict[str, float]:
    """How far single batches lie off the mean of their neighbours, over the second half of a training.

    ``loss_std``: standard deviation of batch loss - centred moving mean; ``loss_spread``: that of batch loss
    / moving mean; ``loss_jump``: the largest such ratio; ``loss_end``: mean of the last ``window`` steps.
    """
    values = np.asarray(losses, np.float64)
    size = min(window, len(values))
    padded = np.pad(values, (size // 2, size - 1 - size // 2), mode="reflect") if size > 1 else values
    smooth = np.convolve(padded, np.ones(size) / size, mode="valid")
    half = len(values) // 2
    ratios = (values / smooth)[half:]
    return {
        "loss_std": float((values - smooth)[half:].std()),
        "loss_spread": float(ratios.std()),
        "loss_jump": float(ratios.max()),
        "loss_end": float(values[-size:].mean()),
    }


def means(runs: Sequence[Result], names: Sequence[str]) -> Result:
    """Mean over the runs of every name that all of them have."""
    shared = [name for name in names if all(name in run for run in runs)]
    return {name: statistics.mean(run[name] for run in runs) for name in shared}


def differences(finished: Mapping[str, Mapping[int, Result]]) -> Result:
    """Every variant minus the stable one, paired by seed."""
    figures: Result = {}
    for variant in finished.keys() - {"stable"}:
        for metric in COMPARED:
            pairs = [[run[metric] for run in finished[name].values()] for name in (variant, "stable")]
            figures |= named(f"{variant}_minus_stable", paired_difference(*pairs, metric))
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
    bench = Bench(Programs(None, folder, harness.Cells(folder / "recipe_cells.jsonl")), form)
    if not args.collect:
        for variant in args.only or form.variants:
            for seed in form.seeds:
                bench.run(variant, seed)
    found = Bench(replace(bench.programs, works=False), form)
    figures, missing = found.figures()
    if figures:
        notes = NOTES.format(pretraining=form.pretraining, steps=form.steps, seeds=len(form.seeds))
        harness.publish(
            args,
            "detr_recipe",
            figures,
            command="python -m benchmarks.detr_recipe",
            seeds=form.seeds,
            minutes=sum(found.minutes.values()),
            notes=notes + (f" Not measured yet: {', '.join(missing)}." if missing else ""),
        )


if __name__ == "__main__":
    main()
