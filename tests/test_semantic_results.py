"""Class maps through the programs: whole images and tiles, evaluation, prediction, with an exact model."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from maskwell import api, app, compose, evaluation, prediction, semantic_results
from maskwell.data.datamodule import DataModule
from maskwell.data.sample import Batch, InputSpec, Prediction
from maskwell.data.semantic import SemanticSource, read_index_mask
from maskwell.errors import UserError
from maskwell.models.base import BaseTask
from trained import Oracle

NAMES = ("soil", "crop", "weed")
LEVELS = (20, 120, 220)
SIZES = ((48, 70), (90, 64), (33, 33))


class Grey(BaseTask):
    """Gives every pixel the class whose grey is the nearest; ``blind`` pixels at the rim see class 0."""

    family = "grey"
    semantic = True

    def __init__(self, size: int | None = None, blind: int = 0) -> None:
        super().__init__()
        self.input_spec = InputSpec("pad", size, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), multiple=16)
        self.blind = blind
        self.categories = NAMES

    def class_probabilities(self, images: Tensor) -> Tensor:
        assert not self.training and images.shape[2] % 16 == 0
        levels = torch.tensor(LEVELS) / 255
        scores = -200 * (images[:, :1] - levels[:, None, None]).square()
        if self.blind:
            inside = torch.zeros(images.shape[2:], dtype=torch.bool)
            inside[self.blind : -self.blind, self.blind : -self.blind] = True
            scores = torch.where(inside, scores, torch.tensor([0.1, 0.0, 0.0])[:, None, None])
        return scores.softmax(1)

    def predict_batch(self, batch: Batch) -> list[Prediction]:
        raise AssertionError("windows are averaged, not merged")


def _truth(size: tuple[int, int], seed: int) -> NDArray[np.uint8]:
    """Blocks of classes."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 3, (size[0] // 8 + 1, size[1] // 8 + 1))
    return np.kron(blocks, np.ones((8, 8))).astype(np.uint8)[: size[0], : size[1]]


