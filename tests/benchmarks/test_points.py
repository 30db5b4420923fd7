"""Points beside their controls, the trainings replaced by ones that answer at once."""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from benchmarks import harness, point_controls, points, points_claims, programs
from benchmarks.point_controls import Window
from benchmarks.points import FULL, HEADS, STUDIES, Bench
from maskwell import compose
from maskwell.data.sample import Geometry, Sample, Truth

CONTROLS = {"classical.f1_9_6": 0.9, "classical.count_mae": 2.0, "grid.f1_19_2": 0.1}


class FakeTraining:
    """Stands in for ``programs.start``: 3e-3 is best; the seed shifts ours twice as much as the control."""

    def __init__(self) -> None:
        self.commands: list[dict[str, str]] = []

    def __call__(self, script: str, *arguments: str) -> None:
        given = dict(argument.split("=", 1) for argument in arguments)
        self.commands.append(given)
        folder = Path(given["paths.run_dir"])
        (folder / "checkpoints").mkdir(parents=True)
        session = {"minutes": 9.0, "peak_memory_gib": {"process": 1.0}}
        (folder / "record.json").write_text(json.dumps({"sessions": [session]}))
        control = given.get("model.head") == "one_shot"
        reached = 0.9 - 0.05 * control + 10 * float(given["optim.lr"])
        (folder / "metrics.csv").write_text(f"step,val/f1_9_6,val/loss\n1,,\n2,{reached},1.0\n3,0.1,1.5\n")
        f1 = reached + 0.01 * int(given["seed"]) * (1 if control else 2)
        trained = {"f1_9_6": f1, "f1_19_2": f1, "count_mae": 1.0, "pixel_error/k_0": 4.0, "loss": 7.0}
        trained |= {"pixel_error": 5.0, "done_auroc": f1, "done_highest": 0.9}
        (folder / "results.json").write_text(json.dumps({"trained": trained}))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTraining:
    started = FakeTraining()
    monkeypatch.setattr(programs, "start", started)
    for module in (points, points_claims):
        monkeypatch.setattr(module, "recipe_of", lambda *_: "recipe")  # composing takes a second
    monkeypatch.setattr(points, "_controls", lambda *_: CONTROLS)
    return started


def _bench(folder: Path, works: bool = True) -> Bench:
    return Bench(FULL, folder, harness.Cells(folder / "cells.jsonl"), works)


def test_every_head_trains_at_its_best_rate_and_nothing_twice(fake: FakeTraining, tmp_path: Path) -> None:
    everything = [f"{study}.{part}" for study in STUDIES for part in (*HEADS, "controls")]
    points.work(_bench(tmp_path), everything)
    assert len(fake.commands) == 2 * (2 + 3 * len(STUDIES))  # two rates for a short time, three seeds each
    points.work(_bench(tmp_path), everything)
    assert len(fake.commands) == 22
    long = [command for command in fake.commands if command["trainer.max_steps"] != "600"]
    assert {command["optim.lr"] for command in long} == {"0.003"}
    found, missing = _bench(tmp_path, works=False).figures("bccd")
    assert not missing and found["bccd.lr"] == found["bccd.one_shot.lr"] == 0.003
    assert found["bccd.f1_9_6"] == pytest.approx(0.95)
    assert found["bccd.f1_9_6.std"] == pytest.approx(0.02)
    assert found["bccd.f1_9_6.seed_2"] == pytest.approx(0.97)
    assert found["bccd.one_shot.f1_9_6"] == pytest.approx(0.89)
    assert found["bccd.pixel_error.k_0"] == 4.0 and "bccd.loss" not in found
    assert found["bccd.classical.f1_9_6"] == 0.9
    reference = stats.ttest_rel([0.93, 0.95, 0.97], [0.88, 0.89, 0.90]).confidence_interval(0.95)
    assert found["bccd.ours_minus_one_shot.f1_9_6"] == pytest.approx(0.06)
    assert found["bccd.ours_minus_one_shot.f1_9_6.low"] == pytest.approx(reference.low)
    assert found["bccd.ours_minus_classical.f1_9_6"] == pytest.approx(0.05)


