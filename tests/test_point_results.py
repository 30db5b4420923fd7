"""Points through the programs: evaluation, prediction and what they write, with an exact model."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from scipy import ndimage

from maskwell import api, app, compose, draw, evaluation, point_results, prediction
from maskwell.data.kinds import coco
from maskwell.data.sample import Batch, InputSpec, Prediction, Sample
from maskwell.errors import UserError
from maskwell.models.base import BaseTask
from tests.data.coco_folder import box_annotation, content, write
from trained import Oracle, spots

SIZES = ((60, 80), (40, 60), (30, 30))
COUNTS = (12, 6, 1)


class Clicker(BaseTask):
    """Marks the middle of every bright spot, row by row from the bottom, up to ``cap``."""

    family = "clicker"
    pointwise = True

    def __init__(self, cap: int = 100) -> None:
        super().__init__()
        self.input_spec = InputSpec("pad", 160, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), enlarge=True)
        self.cap = cap
        self.categories = ("spot",)

    def predict_batch(self, batch: Batch) -> list[Prediction]:
        assert not self.training
        return [self._marks(image, s) for image, s in zip(batch.images, batch.samples, strict=True)]

    def _marks(self, image: torch.Tensor, sample: Sample) -> Prediction:
        height, width = image.shape[1:]
        places = torch.from_numpy(_middles(image[0].numpy())).float() / torch.tensor([width, height])
        points = _from_the_bottom(sample.geometry.points_to_window(places).numpy())[: self.cap]
        scores = torch.linspace(0.5, 0.9, len(points))
        stopped = len(places) <= self.cap
        return Prediction.of_points(
            sample.geometry.window_size,
            torch.from_numpy(points),
            scores,
            stopped=stopped,
            done=0.95 if stopped else 0.25,
        )


def _middles(grey: np.ndarray) -> np.ndarray:
    """(x, y) of the middle of every region above half of the largest value."""
    regions, count = ndimage.label(grey > grey.max() / 2)
    return np.array(ndimage.center_of_mass(regions > 0, regions, range(1, count + 1)))[:, ::-1] + 0.5


def _from_the_bottom(places: np.ndarray) -> np.ndarray:
    return places[np.lexsort((places[:, 0], -(places[:, 1] // 10)))]


def _centres(size: tuple[int, int]) -> np.ndarray:
    return _from_the_bottom(_middles(spots(size)[..., 0]))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A COCO folder whose test images show spots with a box each."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    for split, numbers in (("train", (1, 2)), ("val", (1,)), ("test", (1, 2, 3))):
        data = content(len(numbers), numbers[0])
        data["annotations"] = []
        for number, entry in zip(numbers, data["images"], strict=True):
            size = SIZES[number - 1]
            entry["height"], entry["width"] = size
            data["annotations"] += [
                box_annotation(100 * number + i, number, (x - 5.5, y - 5.5, 11, 11))
                for i, (x, y) in enumerate(_centres(size).tolist())
            ]
            Image.fromarray(spots(size)).save(folder / "images" / f"{number}.png")
        write(folder / f"{split}.json", data)
    return folder


def _rows(path: Path) -> Sequence[dict[str, Any]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _patched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, task: BaseTask) -> None:
    """predict.py and evaluate.py find the exact model instead of a checkpoint."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prediction, "_model", lambda *_: (api.Model(task, task.categories), Path()))
    monkeypatch.setattr(evaluation, "_task", lambda cfg, _: (task, cfg, None))


def test_marks_come_back_in_their_order_and_in_pixels_of_the_image() -> None:
    found = api.Model(Clicker(), ("spot",)).mark(spots((60, 80)))
    assert found.count == 12 and found.complete
    np.testing.assert_allclose(found.points.numpy(), _centres((60, 80)), atol=0.3)
    assert found.scores.tolist() == sorted(found.scores.tolist())  # not sorted by score
    assert min(found.overlay().shape[:2]) >= 384


def test_images_of_several_sizes_go_through_in_batches() -> None:
    found = list(api.Model(Clicker()).mark_all([spots(size) for size in SIZES], batch_size=2))
    assert [one.count for one in found] == list(COUNTS)
    for one, size in zip(found, SIZES, strict=True):
        np.testing.assert_allclose(one.points.numpy(), _centres(size), atol=0.5)


def test_a_model_says_which_of_its_methods_is_meant() -> None:
    picture = np.zeros((20, 20, 3), np.uint8)
    for verb in ("predict", "segment"):
        with pytest.raises(UserError, match=r"mark\(\)"):
            getattr(api.Model(Clicker(), ("spot",)), verb)(picture)
    with pytest.raises(UserError, match=r"predict\(\)"):
        api.Model(Oracle(), ("spot",)).mark(picture)


