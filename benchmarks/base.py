"""The small base: what it knows, what it learns from few images, and what it keeps.

Zero-shot and adapted figures on nuclei (dsb2018, masks) and blood cells (bccd, boxes), full fine-tuning,
heads only and a classical control beside them, held-out generated scenes before and after adapting, and
the time of one answer. LoRA and full fine-tuning each train at three rates; the one with the best map_50
on val is scored on the whole test images, tiled.

Every training and every evaluation is a cell that is not repeated when the command is started again; a
training that was cut off resumes. Two processes share the work where each names its part:

    MASKWELL_DATA=/path/to/data python -m benchmarks.base --only adapter_all adapter_10
    MASKWELL_DATA=/path/to/data python -m benchmarks.base --only full heads
    MASKWELL_DATA=/path/to/data python -m benchmarks.base             # the rest, and the results file
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks import classical, harness
from benchmarks.figures import Result, best_rate, derived, drops, named, over_seeds, pick
from benchmarks.programs import NotFinished, Programs, relative, snapshot

RUNS = harness.ROOT / "runs" / "benchmarks" / "base"
METRICS = ("map", "map_50", "map_75", "pmf1", "il_mcc", "cgf1")
COSTS = ("minutes", "peak_gib", "trainable_parameters", "trainable_share")
SEEDS = (0, 1, 2)
FEW = {10: 150, 50: 250}  # training images -> steps

NUCLEI = ("experiment=sam_lora_dsb2018",)
NUCLEI_SCORED = (
    "max_dets=[1,10,400]",  # up to 375 nuclei an image
    "data.eval_batch_size=16",
    "data.prompts.generic_words=[bicycle]",  # a word that training does not ask
)
NUCLEI_BASE = ("data.root=${oc.env:MASKWELL_DATA}/dsb2018", "+data.prompts.rename.nucleus=cell nucleus")

BLOOD = ("experiment=sam_lora_bccd",)
BLOOD_SCORED = ("data.eval_batch_size=16", "tile=400")  # 1.25 times the training windows, as with nuclei
BLOOD_BASE = (
    "+data.prompts.rename.RBC=red blood cell",
    "+data.prompts.rename.WBC=white blood cell",
    "+data.prompts.rename.Platelets=platelet",
)
BOXES = ("model.detection.masks=false",)  # of the base alone; the experiment says so for the adapter

SCENES = ("data=scenes", "data.seed=0", "data.eval_batch_size=16")  # the test split: no training meets it
HELD_OUT = (*SCENES, "data.crowd_share=0")
CROWDS = (*SCENES, "data.crowd_share=1", "tile=64")  # 9 to 100 objects: more than one window answers
NO_REHEARSAL = ("data.rehearsal=null",)
VARIANTS = {  # what others do; rehearsed scenes bring negatives and old words, so they are off in all three
    "no_rehearsal": NO_REHEARSAL,
    "no_negatives": (*NO_REHEARSAL, "data.prompts.num_negatives=0"),
    "train_text": (*NO_REHEARSAL, "model.train_text=true"),
}

NOTES = (
    "Base {base}. dsb2018 (CC0): 97 whole test images, prompt 'cell nucleus', tiles of 80 px, max_dets "
    "[1, 10, 400], training crops of 64 px; negatives of pmf1, il_mcc, cgf1: 'bicycle'. bccd (MIT): 72 whole "
    "test images, boxes, tiles of 400 px. generated: 300 scenes of data=scenes, test split, four phrases "
    "each, half of them near negatives; generated.crowds: 75 scenes of 9 to 100 objects, tiles of 64 px. "
    f"400 steps on all images, {FEW[10]} on 10 and {FEW[50]} on 50 (mean of three seeds, each another "
    "choice of images; last weights); rates chosen by val/map_50 on all images and kept for few. "
    "no_negatives and train_text are to be read beside no_rehearsal: all three train without generated "
    "scenes. One thread; minutes: all "
    "trainings. classical: Otsu and distance-transform split, untrained."
)


@dataclass(frozen=True)
class Form:
    """How much is done: learning rates by adaptation, held-out scenes, further overrides of the commands."""

    rates: Mapping[str, tuple[float, ...]]
    scenes: int
    train: tuple[str, ...] = ()
    score: tuple[str, ...] = ()
    studies: tuple[str, ...] = ()


FULL = Form(
    rates={"lora": (7e-4, 2e-3, 4e-3), "full": (1e-4, 3e-4, 8e-4), "heads": (1e-3,)},
    scenes=300,
    score=("tile=80",),  # inside the range of scales that training shows
)
QUICK = Form(
    rates={"lora": (2e-3,)},
    scenes=8,
    train=(
        "trainer.max_steps=4",
        "trainer.val_check_interval=4",
        "trainer.limit_val_batches=1",
        "callbacks.panels=null",
    ),
    score=("tile=null",),
    studies=("generated", "adapter_all"),
)


@dataclass(frozen=True)
class Bench:
    """The studies: each trains and scores what it needs and returns its figures by dotted name."""

    programs: Programs
    form: Form
    minutes: dict[str, float] = field(default_factory=dict)

    def generated(self) -> Result:
        """The base on generated scenes that no training meets."""
        return named("generated", self._held_out(None), METRICS)

    def crowds(self) -> Result:
        """The base on crowded scenes, tiled."""
        cell = self.programs.score("crowds", None, *CROWDS, f"data.num_test={self.form.scenes // 4}")
        return named("generated.crowds", cell, METRICS)

    def zero_shot(self) -> Result:
        """The base on nuclei."""
        return named("dsb2018.zero_shot", self._nuclei(None), METRICS)

    def adapter_all(self) -> Result:
        """LoRA on all training images."""
        return self._on_all("adapter_all", "lora")

    def full(self) -> Result:
        """Full fine-tuning of the same base."""
        return self._on_all("full", "full")

    def heads(self) -> Result:
        """Only the heads are trained."""
        return self._on_all("heads", "heads")

    def adapter_10(self) -> Result:
        """LoRA on ten training images."""
        return self._few(10)

    def adapter_50(self) -> Result:
        """LoRA on fifty training images."""
        return self._few(50)

    def classical(self) -> Result:
        """Otsu and split on the same images."""
        cell = self.programs.cell({"score": "classical"}, lambda: classical.evaluate("test"))
        return named("dsb2018.classical", cell, METRICS)

    def bccd(self) -> Result:
        """Blood cells in boxes: the base, and LoRA at the rate that is best on nuclei."""
        data = self.programs.folder / "bccd"
        root = f"data.root={relative(data)}"
        self.programs.cell({"convert": "bccd"}, lambda: {"folder": relative(harness.blood_cells(data))})
        before = self.programs.score("bccd", None, root, *BLOOD_BASE, *BLOOD_SCORED, *BOXES)
        rate, _ = self._best("lora")
        training = self._train("bccd_lora", *BLOOD, f"optim.lr={rate}", root)
        after = self.programs.score("bccd", training, *BLOOD_SCORED)
        return {
            **named("bccd.zero_shot", before, METRICS),
            **named("bccd.adapter", {**after, **training, "lr": rate}, (*METRICS, *COSTS, "lr")),
        }

    def retention(self) -> Result:
        """What the adapter on all nuclei keeps of the held-out scenes."""
        _, run = self._best("lora")
        return named("retention", self._kept(run))

    def no_rehearsal(self) -> Result:
        """The same adapter without generated scenes beside its batches."""
        return self._variant("no_rehearsal")

    def no_negatives(self) -> Result:
        """Without phrases that name nothing."""
        return self._variant("no_negatives")

    def train_text(self) -> Result:
        """With the text encoder trained."""
        return self._variant("train_text")

    def latency(self) -> Result:
        """One image, one prompt; written to latency.json too."""
        base = self.programs.base
        key = {"base": base.hash, "latency": 1}
        return named("", self.programs.cell(key, lambda: _latency(base.folder)), ("latency_ms",))

    def size(self) -> Result:
        """Of the base."""
        return {"parameters": self.programs.base.parameters, "megabytes": self.programs.base.megabytes}

    def _train(self, name: str, *overrides: str) -> Result:
        result = self.programs.train(name, *overrides, *self.form.train)
        self.minutes[result["folder"]] = result["minutes"]
        return result

    def _nuclei(self, training: Result | None) -> Result:
        more = () if training else NUCLEI_BASE
        return self.programs.score("dsb2018", training, *more, *NUCLEI_SCORED, *self.form.score)

    def _held_out(self, training: Result | None) -> Result:
        return self.programs.score("scenes", training, *HELD_OUT, f"data.num_test={self.form.scenes}")

    def _runs(self, adaptation: str) -> dict[float, Result]:
        """The trainings on all nuclei by their rate."""
        return {
            rate: self._train(
                f"{adaptation}_{rate:g}", *NUCLEI, f"model.adaptation={adaptation}", f"optim.lr={rate}"
            )
            for rate in self.form.rates[adaptation]
        }

    def _best(self, adaptation: str) -> tuple[float, Result]:
        runs = self._runs(adaptation)
        rate = best_rate(runs)
        return rate, runs[rate]

    def _on_all(self, name: str, adaptation: str) -> Result:
        runs = self._runs(adaptation)
        rate = best_rate(runs)
        figures = {
            **{key: runs[rate][key] for key in COSTS},
            **pick(self._nuclei(runs[rate]), METRICS),
            "lr": rate,
            **{f"val_map_50_at_{lr:g}": run["val_map_50"] for lr, run in runs.items()},
        }
        return named(f"dsb2018.{name}", figures)

    def _few(self, images: int) -> Result:
        """The mean over seeds, each with its own choice of images; one rate for all."""
        rate, _ = self._best("lora")
        steps = FEW[images]
        scores, minutes = {}, []
        for seed in SEEDS:
            training = self._train(
                f"lora_{images}_seed{seed}",
                *NUCLEI,
                f"optim.lr={rate}",
                f"seed={seed}",
                f"data.limit_train={images}",
                f"trainer.max_steps={steps}",
                f"trainer.val_check_interval={steps}",  # the last weights: few labels choose no checkpoint
            )
            minutes.append(training["minutes"])
            scores[seed] = pick(self._nuclei(training), METRICS)
        figures = {**over_seeds(scores), "minutes": statistics.mean(minutes), "lr": rate}
        return named(f"dsb2018.adapter_{images}", figures)

    def _variant(self, name: str) -> Result:
        rate, _ = self._best("lora")
        training = self._train(f"lora_{name}", *NUCLEI, f"optim.lr={rate}", *VARIANTS[name])
        return named(f"retention.{name}", self._kept(training))

    def _kept(self, training: Result) -> Result:
        """Held-out figures of a training, by how much they fell, and what it reached on nuclei's val."""
        before, after = self._held_out(None), self._held_out(training)
        learnt = {"nuclei_val_map_50": training["val_map_50"]}
        return {**pick(after, METRICS), **drops(before, after), **learnt}