def test_what_is_not_finished_is_left_out_and_named(fake: FakeTraining, tmp_path: Path) -> None:
    points.work(_bench(tmp_path / "runs"), ["dsb2018.ours"])
    done = _bench(tmp_path / "runs", works=False)
    found, missing = done.figures("dsb2018")
    assert "dsb2018.f1_9_6" in found and not any("minus" in name for name in found)
    assert missing == ["dsb2018.one_shot", "dsb2018.controls"]
    points.publish(replace(done, minutes={}), argparse.Namespace(quick=False, out=tmp_path / "points.json"))
    written = json.loads((tmp_path / "points.json").read_text())
    assert "Not measured yet: dsb2018.one_shot" in written["notes"] and written["minutes"] == 9 * (2 + 3)


@pytest.mark.parametrize(
    ("study", "head"), [("dsb2018", "ours"), ("dsb2018_crops", "ours"), ("bccd", "one_shot")]
)
def test_the_trainings_compose(
    study: str, head: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MASKWELL_DATA", str(tmp_path))
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(points, "recipe_of", lambda _, *overrides: asked.append(overrides) or "")
    with pytest.raises(programs.NotFinished):
        _bench(tmp_path, works=False).run(study, head, 1e-3, 1, 3000)
    cfg, _ = compose.compose("train", asked[0])
    assert (cfg.model.image_size, cfg.trainer.max_steps, cfg.trainer.val_check_interval) == (384, 3000, 300)
    assert cfg.model.head == {"ours": "pointer", "one_shot": "one_shot"}[head]
    assert (cfg.data.objects, cfg.data.crop) == (None, 256 if study == "dsb2018_crops" else None)


def test_square_images_with_so_many_objects(tmp_path: Path) -> None:
    sizes = {1: (256, 256, 7), 2: (256, 320, 7), 3: (256, 256, 2), 4: (256, 256, 60)}
    images = [{"id": i, "height": h, "width": w} for i, (h, w, _) in sizes.items()]
    entries = [{"image_id": i, "iscrowd": 0} for i, (_, _, count) in sizes.items() for _ in range(count)]
    (tmp_path / "all" / "images").mkdir(parents=True)
    for split in ("train", "val", "test"):
        (tmp_path / "all" / f"{split}.json").write_text(
            json.dumps({"images": images, "annotations": entries})
        )
    points.square_images(tmp_path / "all", tmp_path / "some")
    kept = json.loads((tmp_path / "some" / "val.json").read_text())
    assert [image["id"] for image in kept["images"]] == [1] and len(kept["annotations"]) == 7
    assert (tmp_path / "some" / "images").resolve() == (tmp_path / "all" / "images").resolve()


def _window(objects: list[tuple[float, float]]) -> Window:
    """A window of 20 x 10 px that the network sees five times as large, padded to a square."""
    centres = torch.tensor(objects)
    boxes = torch.cat([centres - 1, centres + 1], dim=1)
    none = torch.zeros(len(boxes), dtype=torch.int64)
    truth = Truth((10, 20), boxes, none, none.bool(), torch.ones(len(boxes)), points=centres)
    place = Geometry((10, 20), (0, 0, 20, 10), (50, 100), (100, 100))
    sample = Sample(torch.zeros(3, 100, 100), boxes, none, place, 0, "", truth=truth)
    return Window(np.zeros((50, 100, 3), np.uint8), sample)


def test_controls_are_scored_in_the_frame_of_the_truth() -> None:
    window = _window([(2.0, 4.0), (15.0, 5.0)])
    exact = point_controls.score([window], lambda image: torch.tensor([[10.0, 20.0], [75.0, 25.0]]))
    assert exact["f1_9_6"] == 1 and exact["mean_distance"] == pytest.approx(0, abs=1e-4)
    shifted = point_controls.score([window], lambda image: torch.tensor([[13.0, 20.0], [75.0, 25.0]]))
    assert shifted["mean_distance"] == pytest.approx(3 * 3.84 / 2)  # 3 px of 100, of two matches


def test_data_are_prepared_once_however_many_start_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def make(name: str, target: Path) -> None:
        made.append(name)
        time.sleep(0.05)
        target.mkdir()  # fails where it is there already
        (target / "test.json").touch()

    monkeypatch.setattr(points, "DATA", tmp_path / "data")
    monkeypatch.setattr(harness, "real_data", lambda name: tmp_path / name)
    monkeypatch.setattr(points, "square_images", lambda _, target: make("nuclei", target))
    monkeypatch.setattr(
        "maskwell.data.convert.convert", lambda _kind, _source, target, link: make("blood", target)
    )
    with ThreadPoolExecutor(3) as threads:
        for started in [threads.submit(points.prepare) for _ in range(3)]:
            started.result()
    assert made == ["nuclei", "blood"]


def test_points_that_look_at_nothing() -> None:
    assert point_controls.even_grid(8, 50, 100).tolist()[:2] == [[12.5, 12.5], [37.5, 12.5]]
    for count in range(1, 30):
        grid = point_controls.even_grid(count, 40, 60)
        assert grid.shape == (count, 2) and bool((grid > 0).all()) and bool((grid[:, 0] < 60).all())
        assert bool((grid[:, 1] < 40).all())
    found = point_controls.trivial([3, 4, 5], [_window([(5.0, 5.0)])], [_window([(5.0, 5.0)])])
    assert (found["mean_count.points"], found["mean_count.count_mae"]) == (4, 3)


def test_claims_about_formulas(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(points, "DATA", tmp_path)
    (tmp_path / "dsb2018_256").mkdir()
    entries = [{"image_id": 1, "iscrowd": 0}] * 19
    content = {"images": [{"id": 1}, {"id": 2}], "annotations": entries}
    (tmp_path / "dsb2018_256" / "val.json").write_text(json.dumps(content))
    found = points_claims.computed_claims()
    assert (found["threshold_0_3_is_57_px.holds"], found["threshold_0_3_is_57_px.by"]) == (
        1,
        pytest.approx(57.6),
    )
    assert (found["mse_pulls_alike.holds"], found["mse_pulls_alike.by"]) == (0, pytest.approx(10))
    assert found["tighter_threshold_pulls_harder.by"] == pytest.approx(0.1 / (2 * 30 / 192))
    assert found["done_share_is_0_03.by"] == pytest.approx((1 / 20 + 1) / 2)


def test_claims_about_trainings(fake: FakeTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(points_claims, "computed_claims", dict)
    bench = points_claims.Bench(points_claims.FULL, tmp_path, harness.Cells(tmp_path / "cells.jsonl"))
    for name in ("funnel_0_3", "mse"):
        bench.runs(name)
    found, missing = replace(bench, works=False).figures()
    assert len(fake.commands) == 6 and "sound" in missing
    assert (found["overfits.holds"], found["overfits.by"]) == (1, 1.5)
    assert found["funnel_over_mse.holds"] == 0 and found["funnel_over_mse.by"] == 0
    assert found["runs.mse.pixel_error"] == 10.0  # px of 384
    claim = points_claims.CLAIMS["tighter_threshold"]
    runs = {claim.first: {0: {"pixel_error": 3.0}}, claim.second: {0: {"pixel_error": 5.0}}}
    assert points_claims.judged(claim, runs) == {"holds": 1, "decided": 0, "by": -2.0}


def test_the_forms_of_claims_are_forms() -> None:
    claims = {**points_claims.CLAIMS, **points_claims.COMPARED}.values()
    assert {name for claim in claims for name in (claim.first, claim.second)} <= set(points_claims.FORMS)
    assert {claim.metric for claim in claims} <= set(points_claims.SHOWN)
