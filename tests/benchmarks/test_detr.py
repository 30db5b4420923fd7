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
        self.scored: list[str] = []

    def __call__(self, script: str, *arguments: str) -> None:
        given = dict(argument.split("=", 1) for argument in arguments)
        if script == "evaluate.py":
            self.scored.append(given["ckpt"])
            output = Path(given["output"])
            output.mkdir(parents=True)
            reached = 0.85 if "init_from" in given["ckpt"] else 0.75
            metrics = {"map_50": reached, "map": reached - 0.3, "ap/RBC": 0.5, "threshold": 0.4}
            (output / "metrics.json").write_text(json.dumps({"metrics": metrics}))
            return
        self.trained.append(arguments)
        folder = Path(given["paths.run_dir"])
        (folder / "checkpoints").mkdir(parents=True)
        session = {"minutes": 9.0, "peak_memory_gib": {"process": 1.0}}
        (folder / "record.json").write_text(json.dumps({"sessions": [session]}))
        losses = [10.0 + (place % 2) * (3 if "earlier" in str(arguments) else 1) for place in range(60)]
        rows = "".join(f"{place},{loss},\n" for place, loss in enumerate(losses))
        (folder / "metrics.csv").write_text(f"step,train/batch_loss,val/map\n{rows}60,,0.5\n")
        score = 0.4 + 0.01 * int(given.get("seed", 0)) - (0.1 if "earlier" in str(arguments) else 0)
        (folder / "results.json").write_text(json.dumps({"trained": {"map": score, "map_50": score + 0.2}}))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakePrograms:
    started = FakePrograms()
    monkeypatch.setattr(programs, "start", started)
    monkeypatch.setattr(detr_bccd, "_convert", lambda target: {"folder": str(target)})
    for module in (detr_bccd, detr_recipe):
        monkeypatch.setattr(module, "recipe_of", lambda *_: "recipe")  # composing takes a second
    monkeypatch.setenv("MASKWELL_DATA", str(tmp_path))
    return started


def test_both_starts_are_scored_and_nothing_runs_twice(fake: FakePrograms, tmp_path: Path) -> None:
    cells = harness.Cells(tmp_path / "cells.jsonl")
    for _ in range(2):
        bench = detr_bccd.Bench(detr_bccd.FULL, tmp_path, cells)
        for name in detr_bccd.CELLS:
            bench.figures(name)
    assert len(fake.trained) == 3 and len(fake.scored) == 2
    [started] = [arguments for arguments in fake.trained if any("init_from=" in a for a in arguments)]
    assert any(a.startswith("init_from=") and "pretrain-recipe" in a for a in started)
    figures, missing = detr_bccd.collect(detr_bccd.Bench(detr_bccd.FULL, tmp_path, cells, works=False))
    assert not missing
    assert figures["scratch.map_50"] == 0.75 and figures["init_from.map_50"] == 0.85
    assert figures["init_from.ap.RBC"] == 0.5 and figures["pretrain.minutes"] == 9.0
    assert figures["scratch.peak_gib"] == 1.0 and "pretrain.map_50" not in figures


def test_what_is_not_trained_is_named(fake: FakePrograms, tmp_path: Path) -> None:
    cells = harness.Cells(tmp_path / "cells.jsonl")
    detr_bccd.Bench(detr_bccd.FULL, tmp_path, cells).figures("scratch")
    figures, missing = detr_bccd.collect(detr_bccd.Bench(detr_bccd.FULL, tmp_path, cells, works=False))
    assert missing == ["pretrain", "init_from"] and figures["scratch.map_50"] == 0.75


def test_every_part_of_the_recipe_is_compared_with_the_whole(fake: FakePrograms, tmp_path: Path) -> None:
    cells = harness.Cells(tmp_path / "cells.jsonl")
    bench = detr_recipe.Bench(detr_recipe.FULL, tmp_path, cells)
    for variant in ("stable", "earlier"):
        for seed in (0, 1):
            bench.run(variant, seed)
    assert len(fake.trained) == 1 + 4
    figures, missing = detr_recipe.Bench(detr_recipe.FULL, tmp_path, cells, works=False).figures()
    assert set(missing) == set(detr_recipe.VARIANTS) - {"stable", "earlier"}
    assert figures["stable.map"] == pytest.approx(0.405) and figures["stable.map.std"] > 0
    assert figures["earlier_minus_stable.map"] == pytest.approx(-0.1)
    assert figures["earlier_minus_stable.loss_spread"] > 0


def test_the_spread_is_that_of_batches_around_their_neighbours() -> None:
    assert detr_recipe.spread([5.0] * 80)["loss_spread"] == pytest.approx(0)
    falling = np.linspace(20, 10, 400)
    assert detr_recipe.spread(falling.tolist())["loss_spread"] < 0.01
    random = np.random.default_rng(0)
    noisy = falling * (1 + 0.2 * random.standard_normal(400))
    found = detr_recipe.spread(noisy.tolist())
    assert found["loss_spread"] == pytest.approx(0.2, abs=0.03) and found["loss_jump"] > 1.3
    assert detr_recipe.spread([3.0])["loss_end"] == 3.0


def test_all_commands_compose(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MASKWELL_DATA", str(tmp_path))
    for name, form in (("scratch", detr_bccd.FULL), ("pretrain", detr_bccd.QUICK)):
        start = "detr_scenes" if name == "pretrain" else "detr_bccd"
        compose.compose("train", [f"experiment={start}", *form.always, *form.train[name]])
    for overrides in detr_recipe.VARIANTS.values():
        compose.compose("train", ["experiment=detr_dsb2018", *overrides, *detr_recipe.FULL.train])
    earlier, _ = compose.compose("train", ["experiment=detr_dsb2018", *detr_recipe.VARIANTS["earlier"]])
    assert earlier.model.recipe.padding == "zero" and earlier.model.recipe.max_norm is None