STUDIES: dict[str, Callable[[Bench], Result]] = {
    "size": Bench.size,
    "generated": Bench.generated,
    "crowds": Bench.crowds,
    "zero_shot": Bench.zero_shot,
    "adapter_all": Bench.adapter_all,
    "retention": Bench.retention,
    "full": Bench.full,
    "adapter_10": Bench.adapter_10,
    "adapter_50": Bench.adapter_50,
    "heads": Bench.heads,
    "bccd": Bench.bccd,
    "no_rehearsal": Bench.no_rehearsal,
    "no_negatives": Bench.no_negatives,
    "train_text": Bench.train_text,
    "classical": Bench.classical,
    "latency": Bench.latency,
}


def collect(bench: Bench, studies: Sequence[str]) -> tuple[Result, list[str]]:
    """Figures of the studies, and the names of those that are not finished."""
    figures: Result = {}
    missing = []
    for name in studies:
        try:
            figures |= STUDIES[name](bench)
        except NotFinished:
            missing.append(name)
    return figures | derived(figures), missing


def _latency(base: Path) -> Result:
    """In a process of its own, which binds itself to two cores."""
    command = [sys.executable, "-m", "benchmarks.latency", "--base", str(base)]
    subprocess.run(command, cwd=harness.ROOT, check=True)
    figures: Result = json.loads((harness.RESULTS / "latency.json").read_text())["figures"]
    return figures


