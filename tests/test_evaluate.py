"""evaluate.py: all metrics on whole images, with a model that is exact and with a checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from maskwell import app, compose
from maskwell.data.datamodule import DataModule
from maskwell.data.instances import InstanceMasks
from maskwell.data.prompts import PromptPolicy
from maskwell.data.sample import Prediction, Sample
from maskwell.data.source import Record, Split, Window
from maskwell.errors import UserError
from maskwell.evaluation import evaluate_task
from trained import SMALL, Oracle, spots, write_run

SIZES = ((100, 140), (60, 40), (64, 64))


class Spots:
    """Pictures of bright discs of one category."""

    categories = ("spot",)
    category_ids = (7,)

    def setup(self) -> None:
        """Nothing to read."""

    def size(self, split: Split) -> int:
        return len(SIZES) if split == "test" else 0

    def num_objects(self, split: Split) -> int | None:
        return None

    def image_size(self, split: Split, index: int) -> tuple[int, int]:
        return SIZES[index]

    def objects(self, split: Split, index: int) -> NDArray[np.float32]:
        return self.read(split, index, 0, None).boxes

    def read(self, split: Split, index: int, epoch: int, window: Window | None) -> Record:
        image = spots(SIZES[index])
        regions, count = ndimage.label(image[..., 0] > 128)
        masks = InstanceMasks(count, flat=regions.astype(np.int16))
        return Record(
            image=image,
            boxes=masks.boxes(),
            labels=np.zeros(count, np.int64),
            area=masks.areas(),
            iscrowd=np.zeros(count, bool),
            visible=np.ones(count, np.float32),
            image_id=10 + index,
            file_name=f"{index}.png",
            file_size=SIZES[index],
            window=(0, 0, SIZES[index][1], SIZES[index][0]),
            masks=masks,
        )

    def split_lists(self) -> dict[str, list[str]]:
        return {}


def spots_data(prompts: PromptPolicy | None = None) -> DataModule:
    data = DataModule(Spots(), batch_size=3, prompts=prompts)
    data.bind(Oracle().input_spec)
    data.setup()
    return data


@pytest.mark.parametrize("tile", [None, 48])
def test_an_exact_model_reaches_one_in_every_metric(tile: int | None) -> None:
    seen: list[tuple[int, int]] = []

    def look(record: Record, _: object, prediction: Prediction) -> None:
        seen.append((record.image_id, len(prediction.scores)))

    figures = evaluate_task(Oracle(), spots_data(PromptPolicy()), tile=tile, on_image=look)
    for name in ("map", "map_50", "map_75", "ap/spot", "bbox_map", "pmf1", "il_mcc", "cgf1"):
        assert figures[name] == pytest.approx(1.0), name
    assert figures["detections_per_image"] == pytest.approx((35 + 6 + 9) / 3)
    assert figures["max_confidence"] == pytest.approx(0.8)
    assert seen == [(10, 35), (11, 6), (12, 9)]


def test_max_dets_bounds_what_counts() -> None:
    figures = evaluate_task(Oracle(), spots_data(PromptPolicy()), max_dets=(1, 10))
    assert figures["map_50"] < 0.7


class Talkative(Oracle):
    """Answers every prompt with all spots."""

    def _answer(self, image: torch.Tensor, sample: Sample) -> Prediction:
        found = super()._answer(image, replace(sample, prompts=()))
        count, labels = len(found.scores), [prompt.label for prompt in sample.prompts]
        return replace(
            found,
            boxes=found.boxes.repeat(len(labels), 1),
            scores=found.scores.repeat(len(labels)),
            labels=torch.tensor(labels).repeat_interleave(count),
            rles=(found.rles or []) * len(labels),
        )


def test_a_model_that_answers_every_word_has_no_cgf1() -> None:
    figures = evaluate_task(Talkative(), spots_data(PromptPolicy()))
    assert figures["pmf1"] == pytest.approx(1.0) and figures["map"] == pytest.approx(1.0)
    assert figures["il_mcc"] == 0.0 and figures["cgf1"] == 0.0
    assert figures["detections_per_image"] == pytest.approx(50 / 3)


def test_phrases_of_the_data_are_scored_each_by_its_own_objects() -> None:
    class Phrased(Spots):
        def read(self, split: Split, index: int, epoch: int, window: Window | None) -> Record:
            record = super().read(split, index, epoch, window)
            everything = tuple(range(len(record.labels)))
            phrases = (("bright disc", everything), ("first disc", (0,)), ("zebra", ()))
            return replace(record, phrases=phrases)

    data = spots_data()
    data.source = Phrased()
    figures = evaluate_task(Talkative(), data)
    hits, found, named = 35 + 6 + 9 + 3, 2 * (35 + 6 + 9), 35 + 6 + 9 + 3
    assert figures["pmf1"] == pytest.approx(2 * hits / (found + named))
    assert figures["il_mcc"] == 0.0
    assert 0.3 < figures["map"] < 1.0  # three images each of an exact and of a noisy answer
    assert figures["detections_per_image"] == pytest.approx(found / 6)  # of each phrase that names something


def test_without_prompts_there_are_no_concept_figures() -> None:
    figures = evaluate_task(Oracle(), spots_data())
    assert figures["map"] == pytest.approx(1.0) and "cgf1" not in figures and "il_mcc" not in figures


def test_an_empty_split_is_a_sentence() -> None:
    with pytest.raises(UserError, match="'val'"):
        evaluate_task(Oracle(), spots_data(), "val")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MASKWELL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return write_run(tmp_path / "runs" / "sam_lora" / "2026-01-01_00-00-00")


def evaluate(*overrides: str) -> dict[str, float]:
    return app.evaluate(*compose.compose("evaluate", overrides))


def test_a_checkpoint_on_its_own_data(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = evaluate("ckpt=last", "tile=48", "max_dets=[1,10,400]")
    assert "map" in figures and "cgf1" in figures
    [folder] = (run / "evaluations").iterdir()
    content = json.loads((folder / "metrics.json").read_text())
    assert content["metrics"] == figures
    assert (content["split"], content["images"], content["tile"]) == ("test", 2, 48)
    assert content["max_dets"] == [1, 10, 400]
    results = json.loads((folder / "predictions.json").read_text())
    assert {entry["image_id"] for entry in results} <= {3, 4}
    assert {entry["category_id"] for entry in results} <= {1, 2, 3}
    assert all(isinstance(entry["segmentation"]["counts"], str) for entry in results)
    images = (folder / "images.csv").read_text().splitlines()
    assert images[0].startswith("image,error,measure") and len(images) == 3
    curve = (folder / "curves.csv").read_text().splitlines()
    assert curve[0] == "category,threshold,precision,recall,f1" and (folder / "curves.png").is_file()
    printed = capsys.readouterr().out
    assert "test split, 2 images" in printed and "map_50" in printed and "metrics.json" in printed


def test_other_data_and_split_for_a_checkpoint(run: Path) -> None:
    evaluate(f"ckpt={run}", "split=val", "data=cells", "data.size=96", "data.num_val=3", "output=out")
    assert json.loads(Path("out/metrics.json").read_text())["images"] == 3


def test_a_base_without_a_checkpoint(run: Path) -> None:
    base = [o for o in SMALL if o.startswith(("model.base", "model.image", "data", "+data"))]
    figures = evaluate(*base, "split=test")
    assert "map" in figures
    [folder] = Path("evaluations").iterdir()
    assert json.loads((folder / "metrics.json").read_text())["model"] == "scratch"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("ckpt=no.ckpt",), "no checkpoint no.ckpt"),
        (("model.base=scratch",), "data.root has to be given"),
        (("ckpt=last", "split=tset"), "Did you mean 'test'"),
        (("ckpt=last", "data.root=nowhere"), "root"),
        (("ckpt=last", "data=coco", "data.root=nowhere"), "nowhere"),
        (("ckpt=last", "model.seed=3"), "other weights"),
    ],
)
def test_bad_input_is_a_sentence(run: Path, overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(UserError, match=words):
        evaluate(*overrides)
    assert not (run / "evaluations").exists()
