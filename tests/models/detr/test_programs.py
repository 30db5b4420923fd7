"""The programs with a detector: train, resume, start from other classes, evaluate, predict."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maskwell import app, checkpoint, compose
from maskwell.data.sample import Batch
from maskwell.errors import UserError
from maskwell.models.base import Stage, StepOutput
from maskwell.models.detr.module import Detr

pytestmark = pytest.mark.slow

MODEL = ("model=detr", "model.queries=20", "model.image_size=64", "model.ema_decay=0.9")
SMALL = (
    *MODEL,
    "data=cells",
    "data.num_train=6",
    "data.num_val=2",
    "data.num_test=2",
    "data.size=64",
    "data.crop=null",
    "data.batch_size=2",
    "data.num_workers=0",
    "trainer=cpu",
    "evaluate_base=false",
    "callbacks.progress=null",
)


def train(folder: Path, *overrides: str) -> Path:
    cfg, origin = compose.compose("train", [f"paths.runs={folder}", *overrides])
    app.train(cfg, origin)
    return Path(cfg.paths.run_dir)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def run(root: Path) -> Path:
    return train(root, *SMALL, "trainer.max_epochs=2")


def test_a_run_leaves_its_figures_pictures_and_confusion(run: Path) -> None:
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert {"train/batch_loss", "train/learning_rate", "train/grad_norm", "train/loss_dn"} <= rows[0].keys()
    assert {"val/map", "train/epoch_avg_loss", "train/num_objects"} <= rows[0].keys()
    rates = [float(row["train/learning_rate"]) for row in rows if row.get("train/learning_rate")]
    assert rates[0] <= 5e-5 and rates == sorted(rates, reverse=True)
    assert list((run / "panels").glob("*.png"))
    trained = json.loads((run / "results.json").read_text())["trained"]
    assert {"map", "map_50", "loss"} <= trained.keys()
    findings = json.loads((run / "health.json").read_text())
    assert "not divided" not in json.dumps(findings)


def test_a_run_goes_on_with_its_average(root: Path) -> None:
    folder = train(root, *SMALL, "trainer.max_epochs=1", "test=false")
    before = checkpoint.read(folder / "checkpoints" / "last.ckpt", "detr")
    cfg, origin = compose.compose(
        "train", ["model=detr", f"paths.runs={root}", f"ckpt_path={folder}", "trainer.max_epochs=2"]
    )
    app.train(cfg, origin)
    after = checkpoint.read(folder / "checkpoints" / "last.ckpt", "detr")
    assert (before["iteration"], after["iteration"]) == (3, 6)
    name = "teacher.net.model.model.enc_score_head.weight"
    assert not torch.equal(before["state_dict"][name], after["state_dict"][name])


def test_generated_scenes_are_a_start_for_other_classes(root: Path) -> None:
    scenes = train(
        root,
        *MODEL,
        "data=scenes",
        "data.size=64",
        "data.epoch_size=4",
        "data.num_val=2",
        "data.batch_size=2",
        "data.num_workers=0",
        "trainer=cpu",
        "trainer.max_epochs=1",
        "evaluate_base=false",
        "test=false",
        "health=none",
        "callbacks.progress=null",
    )
    started = train(root, *SMALL, f"init_from={scenes}", "trainer.max_steps=1", "callbacks.panels=null")
    name = "net.model.model.backbone.model.embedder.embedder.0.convolution.weight"
    before = checkpoint.read(scenes / "checkpoints" / "best.ckpt")["state_dict"]
    after = checkpoint.read(started / "checkpoints" / "last.ckpt")["state_dict"]
    torch.testing.assert_close(after[name], before[f"teacher.{name}"], atol=2e-3, rtol=0)
    assert (
        after["net.model.class_embed.0.weight"].shape[0]
        == 3
        != before["net.model.class_embed.0.weight"].shape[0]
    )


def test_a_run_that_starts_from_weights_sees_what_they_were_trained_on(
    run: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so does one that resumes: the data was bound before the weights were read."""
    content = checkpoint.read(run / "checkpoints" / "last.ckpt")
    checkpoint.write({**content, "normalisation": [[0.0] * 3, [1.0] * 3]}, tmp_path / "raw.ckpt")
    seen: list[torch.Tensor] = []
    step = Detr.step

    def watched(task: Detr, batch: Batch, stage: Stage) -> StepOutput:
        seen.append(batch.images)
        return step(task, batch, stage)

    monkeypatch.setattr(Detr, "step", watched)
    train(root, *SMALL, f"init_from={tmp_path / 'raw.ckpt'}", "trainer.max_steps=1", "test=false")
    assert seen and all(float(images.min()) >= 0 and float(images.max()) <= 1 for images in seen)
    seen.clear()
    resumed = [*MODEL, f"paths.runs={root}", f"ckpt_path={tmp_path / 'raw.ckpt'}"]
    app.train(*compose.compose("train", [*resumed, "trainer.max_epochs=3", "test=false"]))
    assert seen and all(float(images.min()) >= 0 and float(images.max()) <= 1 for images in seen)


def test_evaluate_writes_coco_results_and_the_confusion(run: Path, tmp_path: Path) -> None:
    output = tmp_path / "scores"
    cfg, origin = compose.compose("evaluate", ["model=detr", f"ckpt={run}", f"output={output}"])
    figures = app.evaluate(cfg, origin)
    assert "map" in figures and "cgf1" not in figures and "pmf1" not in figures
    assert (output / "predictions.json").is_file()
    written = json.loads((output / "metrics.json").read_text())
    assert written["min_score"] == 0.01, "as the test of the run: model.detection.min_score"
    content = json.loads((output / "confusion.json").read_text())
    assert content["classes"][-1] == "background" and len(content["objects"]) == 4


def test_predict_gives_pictures_and_coco_boxes(run: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (70, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save(pictures / "a.png")
    Image.fromarray(noise[:64, :40]).save(pictures / "b.png")
    arguments = ["model=detr", f"ckpt={run}", f"input={pictures}", f"output={tmp_path / 'out'}"]
    cfg, origin = compose.compose("predict", [*arguments, "threshold=0.0"])
    output = app.predict(cfg, origin)
    content = json.loads((output / "predictions.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["a.png", "b.png"]
    assert len(content["categories"]) == 3
    for entry in content["annotations"]:
        x, y, width, height = entry["bbox"]
        assert (
            x >= 0 and y >= 0 and x + width <= 50.01 and y + height <= 70.01 and "segmentation" not in entry
        )
    assert (output / "overlays" / "a.png.png").is_file() or (output / "overlays" / "a.png").is_file()
    cfg, origin = compose.compose("predict", [*arguments, "prompt=zebra"])
    with pytest.raises(UserError, match="not 'zebra'"):
        app.predict(cfg, origin)


def test_a_base_alone_predicts_nothing(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    cfg, origin = compose.compose("predict", ["model=detr", "base=small", f"input={tmp_path}"])
    with pytest.raises(UserError, match="model=detr wants ckpt="):
        app.predict(cfg, origin)