def main() -> None:
    parser = harness.arguments(__doc__ or "")
    parser.add_argument("--base", default="tiny", help="another base: a folder in Hub layout")
    parser.add_argument("--only", nargs="+", choices=STUDIES, help="work on these alone; collect all")
    parser.add_argument("--collect", action="store_true", help="start nothing; write what is finished")
    args: Any = parser.parse_args()
    if harness.real_data("dsb2018") is None:
        raise SystemExit("Set MASKWELL_DATA to the folder that holds dsb2018/ and bccd/.")
    form, runs = (QUICK, RUNS / "quick") if args.quick else (FULL, RUNS)
    if args.quick:
        shutil.rmtree(runs, ignore_errors=True)
    base = snapshot(args.base, runs)
    folder = runs / base.hash[:8]
    programs = Programs(base, folder, harness.Cells(folder / "cells.jsonl"))
    studies = form.studies or tuple(STUDIES)
    if not args.collect:
        for name in args.only or studies:
            STUDIES[name](Bench(programs, form))
    bench = Bench(replace(programs, works=False), form)
    figures, missing = collect(bench, studies)
    left_out = f" Not measured yet: {', '.join(missing)}." if missing else ""
    harness.publish(
        args,
        "base",
        figures,
        command="python -m benchmarks.base",
        seeds=SEEDS,
        minutes=sum(bench.minutes.values()),
        notes=NOTES.format(base=base.hash[:8]) + left_out,
    )


if __name__ == "__main__":
    main()
