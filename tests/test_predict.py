"""predict.py: what it prints and writes, and bad input as sentences."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from maskwell import app, cli, compose
from maskwell.data.cells import generate_cells
from maskwell.errors import UserError
from maskwell.prediction import find_images
from trained import write_run

FEW = "model.detection.max_per_prompt=8"  # of the many that an untrained model finds
BASE = ("base=scratch", "model.image_size=64", FEW)


def predict(*overrides: str) -> Path:
    return app.predict(*compose.compose("predict", overrides))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two pictures, one in a subfolder; the working directory lies beside it."""
    root = tmp_path / "pictures"
    (root / "more").mkdir(parents=True)
    for index, name in enumerate(("a.png", "more/b.jpg")):
        Image.fromarray(generate_cells(0, 0, index, 96).image).save(root / name)
    (root / "notes.txt").write_text("no image")
    (root / ".hidden.png").write_text("no image")
    monkeypatch.chdir(tmp_path)
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "sam_lora" / "2026-01-01_00-00-00")


def test_a_folder_of_images_with_several_prompts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = predict(*BASE, f"input={folder}", "prompt=[cell nucleus,debris]", "threshold=0.05", "tile=64")
    assert output.parent == Path("predictions")
    content = json.loads((output / "predictions.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["a.png", "more/b.jpg"]
    assert [c["name"] for c in content["categories"]] == ["cell nucleus", "debris"]
    counts = {image["id"]: 0 for image in content["images"]}
    for entry in content["annotations"]:
        counts[entry["image_id"]] += 1
        assert entry["score"] >= 0.05 and entry["category_id"] in (1, 2)
        assert coco_mask.decode(entry["segmentation"]).shape == (96, 96)
        assert int(coco_mask.area(entry["segmentation"])) == entry["area"] > 0
    assert len({entry["id"] for entry in content["annotations"]}) == len(content["annotations"]) > 0
    printed = capsys.readouterr().out
    assert [f"Detected objects: {counts[i]}" in printed for i in (1, 2)] == [True, True]
    assert printed.count("Max confidence: 0.") == 2 and "cell nucleus: " in printed
    for name in ("a.png.png", "more/b.jpg.png"):
        with Image.open(output / "overlays" / name) as picture:
            assert min(picture.size) >= 96


def test_a_checkpoint_asks_for_its_own_categories_and_writes_beside_the_run(folder: Path, run: Path) -> None:
    output = predict(f"ckpt={run}", f"input={folder / 'a.png'}", FEW)
    assert output.parent == run / "predictions"
    content = json.loads((output / "predictions.json").read_text())
    assert [c["name"] for c in content["categories"]] == ["cell nucleus", "fibre", "debris"]
    again = predict(f"ckpt={run}", f"input={folder / 'a.png'}", FEW)
    assert again != output


def test_last_is_the_newest_run(folder: Path, run: Path) -> None:
    output = predict("ckpt=last", f"paths.runs={run.parents[1]}", f"input={folder}", "output=found", FEW)
    assert output == Path("found") and (output / "predictions.json").is_file()


def test_overrides_of_the_model_go_on_top_of_the_checkpoint(folder: Path, run: Path) -> None:
    with pytest.raises(UserError, match=r"best\.ckpt.*other weights"):
        predict(f"ckpt={run}", "model.seed=5", f"input={folder}")
    predict(f"ckpt={run}", "model.detection.max_per_prompt=1", f"input={folder}", "output=one", "threshold=0")
    content = json.loads(Path("one/predictions.json").read_text())
    assert len(content["annotations"]) == 6  # one for each of two images and three prompts


def test_an_unreadable_image_is_named_and_left_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "broken.png").write_bytes(b"no image")
    output = predict(*BASE, f"input={folder}", "prompt=nucleus", "output=found")
    content = json.loads((output / "predictions.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["a.png", "more/b.jpg"]
    assert "warning: " in (warned := capsys.readouterr().err) and "broken.png" in warned


def test_nothing_readable_is_an_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("one.png", "two.png"):
        (pictures / name).write_bytes(b"no image")
    with pytest.raises(UserError, match="none of the 2 images"):
        predict(*BASE, f"input={pictures}", "prompt=nucleus")
    with pytest.raises(UserError, match=r"one\.png' cannot be decoded"):
        predict(*BASE, f"input={pictures / 'one.png'}", "prompt=nucleus")
    assert not (tmp_path / "predictions").exists()


def test_pictures_of_an_earlier_prediction_are_no_input(folder: Path) -> None:
    for _ in range(2):
        output = predict(*BASE, f"input={folder}", "prompt=nucleus", f"output={folder / 'found'}")
    content = json.loads((output / "predictions.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["a.png", "more/b.jpg"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("prompt=nucleus",), "ckpt=last"),
        ((*BASE, "ckpt=some.ckpt"), "not both"),
        (("ckpt=some.ckpt",), "no checkpoint some.ckpt"),
        (("ckpt=last",), "no run with a checkpoint"),
        (("base=no/where",), "no/where"),
        (BASE, "No prompt"),
        ((*BASE, "prompt=''"), "no word"),
        ((*BASE, "prompt=[nucleus,' ']"), "no word"),
        ((*BASE, "prompt=nucleus", "tile=4"), "tile=4"),
        ((*BASE, "prompt=nucleus", "threshold=7"), "threshold=7"),
        ((*BASE, "prompt=nucleus", "input=nowhere"), "input=nowhere"),
        ((*BASE, "prompt=nucleus", "input=."), "holds no image"),
        ((*BASE, "promt=nucleus"), "Did you mean 'prompt'"),
    ],
)
def test_bad_input_is_a_sentence(
    overrides: tuple[str, ...], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    picture = tmp_path.parent / "picture.png"
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(picture)
    given = overrides if any(o.startswith("input=") for o in overrides) else (*overrides, f"input={picture}")
    with pytest.raises(UserError, match=words):
        predict(*given)
    assert not list(tmp_path.iterdir())


def test_input_has_to_be_given() -> None:
    with pytest.raises(UserError, match="input has to be given"):
        predict(*BASE)


def test_the_command_line_exits_with_2_and_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["predict.py", "base=tiny", "input=nowhere", "prompt=nucleus"])
    with pytest.raises(SystemExit) as stopped:
        cli.main("predict")
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: input=nowhere: there is no such image or folder.\n"


def test_images_are_found_in_a_fixed_order(folder: Path) -> None:
    assert find_images(folder) == [folder / "a.png", folder / "more" / "b.jpg"]
    assert find_images(folder / "a.png") == [folder / "a.png"]
