"""The benchmark of the small base, its programs replaced by ones that answer at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks import base, classical, figures, harness, programs
from benchmarks.programs import Base, NotFinished, Programs

Bench = base.Bench

ISSUE_FIGURES = (
    "generated.map_50",
    "generated.il_mcc",
    "dsb2018.zero_shot.map_50",
    "dsb2018.adapter_10.map_50",
    "dsb2018.adapter_10.map_50.min",
    "dsb2018.adapter_10.map_50.seed_2",
    "dsb2018.adapter_50.map_50",
    "dsb2018.adapter_all.map_50",
    "dsb2018.adapter_all.share_of_full",
    "dsb2018.full.map_50",
    "dsb2018.heads.map_50",
    "dsb2018.classical.map_50",
    "bccd.zero_shot.map_50",
    "bccd.adapter.map_50",
    "retention.map_50_drop",
    "retention.il_mcc_drop",
    "retention.no_rehearsal.map_50_drop",
    "retention.no_negatives.il_mcc_drop",
    "retention.train_text.map_50_drop",
    "latency_ms",
    "parameters",
    "megabytes",
)


class FakePrograms:
    """Stands in for ``programs.start``: keeps the commands and writes what the programs would write."""

    def __init__(self, val_map_50: Callable[[str], float] = lambda rate: 0.5) -> None:
        self.commands: list[tuple[str, ...]] = []
        self.val_map_50 = val_map_50

    def __call__(self, script: str, *arguments: str) -> None:
        self.commands.append((script, *arguments))
        given = dict(argument.split("=", 1) for argument in arguments)
        if script == "evaluate.py":
            folder = Path(given["output"])
            folder.mkdir(parents=True)
            metrics = {"map": 0.2, "map_50": 0.4 if "ckpt" in given else 0.1, "il_mcc": 0.5}
            (folder / "metrics.json").write_text(json.dumps({"metrics": metrics}))
            return
        folder = Path(given["paths.run_dir"])
        (folder / "checkpoints").mkdir(parents=True)
        session = {"minutes": 2.0, "peak_memory_gib": {"process": 1.5}}
        (folder / "record.json").write_text(json.dumps({"sessions": [{"start": "killed"}, session, session]}))
        (folder / "metrics.csv").write_text(
            f"step,val/map_50\n1,\n2,0.01\n3,{self.val_map_50(given['optim.lr'])}\n"
        )
        torch.save({"state_dict": {"a": torch.zeros(3, 5)}}, folder / "checkpoints" / "best.ckpt")

    def of(self, script: str) -> list[tuple[str, ...]]:
        return [command for command in self.commands if command[0] == script]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakePrograms:
    started = FakePrograms()
    monkeypatch.setattr(programs, "start", started)
    monkeypatch.setenv("MASKWELL_DATA", str(tmp_path))
    monkeypatch.setattr(harness, "blood_cells", lambda target: target)
    monkeypatch.setattr(base, "_latency", lambda folder: {"latency_ms": 12.0})
    monkeypatch.setattr(classical, "evaluate", lambda split: {"map_50": 0.66, "map_small": 0.3})
    return started


def programs_in(folder: Path, digest: str = "abc", works: bool = True) -> Programs:
    weights = Base(Path("base"), digest, parameters=150, megabytes=8.0)
    return Programs(weights, folder, harness.Cells(folder / "cells.jsonl"), works)


def test_all_figures_come_out_and_nothing_runs_twice(fake: FakePrograms, tmp_path: Path) -> None:
    fake.val_map_50 = lambda rate: {"0.002": 0.9, "0.0008": 0.8}.get(rate, 0.3)
    bench = Bench(programs_in(tmp_path), base.FULL)
    measured, missing = base.collect(bench, tuple(base.STUDIES))
    assert not missing
    assert set(ISSUE_FIGURES) <= set(measured)
    assert measured["dsb2018.adapter_all.lr"] == 0.002
    assert measured["dsb2018.full.lr"] == 0.0008
    assert measured["dsb2018.adapter_all.trainable_share"] == pytest.approx(0.1)
    assert measured["retention.map_50_drop"] == pytest.approx(-0.3)
    assert "dsb2018.classical.map_small" not in measured
    trainings = fake.of("train.py")
    assert len(trainings) == 3 + 3 + 1 + 3 + 3 + 1 + 3  # LoRA, full, heads, few, few, blood, variants
    assert sum(bench.minutes.values()) == pytest.approx(4.0 * len(trainings))
    count = len(fake.commands)
    again = Bench(programs_in(tmp_path, works=False), base.FULL)
    assert base.collect(again, tuple(base.STUDIES)) == (measured, [])
    assert len(fake.commands) == count


def test_commands_of_the_few_shot_trainings(fake: FakePrograms, tmp_path: Path) -> None:
    fake.val_map_50 = lambda rate: 0.9 if rate == "0.004" else 0.3
    Bench(programs_in(tmp_path), base.FULL).adapter_10()
    few = [command for command in fake.of("train.py") if "data.limit_train=10" in command]
    assert [next(a for a in command if a.startswith("seed=")) for command in few] == [
        "seed=0",
        "seed=1",
        "seed=2",
    ]
    assert all({"optim.lr=0.004", "trainer.max_steps=150"} <= set(command) for command in few)
    scores = fake.of("evaluate.py")
    assert len(scores) == 3
    assert all({"tile=80", "max_dets=[1,10,400]"} <= set(command) for command in scores)


def test_retention_is_measured_on_the_scored_checkpoint(fake: FakePrograms, tmp_path: Path) -> None:
    bench = Bench(programs_in(tmp_path), base.FULL)
    bench.adapter_all()
    bench.retention()
    scores = fake.of("evaluate.py")
    scenes = [command for command in scores if "data=scenes" in command and "data.num_test=300" in command]
    models = {next(a for a in command if a.startswith(("ckpt=", "model.base="))) for command in scores}
    assert len(scenes) == 2 and len(scores) == 3
    assert len(models) == 2  # one adapter and the base


def test_another_base_shares_no_cell(fake: FakePrograms, tmp_path: Path) -> None:
    cells = harness.Cells(tmp_path / "cells.jsonl")
    for digest in ("abc", "abd", "abc"):
        weights = Base(Path("base"), digest, parameters=1, megabytes=1.0)
        Programs(weights, tmp_path / digest, cells).score("scenes", None, *base.HELD_OUT)
    assert len(fake.commands) == 2


def test_unfinished_studies_are_named_and_left_out(fake: FakePrograms, tmp_path: Path) -> None:
    Bench(programs_in(tmp_path), base.FULL).generated()
    bench = Bench(programs_in(tmp_path, works=False), base.FULL)
    measured, missing = base.collect(bench, ("generated", "adapter_all", "size"))
    assert missing == ["adapter_all"]
    assert {"generated.map_50", "parameters"} <= set(measured)
    with pytest.raises(NotFinished, match=r"lora_0\.0007"):
        bench.adapter_all()


def test_a_training_that_was_cut_off_resumes(fake: FakePrograms, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert programs.training_arguments(folder, ["a=1"], resumes=True) == [f"ckpt_path={folder}"]
    assert programs.training_arguments(folder, ["a=1"], resumes=False) == ["a=1", f"paths.run_dir={folder}"]


def test_recipes_tell_apart_what_changes_figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MASKWELL_DATA", str(tmp_path))
    plain = ("train", *base.NUCLEI, "model.base=scratch")
    first = programs.recipe_of(*plain)
    assert programs.recipe_of(*plain, "optim.lr=0.5") != first
    assert programs.recipe_of(*plain, "seed=1") != first
    assert programs.recipe_of(*plain, "data.limit_train=null") == first
    assert programs.recipe_of(*plain, "callbacks.panels=null") == first
    programs.recipe_of.cache_clear()
    monkeypatch.setenv("MASKWELL_DATA", "/elsewhere")
    assert programs.recipe_of(*plain) == first


def test_best_val_skips_rows_without_validation() -> None:
    assert programs.best_val("step,val/map_50,x\n0,,1\n1,0.25,\n2,0.75,\n3,0.5,\n") == 0.75


def test_best_rate_is_the_smallest_of_equals() -> None:
    runs = {0.004: {"val_map_50": 0.5}, 0.002: {"val_map_50": 0.5}, 0.0007: {"val_map_50": 0.4}}
    assert figures.best_rate(runs) == 0.002


def test_seeds_are_averaged_and_kept() -> None:
    scores = {
        0: {"map_50": 0.5, "map": 0.1, "cgf1": 0.3},
        1: {"map_50": 0.6, "map": 0.1},
        2: {"map_50": 0.4, "map": 0.4},
    }
    assert figures.over_seeds(scores) == {
        "map": pytest.approx(0.2),
        "map.std": pytest.approx(0.03**0.5),
        "map_50": pytest.approx(0.5),
        "map_50.std": pytest.approx(0.1),
        "map_50.min": 0.4,
        "map_50.seed_0": 0.5,
        "map_50.seed_1": 0.6,
        "map_50.seed_2": 0.4,
    }


def test_drops_and_derived_figures() -> None:
    before, after = {"map_50": 0.75, "il_mcc": 0.5, "map": 1.0}, {"map_50": 0.25, "il_mcc": 0.75}
    assert figures.drops(before, after) == {"map_50_drop": 0.5, "il_mcc_drop": -0.25}
    adapter = {"dsb2018.adapter_all.map_50": 0.6}
    assert figures.derived(adapter) == {}
    both = figures.derived({**adapter, "dsb2018.full.map_50": 0.8})
    assert both == {"dsb2018.adapter_all.share_of_full": pytest.approx(0.75)}
