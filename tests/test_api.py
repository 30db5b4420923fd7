"""maskwell.load(ckpt).predict(image, prompt)."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image

import maskwell
from maskwell import api
from maskwell.data.cells import generate_cells
from maskwell.errors import UserError
from maskwell.restore import Restored
from trained import Oracle, spots, trained_task, write_checkpoint, write_run

PICTURE = generate_cells(0, 0, 0, 96).image


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def model(run: Path) -> api.Model:
    return maskwell.load(run / "checkpoints" / "best.ckpt")


def assert_equal(one: api.Detections, two: api.Detections) -> None:
    assert torch.equal(one.boxes, two.boxes) and torch.equal(one.scores, two.scores)
    assert one.labels == two.labels and one.rles == two.rles


def test_three_lines(run: Path) -> None:
    model = maskwell.load(run)
    found = model.predict(PICTURE, prompt="cell nucleus", threshold=0.0)
    masks = found.masks
    assert masks.shape == (found.count, 96, 96) and masks.dtype == torch.bool and found.count > 0
    assert found.boxes.shape == (found.count, 4) and set(found.labels) == {"cell nucleus"}
    assert found.max_confidence == pytest.approx(float(found.scores[0]))
    assert found.overlay().dtype == np.uint8


def test_a_loaded_checkpoint_answers_as_the_trained_task(model: api.Model) -> None:
    task, _, _ = trained_task()
    untrained = api.Model(type(task)("scratch", image_size=64), ("nucleus",))
    found = model.predict(PICTURE, "nucleus", threshold=0.0)
    task.prepare_inference()  # as loading does; undone for the tests that share the task
    try:
        assert_equal(found, api.Model(task).predict(PICTURE, "nucleus", threshold=0.0))
    finally:
        task.net.model.unmerge_adapter()
    assert not torch.equal(found.scores[:3], untrained.predict(PICTURE, "nucleus", threshold=0.0).scores[:3])


def test_path_picture_and_array_are_the_same(model: api.Model, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    Image.fromarray(PICTURE).save(path)
    found = model.predict(PICTURE, "nucleus", threshold=0.0)
    assert_equal(found, model.predict(path, "nucleus", threshold=0.0))
    assert_equal(found, model.predict(str(path), "nucleus", threshold=0.0))
    assert_equal(found, model.predict(Image.fromarray(PICTURE), "nucleus", threshold=0.0))


def test_without_a_prompt_the_renamed_categories_are_asked(model: api.Model) -> None:
    assert model.phrases == ("cell nucleus", "fibre", "debris")
    found = model.predict(PICTURE, threshold=0.0)
    assert found.prompts == model.phrases
    assert set(found.labels) == set(model.phrases)
    alone = model.predict(PICTURE, "debris", threshold=0.0)
    mine = [i for i, label in enumerate(found.labels) if label == "debris"]
    assert torch.allclose(found.scores[mine], alone.scores, atol=1e-5)


def test_threshold_keeps_the_best_and_max_confidence_knows_all(model: api.Model) -> None:
    everything = model.predict(PICTURE, "nucleus", threshold=0.0)
    middle = float(everything.scores[everything.count // 2])
    some = model.predict(PICTURE, "nucleus", threshold=middle)
    assert 0 < some.count < everything.count and float(some.scores.min()) >= middle
    none = model.predict(PICTURE, "nucleus", threshold=1.0)
    assert none.count == 0 and none.masks.shape == (0, 96, 96)
    assert none.max_confidence == pytest.approx(everything.max_confidence)


def test_tiles_answer_in_pixels_of_the_image() -> None:
    model = api.Model(Oracle(), ("spot",))
    found = model.predict(spots((100, 140)), tile=48)
    assert found.count == 35 and found.prediction.size == (100, 140)
    assert torch.equal(found.masks.any(0), torch.from_numpy(spots((100, 140))[..., 0] > 128))


def test_classes_of_models_without_prompts_keep_their_names() -> None:
    cfg = OmegaConf.create({"data": {"prompts": {"rename": {"spot": "bright spot"}}}})
    assert isinstance(cfg, DictConfig)
    restored = Restored(Oracle(), cfg, ("spot", "stripe"), Path("best.ckpt"))
    assert api.from_restored(restored, "cpu").phrases == ("spot", "stripe")


def test_models_without_prompts_choose_among_their_classes() -> None:
    model = api.Model(Oracle(), ("spot", "stripe"))
    assert model.predict(spots((40, 40))).labels == ("spot",) * 4
    chosen = model.predict(spots((40, 40)), ["stripe", "spot"])
    assert chosen.labels == ("spot",) * 4 and chosen.prediction.labels.tolist() == [1] * 4
    none = model.predict(spots((40, 40)), "stripe")
    assert none.count == 0 and none.rles == []
    with pytest.raises(UserError, match="knows spot, stripe, and not 'dog'"):
        model.predict(spots((40, 40)), "dog")


def test_the_threshold_is_the_one_that_validation_chose() -> None:
    task = Oracle()  # its scores are 0.8
    assert api.Model(task, ("spot",)).predict(spots((40, 40))).count == 4
    task.threshold = 0.9
    assert api.Model(task, ("spot",)).predict(spots((40, 40))).count == 0
    assert api.Model(task, ("spot",)).predict(spots((40, 40)), threshold=0.5).count == 4


def test_a_run_folder_means_its_best_checkpoint(run: Path, model: api.Model) -> None:
    found = maskwell.load(str(run)).predict(PICTURE, "nucleus", threshold=0.0)
    assert_equal(found, model.predict(PICTURE, "nucleus", threshold=0.0))


@pytest.mark.parametrize("prompt", ["", "  ", ["nucleus", ""], []])
def test_a_prompt_without_a_word_is_a_sentence(model: api.Model, prompt: str | list[str]) -> None:
    with pytest.raises(UserError, match="prompt"):
        model.predict(PICTURE, prompt)


@pytest.mark.parametrize(
    "image", [PICTURE.astype(np.float32), PICTURE[..., 0], PICTURE[..., :2], PICTURE[:0], 3]
)
def test_no_image_is_a_sentence(model: api.Model, image: object) -> None:
    with pytest.raises(UserError, match="image"):
        model.predict(image, "nucleus")  # type: ignore[arg-type]


def test_an_image_that_does_not_decode_is_a_sentence(model: api.Model, tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n no more")
    with pytest.raises(UserError, match=r"broken\.png.* cannot be decoded"):
        model.predict(path, "nucleus")


def test_threshold_outside_is_a_sentence(model: api.Model) -> None:
    with pytest.raises(UserError, match="threshold=30"):
        model.predict(PICTURE, "nucleus", threshold=30)


def test_missing_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no checkpoint .*nowhere\.ckpt"):
        maskwell.load(tmp_path / "nowhere.ckpt")
    with pytest.raises(UserError, match=r"best\.ckpt"):
        maskwell.load(tmp_path)


class Touch:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_pickled_code_is_neither_loaded_nor_run(tmp_path: Path) -> None:
    trap, sprung = tmp_path / "trap.ckpt", tmp_path / "sprung"
    torch.save({"state_dict": {}, "extra": Touch(sprung)}, trap)
    with pytest.raises(UserError, match=r"trap\.ckpt holds pickled code"):
        maskwell.load(trap)
    trap.write_bytes(pickle.dumps(Touch(sprung)))
    with pytest.raises(UserError, match=r"trap\.ckpt"):
        maskwell.load(trap)
    assert not sprung.exists()


def test_foreign_and_changed_checkpoints_are_sentences(tmp_path: Path) -> None:
    task, config, _ = trained_task()
    foreign = tmp_path / "foreign.ckpt"
    torch.save({"state_dict": {}}, foreign)
    with pytest.raises(UserError, match="not written by maskwell"):
        maskwell.load(foreign)
    family = write_checkpoint(task, config, tmp_path / "family.ckpt", family="s4gan")
    with pytest.raises(UserError, match=r"family\.ckpt .*'s4gan', not of 'sam_lora'"):
        maskwell.load(family)
    base = write_checkpoint(task, config.replace("seed: 0", "seed: 7"), tmp_path / "base.ckpt")
    with pytest.raises(UserError, match=r"base\.ckpt.* base 'scratch' with other weights"):
        maskwell.load(base)
    rank = write_checkpoint(task, config.replace("rank: 2", "rank: 4"), tmp_path / "rank.ckpt")
    with pytest.raises(UserError, match=r"rank\.ckpt"):
        maskwell.load(rank)
    for number, text in enumerate(("model: [", "{}", "model: {_target_: os.system}")):
        odd = write_checkpoint(task, text, tmp_path / f"odd{number}.ckpt")
        with pytest.raises(UserError):
            maskwell.load(odd)


def test_importing_the_package_is_cheap() -> None:
    code = "import sys, maskwell; assert 'torch' not in sys.modules; maskwell.lod"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip().endswith("AttributeError: module 'maskwell' has no attribute 'lod'")