def test_predict(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _patched(monkeypatch, root.parent, Clicker())
    output = app.predict(*compose.compose("predict", [f"input={root / 'images'}", "ckpt=last"]))
    loaded = COCO(str(output / "predictions.json"))
    assert [loaded.imgs[i]["file_name"] for i in (1, 2, 3)] == ["1.png", "2.png", "3.png"]
    assert loaded.cats[1] | {"id": 1} == {"id": 1, "name": "spot", "keypoints": ["point"], "skeleton": []}
    for number, size in enumerate(SIZES, 1):
        entries = loaded.loadAnns(loaded.getAnnIds(imgIds=number))
        assert [entry["keypoints"][2] for entry in entries] == [2] * COUNTS[number - 1]
        np.testing.assert_allclose([entry["keypoints"][:2] for entry in entries], _centres(size), atol=0.5)
    rows = _rows(output / "points.csv")
    assert tuple(rows[0]) == ("image", "number", "x", "y", "confidence")
    assert [row["number"] for row in rows if row["image"] == "2.png"] == [str(i) for i in range(1, 7)]
    first = [float(rows[0][name]) for name in ("x", "y", "confidence")]
    assert first == pytest.approx([*loaded.anns[1]["keypoints"][:2], 0.5])
    counts = _rows(output / "counts.csv")
    assert [(row["image"], int(row["count"])) for row in counts] == [
        (f"{number}.png", count) for number, count in enumerate(COUNTS, 1)
    ]
    assert {(row["stopped"], row["done"]) for row in counts} == {("yes", "0.9500")}
    assert all((output / "overlays" / f"{number}.png.png").is_file() for number in (1, 2, 3))
    said = capsys.readouterr()
    assert "Marked objects: 12" in said.out and "counts.csv" in said.out and not said.err


def test_what_was_predicted_can_be_trained_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _patched(monkeypatch, root.parent, Clicker())
    app.predict(*compose.compose("predict", [f"input={root / 'images'}", "ckpt=last", "output=found"]))
    found = json.loads(Path("found/predictions.json").read_text())
    for split in ("train", "val"):
        write(root / f"{split}.json", found)
    (root / "test.json").unlink()
    data = coco(str(root), rehearsal=None)
    data.bind(Clicker().input_spec, pointwise=True)
    data.setup()
    truth = data.dataset("val")[0].truth
    assert truth is not None and truth.points is not None
    np.testing.assert_allclose(truth.points.numpy(), _centres(SIZES[0]), atol=0.5)


def test_a_cap_that_was_reached_is_a_warning(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _patched(monkeypatch, root.parent, Clicker(cap=6))
    output = app.predict(*compose.compose("predict", [f"input={root / 'images'}", "ckpt=last"]))
    counts = [(row["count"], row["stopped"], row["done"]) for row in _rows(output / "counts.csv")]
    assert counts == [("6", "no", "0.2500"), ("6", "yes", "0.9500"), ("1", "yes", "0.9500")]
    warned = capsys.readouterr().err
    assert warned.count("warning: ") == 1 and "1.png" in warned and "model.max_points" in warned


@pytest.mark.parametrize("given", ["prompt=spot", "tile=32"])
def test_what_such_a_model_cannot_do_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    _patched(monkeypatch, root.parent, Clicker())
    with pytest.raises(UserError, match=given.partition("=")[0]):
        app.predict(*compose.compose("predict", [f"input={root / 'images'}", "ckpt=last", given]))
    assert not (root.parent / "predictions").exists()


def test_evaluate(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _patched(monkeypatch, root.parent, Clicker())
    given = [f"data.root={root}", "data.rehearsal=null", "output=out"]
    figures = app.evaluate(*compose.compose("evaluate", given))
    saved = json.loads(Path("out/metrics.json").read_text())
    assert saved["metrics"] == figures and saved["reference"] == 384
    assert figures["f1_9_6"] == figures["exact"] == 1.0 and figures["count_mae"] == 0.0
    found = COCO(str(root / "test.json")).loadRes("out/predictions.json")
    assert len(found.anns) == sum(COUNTS)
    assert len(_rows(Path("out/points.csv"))) == sum(COUNTS) and len(_rows(Path("out/counts.csv"))) == 3
    assert "f1_9_6" in capsys.readouterr().out
    images = _rows(Path("out/images.csv"))
    assert {(row["measure"], row["error"], row["count_error"]) for row in images} == {("f1", "0", "0")}
    assert _rows(Path("out/curves.csv"))[0]["f1"] == "1" and Path("out/curves.png").is_file()


def test_tiles_are_refused_in_evaluation_too(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _patched(monkeypatch, root.parent, Clicker())
    with pytest.raises(UserError, match="tile=32"):
        app.evaluate(*compose.compose("evaluate", [f"data.root={root}", "data.rehearsal=null", "tile=32"]))


def test_several_categories_are_not_told_apart() -> None:
    marked = [point_results.Marked("a.png", Prediction.of_points((5, 5), torch.ones(1, 2), torch.ones(1)))]
    assert point_results.dataset(marked, ("red", "white"))["categories"][0]["name"] == "object"


def test_the_columns_of_what_is_not_known_stay_empty(tmp_path: Path) -> None:
    found = Prediction.of_points((5, 5), torch.zeros(0, 2), torch.zeros(0))
    point_results.write_counts([point_results.Marked("a, b.png", found)], tmp_path / "counts.csv")
    assert _rows(tmp_path / "counts.csv") == [{"image": "a, b.png", "count": "0", "stopped": "", "done": ""}]


def test_marks_are_numbered_as_they_were_marked() -> None:
    places, scores = torch.tensor([[20.0, 50.0], [80.0, 50.0]]), torch.tensor([0.1, 0.9])
    picture = np.zeros((100, 100, 3), np.uint8)
    found = Prediction.of_points((100, 100), places, scores)
    drawn = draw.overlay(picture, found, min_side=100)
    assert tuple(drawn[50, 14]) == draw.colour(0) and tuple(drawn[50, 74]) == draw.colour(1)


@pytest.mark.parametrize("pointwise", [True, False])
def test_a_training_of_points_is_told_of_objects_on_one_pixel(
    root: Path, capsys: pytest.CaptureFixture[str], pointwise: bool
) -> None:
    found = json.loads((root / "train.json").read_text())
    x, y, w, h = found["annotations"][0]["bbox"]
    found["annotations"].append(box_annotation(999, 1, (x + 3, y + 3, w - 6, h - 6)))  # the same middle
    write(root / "train.json", found)
    data = coco(str(root), rehearsal=None)
    data.bind(Clicker().input_spec, pointwise=pointwise)
    data.setup()
    app._check_data(data, root.parent)
    assert ("point-shared, 1 times" in capsys.readouterr().out) == pointwise
