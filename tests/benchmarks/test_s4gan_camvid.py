"""The comparison of recipes, its trainings replaced by ones that answer at once."""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

from benchmarks import figures, harness, programs, s4gan_camvid
from benchmarks.s4gan_camvid import FULL, RECIPES, STUDIES, Bench
from maskwell import compose

LEVEL = dict(zip(RECIPES, (0.30, 0.28, 0.36, 0.35, 0.34), strict=True))


class FakeTraining:
    """Stands in for ``programs.start``: the recipe sets the level, the seed shifts it, 0.002 is best."""

    def __init__(self) -> None:
        self.commands: list[dict[str, str]] = []

    def __call__(self, script: str, *arguments: str) -> None:
        given = dict(argument.split("=", 1) for argument in arguments)
        self.commands.append(given)
        folder = Path(given["paths.run_dir"])
        (folder / "checkpoints").mkdir(parents=True)
        session = {"minutes": 9.0, "peak_memory_gib": {"process": 1.0}}
        (folder / "record.json").write_text(json.dumps({"sessions": [session]}))
        reached = LEVEL[given["model/recipe"]] - abs(float(given["model.rates.lr_generator"]) - 0.002)
        (folder / "metrics.csv").write_text(f"step,val/miou\n1,\n2,{reached - 0.1}\n3,{reached}\n")
        miou = reached - 0.05 + 0.01 * int(given["seed"]) * (2 if given["model/recipe"] == "sound" else 1)
        trained = {"miou": miou, "pixel_accuracy": 0.8, "iou/road": 0.9}
        (folder / "results.json").write_text(json.dumps({"trained": trained}))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeTraining:
    started = FakeTraining()
    monkeypatch.setattr(programs, "start", started)
    monkeypatch.setattr(s4gan_camvid, "recipe_of", lambda *_: "recipe")  # composing takes a second
    monkeypatch.setenv("MASKWELL_DATA", str(tmp_path))
    return started


def _bench(folder: Path, works: bool = True) -> Bench:
    return Bench(FULL, folder, harness.Cells(folder / "cells.jsonl"), works)


def test_every_recipe_trains_at_its_best_rate_and_nothing_twice(fake: FakeTraining, tmp_path: Path) -> None:
    bench = _bench(tmp_path)
    for study in STUDIES:
        for recipe in FULL.of(study):
            assert len(bench.runs(study, recipe)[0]) == len(STUDIES[study].seeds)
    # five recipes: three rates, two more seeds, two other shares, nuclei; and all labels once
    assert len(fake.commands) == 5 * (3 + 2 + 2 + 1) + 1
    later = [command for command in fake.commands if command["seed"] != "0"]
    assert {command["model.rates.lr_generator"] for command in later} == {"0.002"}
    found, missing = _bench(tmp_path, works=False).figures("1_8")
    assert len(fake.commands) == 41 and not missing
    for recipe in RECIPES:
        assert found[f"{recipe}.lr"] == 0.002
        shift = 0.02 if recipe == "sound" else 0.01
        assert found[f"{recipe}.miou"] == pytest.approx(LEVEL[recipe] - 0.05 + shift)
        assert found[f"{recipe}.miou.std"] == pytest.approx(shift)
        assert found[f"{recipe}.iou.road"] == 0.9 and f"{recipe}.pixel_accuracy" not in found
    assert found["sound_minus_supervised.miou"] == pytest.approx(0.07)
    assert found["guide_minus_supervised.miou.low"] == pytest.approx(-0.02)
    assert found["sound_minus_supervised.miou.low"] < 0.05 < 0.09 < found["sound_minus_supervised.miou.high"]
    small, _ = _bench(tmp_path, works=False).figures("1_16")
    assert small["1_16.sound_minus_supervised.miou"] == pytest.approx(0.06)
    assert "1_16.sound.miou.std" not in small
    nuclei, _ = _bench(tmp_path, works=False).figures("dsb2018")
    assert {f"{recipe}.miou" for recipe in RECIPES} <= nuclei.keys()


def test_what_is_not_finished_is_left_out_and_named(fake: FakeTraining, tmp_path: Path) -> None:
    _bench(tmp_path).runs("1_8", "sound")
    found, missing = _bench(tmp_path, works=False).figures("1_8")
    assert "sound.miou" in found and not any("minus" in name for name in found)
    assert missing == [f"1_8.{recipe}" for recipe in RECIPES if recipe != "sound"]
    _bench(tmp_path).run("1_8", "supervised", 1)
    found, missing = _bench(tmp_path, works=False).figures("1_8")
    # the training that found the rate is that of seed 0
    assert found["sound_minus_supervised.miou"] == pytest.approx(0.06 + 0.01 * 0.5)
    assert missing[0] == "1_8.supervised (seed 2)"


def test_both_files_are_written(fake: FakeTraining, tmp_path: Path) -> None:
    for study, recipe in itertools.product(("1_8", "dsb2018"), ("supervised", "sound")):
        _bench(tmp_path / "runs").run(study, recipe, 0)
        if study == "1_8":
            _bench(tmp_path / "runs").runs(study, recipe)
    args = argparse.Namespace(quick=False, out=tmp_path / "s4gan_camvid.json")
    s4gan_camvid.publish(_bench(tmp_path / "runs", works=False), args)
    camvid, nuclei = (json.loads((tmp_path / f"s4gan_{n}.json").read_text()) for n in ("camvid", "dsb2018"))
    assert camvid["seeds"] == [0, 1, 2] and camvid["minutes"] == 2 * 5 * 9
    assert "Not measured yet: 1_8.guide" in camvid["notes"]
    assert nuclei["seeds"] == [0] and nuclei["minutes"] == 2 * 9 and "sound.miou" in nuclei["figures"]
    assert "dsb2018.guide" in nuclei["notes"]


def test_the_interval_is_that_of_a_paired_t_test() -> None:
    first, second = [0.41, 0.45, 0.39], [0.38, 0.40, 0.38]
    found = figures.paired_difference(first, second, "miou")
    reference = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert (found["miou.low"], found["miou.high"]) == pytest.approx((reference.low, reference.high))
    assert found["miou"] == pytest.approx(statistics.mean(first) - statistics.mean(second))
    assert figures.paired_difference([0.5], [0.4], "miou") == {"miou": pytest.approx(0.1)}


def test_the_trainings_compose(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MASKWELL_DATA", str(tmp_path))
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(s4gan_camvid, "recipe_of", lambda _, *overrides: asked.append(overrides) or "")
    for study, recipe in zip(STUDIES, RECIPES, strict=False):
        with pytest.raises(programs.NotFinished):
            _bench(tmp_path, works=False)._run(study, recipe, 0.002, 1)
    recipes = {programs.recipe_of("train", *overrides) for overrides in asked}
    assert len(recipes) == len(STUDIES)
    cfg, _ = compose.compose("train", asked[1])
    assert (cfg.model.recipe.threshold_st, cfg.model.recipe.st_start, cfg.data.labelled) == (0.2, 1000, 0.25)


def test_the_quick_form_differs_from_the_full_one_only_in_size() -> None:
    assert set(s4gan_camvid.QUICK.recipes) <= set(RECIPES)
    quick = {name: replace(STUDIES[name], seeds=(0,)) for name in ("1_8", "dsb2018")}
    assert quick == s4gan_camvid.QUICK.studies