def _picture(classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(np.array(LEVELS, np.uint8)[classes][..., None], 3, axis=2)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Images with index masks whose upper rows are ignored, in the splits train and test."""
    for split, seeds in (("train", (0,)), ("val", (1,)), ("test", (2, 3, 4))):
        for folder in ("images", "masks"):
            (tmp_path / "data" / folder / split).mkdir(parents=True)
        for seed, size in zip(seeds, SIZES, strict=False):
            classes = _truth(size, seed)
            Image.fromarray(_picture(classes)).save(tmp_path / "data" / "images" / split / f"{seed}.png")
            classes[:4] = 255
            Image.fromarray(classes).save(tmp_path / "data" / "masks" / split / f"{seed}.png")
    (tmp_path / "data" / "classes.json").write_text(json.dumps(NAMES))
    return tmp_path / "data"


def _data(root: Path, task: BaseTask) -> DataModule:
    data = DataModule(SemanticSource(str(root)), batch_size=2)
    data.bind(task.input_spec)
    data.setup()
    return data


@pytest.mark.parametrize("tile", [None, 32])
def test_an_exact_model_scores_one_on_whole_images_and_on_tiles(root: Path, tile: int | None) -> None:
    task = Grey()
    scores = evaluation.evaluate_classes(task, _data(root, task), tile=tile)
    figures = {name: float(value) for name, value in scores.compute().items()}
    assert figures == dict.fromkeys(("miou", "pixel_accuracy", *(f"iou/{name}" for name in NAMES)), 1.0)
    assert int(scores.matrix.sum()) == sum((height - 4) * width for height, width in SIZES)


def test_what_one_tile_does_not_see_its_neighbour_adds() -> None:
    classes = _truth((100, 130), 5)
    picture = _picture(classes)
    inside = np.s_[8:-8, 8:-8]
    # tiles of 48 px that are blind in 8 px at each rim: in an overlap of 16 px or more, one of two sees
    tiled, apart = (
        api.Model(Grey(blind=8), NAMES).segment(picture, tile=48, overlap=share).classes.numpy()
        for share in (0.34, 0.0)
    )
    assert np.array_equal(tiled[inside], classes[inside])
    assert (apart[inside] == classes[inside]).mean() < 0.95


def test_a_network_input_of_another_scale_comes_back_in_pixels_of_the_image() -> None:
    classes = np.zeros((80, 120), np.uint8)
    classes[20:60, 40:100] = 2
    found = api.Model(Grey(size=60), NAMES).segment(_picture(classes)).classes.numpy()
    assert found.shape == classes.shape
    assert (found == 2).sum() == pytest.approx((classes == 2).sum(), rel=0.05)
    assert found[22:58, 42:98].min() == 2 and found[:18].max() == 0


def test_areas_and_overlay() -> None:
    classes = np.zeros((10, 20), np.uint8)
    classes[:, 15:] = 2
    found = api.Model(Grey(), NAMES).segment(_picture(classes))
    assert found.areas() == {"soil": 150, "crop": 0, "weed": 50}
    assert found.overlay().shape[1] >= 384


def test_a_model_says_which_of_its_methods_is_meant() -> None:
    picture = np.zeros((20, 20, 3), np.uint8)
    with pytest.raises(UserError, match=r"segment\(\)"):
        api.Model(Grey(), NAMES).predict(picture)
    with pytest.raises(UserError, match=r"predict\(\)"):
        api.Model(Oracle(), ("spot",)).segment(picture)


def test_the_confusion_matrix_as_json_and_picture(tmp_path: Path) -> None:
    matrix = torch.tensor([[6, 2, 0], [0, 0, 0], [1, 0, 3]])
    files = semantic_results.write_confusion(matrix, NAMES, tmp_path)
    content = json.loads(files["confusion"].read_text())
    assert content["classes"] == list(NAMES) and content["pixels"] == matrix.tolist()
    assert content["shares"] == [[0.75, 0.25, 0.0], [0.0, 0.0, 0.0], [0.25, 0.0, 0.75]]
    with Image.open(files["picture"]) as picture:
        assert min(picture.size) > 200


def test_an_index_mask_is_read_back_as_it_was(tmp_path: Path) -> None:
    classes = torch.from_numpy(_truth((20, 30), 1).astype(np.int64))
    semantic_results.save_index_map(classes, tmp_path / "masks" / "a.png")
    assert np.array_equal(read_index_mask(tmp_path / "masks" / "a.png"), classes.numpy())


def _patched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """predict.py and evaluate.py find the exact model instead of a checkpoint."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prediction, "_model", lambda *_: (api.Model(Grey(), NAMES), Path()))
    monkeypatch.setattr(evaluation, "_task", lambda cfg, _: (Grey(), cfg, None))


def _rows(path: Path) -> Sequence[dict[str, Any]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_predict(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _patched(monkeypatch, root.parent)
    (root / "images" / "test" / "more").mkdir()
    twin = _picture(_truth((40, 40), 9))
    for name in ("x.png", "x.bmp"):
        Image.fromarray(twin).save(root / "images" / "test" / "more" / name)
    output = app.predict(
        *compose.compose("predict", [f"input={root / 'images' / 'test'}", "ckpt=last", "tile=32"])
    )
    names = ["2.png", "3.png", "4.png", "more/x.bmp", "more/x.png"]
    for seed, size in zip((2, 3, 4), SIZES, strict=True):
        assert np.array_equal(read_index_mask(output / "masks" / f"{seed}.png"), _truth(size, seed))
    assert sorted(p.name for p in (output / "masks" / "more").iterdir()) == ["x.bmp.png", "x.png.png"]
    assert all((output / "overlays" / f"{name}.png").is_file() for name in names)
    rows = _rows(output / "areas.csv")
    assert [row["image"] for row in rows] == [name for name in names for _ in NAMES]
    mine = [row for row in rows if row["image"] == "2.png"]
    counts = np.bincount(_truth(SIZES[0], 2).ravel(), minlength=3)
    assert [int(row["pixels"]) for row in mine] == counts.tolist()
    assert [float(row["share"]) for row in mine] == pytest.approx(counts / counts.sum(), abs=1e-6)
    said = capsys.readouterr().out
    assert "areas.csv" in said and f"soil {counts[0] / counts.sum():.1%}" in said


def test_a_prompt_for_such_a_model_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _patched(monkeypatch, root.parent)
    with pytest.raises(UserError, match="prompt="):
        app.predict(*compose.compose("predict", [f"input={root / 'images'}", "ckpt=last", "prompt=weed"]))
    assert not (root.parent / "predictions").exists()


def test_evaluate(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _patched(monkeypatch, root.parent)
    given = ["data=semantic", f"data.root={root}", "tile=32", "output=out"]
    figures = app.evaluate(*compose.compose("evaluate", given))
    content = json.loads(Path("out/metrics.json").read_text())
    assert figures["miou"] == 1.0 and content["metrics"] == figures
    assert (content["split"], content["images"], content["tile"]) == ("test", 3, 32)
    assert json.loads(Path("out/confusion.json").read_text())["classes"] == list(NAMES)
    said = capsys.readouterr().out
    assert "miou" in said and "iou/weed" in said and "confusion.png" in said
    images = Path("out/images.csv").read_text().splitlines()
    assert len(images) == 4 and all(",0,miou," in line for line in images[1:])
    curve = Path("out/curves.csv").read_text().splitlines()
    assert curve[0] == "category,threshold,accuracy,share" and curve[1].endswith(",1,1")


def test_data_without_class_maps_is_a_sentence(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _patched(monkeypatch, root.parent)
    monkeypatch.setenv("MASKWELL_CACHE", str(root.parent / "cache"))
    given = ["data=cells", "data.num_train=1", "data.num_val=1", "data.num_test=1", "data.size=64"]
    with pytest.raises(UserError, match="no class maps"):
        app.evaluate(*compose.compose("evaluate", given))
