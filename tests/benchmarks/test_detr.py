"""The benchmarks of detr, their trainings replaced by ones that answer at once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import detr_bccd, detr_recipe, harness, programs
from maskwell import compose


class FakePrograms:
    """Stands in for ``programs.start``."""

    def __init__(self) -> None:
        self.trained: list[tuple[str, ...]] = []

    def __call__(self, script: str, *arguments: str) -> None:
        assert script == "train.py"
        given = dict(argument.split("=", 1) for argument in arguments)
        self.trained.append(arguments)
        folder = Path(given["paths.run_dir"])
        (folder / "checkpoints").mkdir(parents=True)
        session = {"minutes": 9.0, "peak_memory_gib": {"process": 1.0}}
        (folder / "record.json").write_text(json.dumps({"sessions": [session]}))
        losses = [10.0 + (place % 2) * (3 if "earlier" in str(arguments) else 1) for place in range(60)]
        rows = "".join(f"{place},{loss},\n" for place, loss in enumerate(losses))
        (folder / "metrics.csv").write_text(f"step,train/batch_loss,val/map\n{rows}60,,0.5\n")
        if "pretrain" in folder.name:
            return
        score = 0.4 + 0.01 * int(given.get("seed", 0)) - (0.1 if "earlier" in str(arguments) else 0)
        score += 0.1 * ("init_from" in folder.name)
        found = {"map": score, "map_50": score + 0.2, "ap/RBC": 0.5, "threshold": 0.4, "loss": 7.0}
        before = {"base": {"map": 0.2, "map_50": 0.3}} if "evaluate_base=true" in arguments else {}
        (folder / "results.json").write_text(json.dumps({"trained": found, **before}))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakePrograms:
    started = FakePrograms()
    monkeypatch.setattr(programs, "start", started)
    monkeypatch.setattr(programs, "recipe_of", lambda *_: "recipe")  # composing takes a second
    return started


def programs_in(folder: Path, works: bool = True) -> programs.Programs:
    return programs.Programs(None, folder, harness.Cells(folder / "cells.jsonl"), works)


def test_both_starts_are_scored_and_nothing_runs_twice(fake: FakePrograms, tmp_path: Path) -> None:
    for _ in range(2):
        bench = detr_bccd.Bench(programs_in(tmp_path), detr_bccd.FULL)
        for name in detr_bccd.CELLS:
            bench.figures(name)
    assert len(fake.trained) == 3
    [started] = [arguments for arguments in fake.trained if any("init_from=" in a for a in arguments)]
    assert any(a.startswith("init_from=") and "pretrain-recipe" in a for a in started)
    bench = detr_bccd.Bench(programs_in(tmp_path, works=False), detr_bccd.FULL)
    figures, missing = detr_bccd.collect(bench)
    assert not missing
    assert figures["scratch.map_50"] == pytest.approx(0.6)
    assert figures["init_from.map_50"] == pytest.approx(0.7)
    assert figures["init_from.ap.RBC"] == 0.5 and figures["pretrain.minutes"] == 9.0
    assert figures["scratch.peak_gib"] == 1.0 and figures["scratch.val_map"] == 0.5
    assert "pretrain.map_50" not in figures and "scratch.loss" not in figures
    assert sum(bench.minutes.values()) == 27.0


def test_another_pretraining_is_another_start(fake: FakePrograms, tmp_path: Path) -> None:
    shared = programs_in(tmp_path)
    for place in ("one", "other"):
        shared.train("init_from", "a=1", start={"folder": place}, read=lambda _: {})
        shared.train("init_from", "a=1", start={"folder": place}, read=lambda _: {})
    assert [arguments[-2] for arguments in fake.trained] == ["init_from=one", "init_from=other"]


def test_what_is_not_trained_is_named(fake: FakePrograms, tmp_path: Path) -> None:
    detr_bccd.Bench(programs_in(tmp_path), detr_bccd.FULL).figures("scratch")
    bench = detr_bccd.Bench(programs_in(tmp_path, works=False), detr_bccd.FULL)
    figures, missing = detr_bccd.collect(bench)
    assert missing == ["pretrain", "init_from"] and figures["scratch.map_50"] == pytest.approx(0.6)


def test_every_part_of_the_recipe_is_compared_with_the_whole(fake: FakePrograms, tmp_path: Path) -> None:
    bench = detr_recipe.Bench(programs_in(tmp_path), detr_recipe.FULL)
    for variant in ("stable", "earlier"):
        for seed in detr_recipe.FULL.seeds:
            bench.run(variant, seed)
    assert len(fake.trained) == 1 + 2 * 3
    bench = detr_recipe.Bench(programs_in(tmp_path, works=False), detr_recipe.FULL)
    figures, missing = bench.figures()
    assert set(missing) == set(detr_recipe.VARIANTS) - {"stable", "earlier"}
    assert figures["stable.map"] == pytest.approx(0.41) and figures["stable.map.std"] == pytest.approx(0.01)
    assert figures["earlier_minus_stable.map"] == pytest.approx(-0.1)
    assert figures["earlier_minus_stable.loss_spread"] > 0
    assert figures["earlier.loss_std"] == pytest.approx(1.5, abs=0.1)
    assert figures["start_map_50"] == 0.3 and figures["stable.minutes"] == 9.0
    assert sum(bench.minutes.values()) == 63.0


def test_one_seed_has_no_spread(fake: FakePrograms, tmp_path: Path) -> None:
    bench = detr_recipe.Bench(programs_in(tmp_path), detr_recipe.QUICK)
    for variant in detr_recipe.QUICK.variants:
        bench.run(variant, 0)
    figures, missing = bench.figures()
    assert not missing and "stable.map.std" not in figures and "stable.map" in figures


def test_the_spread_is_that_of_batches_around_their_neighbours() -> None:
    assert detr_recipe.spread([5.0] * 80)["loss_spread"] == pytest.approx(0)
    assert detr_recipe.spread([5.0] * 80)["loss_std"] == pytest.approx(0)
    falling = np.linspace(20, 10, 400)
    assert detr_recipe.spread(falling.tolist())["loss_spread"] < 0.01
    random = np.random.default_rng(0)
    noisy = falling * (1 + 0.2 * random.standard_normal(400))
    found = detr_recipe.spread(noisy.tolist())
    assert found["loss_spread"] == pytest.approx(0.2, abs=0.03) and found["loss_jump"] > 1.3
    assert detr_recipe.spread([3.0])["loss_end"] == 3.0


def test_all_commands_compose(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MASKWELL_DATA", str(tmp_path))
    asked: list[tuple[str, ...]] = []

    def train(_: object, name: str, *overrides: str, **more: object) -> dict[str, object]:
        asked.append(overrides)
        return {"folder": name, "minutes": 1.0}

    monkeypatch.setattr(programs.Programs, "train", train)
    for blood in (detr_bccd.FULL, detr_bccd.QUICK):
        for name in detr_bccd.CELLS:
            detr_bccd.Bench(programs_in(tmp_path), blood).train(name)
    for nuclei in (detr_recipe.FULL, detr_recipe.QUICK):
        for variant in nuclei.variants:
            detr_recipe.Bench(programs_in(tmp_path), nuclei).run(variant, 0)
    for overrides in set(asked):
        cfg, _ = compose.compose("train", overrides)
        if "model/stability=earlier" in overrides:
            assert cfg.model.recipe.padding == "zero" and cfg.model.recipe.max_norm is None
