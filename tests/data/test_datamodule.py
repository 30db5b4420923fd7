"""Samples and batches of the data module over COCO folders: splits, crops, prompts, truth."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from maskwell.data.coco import CocoSource
from maskwell.data.datamodule import DataModule
from maskwell.data.generated import ScenesSource
from maskwell.data.prompts import PromptPolicy
from maskwell.data.sample import Batch, InputSpec, Sample
from maskwell.data.transforms import Augmentation
from maskwell.errors import UserError
from tests.data.coco_folder import box_annotation, content, dataset, picture, write, write_images

SQUARE = InputSpec("square", 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
PAD = InputSpec("pad", None, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def module(root: Path, spec: InputSpec = SQUARE, **settings: object) -> DataModule:
    data = DataModule(CocoSource(str(root)), **settings)  # type: ignore[arg-type]
    data.bind(spec)
    data.setup()
    return data


def same(a: Sample, b: Sample) -> bool:
    return (
        torch.equal(a.image, b.image)
        and torch.equal(a.boxes, b.boxes)
        and a.prompts == b.prompts
        and a.geometry == b.geometry
    )


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Three training images of 100 x 150 with objects in two corners and one crowd; one to validate."""
    data = content(3, size=(100, 150))
    data["annotations"] = [
        annotation
        for i in (1, 2, 3)
        for annotation in (
            box_annotation(10 * i, i, (4, 4, 20, 16)),
            box_annotation(10 * i + 1, i, (120, 70, 24, 28)),
            box_annotation(10 * i + 2, i, (60, 40, 30, 30), iscrowd=1),
        )
    ]
    data["categories"].append({"id": 5, "name": "debris"})
    write(tmp_path / "train.json", data)
    write(tmp_path / "val.json", data)
    write_images(tmp_path / "images", data)
    return tmp_path


def test_training_samples_are_functions_of_seed_epoch_and_index(large: Path) -> None:
    settings = {"augment": Augmentation(), "prompts": PromptPolicy(), "crop": 48}
    train = module(large, seed=3, **settings).dataset("train")
    again = module(large, seed=3, **settings).dataset("train")
    assert same(train[2, 1], again[2, 1])
    again[0, 0]
    assert same(train[2, 1], again[2, 1])
    assert not same(train[2, 1], train[3, 1])
    assert not same(train[2, 1], module(large, seed=4, **settings).dataset("train")[2, 1])
    assert same(train[1], train[0, 1])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_do_not_depend_on_the_workers(large: Path, num_workers: int) -> None:
    data = module(large, batch_size=2, num_workers=num_workers, augment=Augmentation(), crop=48)
    batches: list[Batch] = list(data.train_dataloader())
    assert [len(batch) for batch in batches] == [2, 1]
    keys = [key for batch in data.train_dataloader().batch_sampler for key in batch]
    samples = [data.dataset("train")[key] for key in keys]
    images = torch.cat([batch.images for batch in batches])
    assert torch.equal(images, torch.stack([sample.image for sample in samples]))
    assert all(sample.truth is None for batch in batches for sample in batch.samples)


def at(position: int, together: int, batches: float) -> Any:
    """What the data asks of a trainer that has finished so many batches of its first epoch."""
    epoch = SimpleNamespace(current=SimpleNamespace(processed=0, ready=1))
    done = SimpleNamespace(current=SimpleNamespace(processed=position))
    return SimpleNamespace(
        accumulate_grad_batches=together,
        num_training_batches=batches,
        overfit_batches=0,
        global_rank=0,
        world_size=1,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
        fit_loop=SimpleNamespace(epoch_progress=epoch, epoch_loop=SimpleNamespace(batch_progress=done)),
    )


@pytest.mark.parametrize(
    ("position", "limit", "sizes"),
    [(0, 7, [3, 0, 0, 3, 0, 0, 1]), (3, 7, [3, 0, 0, 1]), (4, 7, [2, 0, 1]), (0, 5, [3, 0, 0, 2, 0, 0, 0])],
)
def test_the_first_batch_of_an_optimiser_step_knows_the_others(
    position: int, limit: int, sizes: list[int]
) -> None:
    """Of three batches: seven in all, resumed between two steps and within one, and where five are wanted."""
    data = DataModule(ScenesSource(32, 1, 2, epoch_size=7, num_val=1, num_test=1), batch_size=1)
    data.bind(SQUARE)
    data.trainer = at(position, 3, limit)
    known, ids = [], []
    for batch in data.train_dataloader():
        moved = batch.to("cpu")
        known.append([part.samples[0].image_id for part in moved.accumulated])
        ids.append(moved.samples[0].image_id)
    assert [len(others) for others in known] == sizes
    for place, others in enumerate(known):
        assert others == ids[place : place + len(others)]
    data.trainer = at(0, 1, 7)
    assert not any(batch.accumulated for batch in data.train_dataloader())


def test_training_windows_hold_objects_and_crowds_are_no_targets(large: Path) -> None:
    train = module(large, crop=48, prompts=PromptPolicy(num_negatives=5)).dataset("train")
    counts: Counter[int] = Counter()
    for epoch in range(20):
        for index in range(3):
            sample = train[epoch, index]
            counts[len(sample.labels)] += 1
            assert sample.geometry.window[2:] == (48, 48)
            assert sample.masks is not None and sample.masks.shape[1:] == (32, 32)
            asked = {prompt.text: prompt for prompt in sample.prompts}
            assert asked["debris"].objects == ()
            if len(sample.labels):
                assert asked["cell"].objects == tuple(range(len(sample.labels)))
    assert counts[1] > 40 and set(counts) <= {0, 1, 2}


def test_evaluation_tiles_cover_the_image_and_carry_the_truth(large: Path) -> None:
    val = module(large, crop=60, prompts=PromptPolicy()).dataset("val")
    assert len(val) == 3 * 2 * 3
    reference = json.loads((large / "val.json").read_text())["annotations"][:3]
    for index in range(6):
        sample = val[index]
        truth = sample.truth
        assert truth is not None and truth.rles is not None
        x, y, w, h = sample.geometry.window
        assert truth.size == (h, w) == sample.geometry.window_size
        planes = [np.zeros((100, 150), bool) for _ in reference]
        for plane, annotation in zip(planes, reference, strict=True):
            bx, by, bw, bh = annotation["bbox"]
            plane[by : by + bh, bx : bx + bw] = True
        expected = [
            (plane[y : y + h, x : x + w], bool(a["iscrowd"]))
            for plane, a in zip(planes, reference, strict=True)
            if plane[y : y + h, x : x + w].sum() >= 0.25 * plane.sum()
            or (a["iscrowd"] and plane[y : y + h, x : x + w].any())
        ]
        assert truth.iscrowd.tolist() == [crowd for _, crowd in expected]
        for rle, (plane, _) in zip(truth.rles, expected, strict=True):
            np.testing.assert_array_equal(coco_mask.decode(rle).astype(bool), plane)
        assert len(sample.labels) == int((~truth.iscrowd).sum())
        assert [prompt.text for prompt in sample.prompts] == ["cell", "debris"]


def test_objects_cut_off_beyond_the_threshold_are_dropped(large: Path) -> None:
    few = module(large, crop=130, min_visible=0.9).dataset("val")
    many = module(large, crop=130, min_visible=0.01).dataset("val")
    assert few[0].geometry.window == (0, 0, 130, 100)
    assert len(few[0].labels) == 1 and len(many[0].labels) == 2


def test_whole_images_keep_the_files_boxes_and_ids(tmp_path: Path) -> None:
    data = module(dataset(tmp_path))
    sample = data.dataset("test")[1]
    assert (sample.image_id, sample.file_name) == (8, "8.png")
    assert sample.truth is not None
    assert sample.truth.boxes.tolist() == [[4, 6, 24, 16]]
    assert sample.truth.area.tolist() == [200]
    torch.testing.assert_close(sample.geometry.boxes_to_window(sample.boxes), sample.truth.boxes)
    pixels = torch.from_numpy(picture(8).astype(np.float32) / 127.5 - 1).permute(2, 0, 1)
    assert (sample.image.mean((1, 2)) - pixels.mean((1, 2))).abs().max() < 0.02


def test_padding_form_collates_images_of_different_sizes(tmp_path: Path) -> None:
    dataset(tmp_path)
    small, wide = content(1, size=(40, 60)), content(1, first=2, size=(33, 70))
    merged = {
        "images": small["images"] + wide["images"],
        "annotations": small["annotations"] + wide["annotations"],
        "categories": small["categories"],
    }
    write(tmp_path / "val.json", merged)
    write_images(tmp_path / "images", merged)
    (batch,) = list(module(tmp_path, PAD, batch_size=2).val_dataloader())
    assert batch.images.shape == (2, 3, 64, 96)
    assert batch.pixel_mask.sum((1, 2)).tolist() == [40 * 60, 33 * 70]
    assert (batch.images * ~batch.pixel_mask[:, None]).abs().max() == 0
    for sample in batch.samples:
        assert sample.truth is not None and sample.masks is not None
        back = sample.geometry.boxes_to_window(sample.boxes)
        torch.testing.assert_close(back, sample.truth.boxes, atol=1e-4, rtol=0)
        assert sample.masks.shape == (1, 64, 96) and sample.masks.sum() == 200


def test_augmentation_uncovers_what_the_network_takes_for_the_mean(tmp_path: Path) -> None:
    augment = Augmentation(scale=(0.5, 0.5), shift=0.0)
    data = module(dataset(tmp_path), PAD, augment=augment)
    assert data.dataset("train")[0].image[:, :3, :3].abs().max() < 0.01


def test_small_images_are_padded_as_far_as_the_network_needs(tmp_path: Path) -> None:
    spec = replace(PAD, min_side=96)
    for num_workers in (0, 1):
        data = module(dataset(tmp_path), spec, num_workers=num_workers)
        batch = next(iter(data.val_dataloader()))
        assert batch.images.shape[2:] == (96, 96)
        sample = batch.samples[0]
        assert sample.truth is not None
        back = sample.geometry.boxes_to_window(sample.boxes)
        torch.testing.assert_close(back, sample.truth.boxes, atol=1e-4, rtol=0)


def test_limit_train_is_a_seeded_choice_of_training_images_alone(tmp_path: Path) -> None:
    dataset(tmp_path, train=12)
    chosen = [module(tmp_path, limit_train=5, seed=seed) for seed in (0, 0, 1)]
    names = [[data.dataset("train")[i].file_name for i in range(5)] for data in chosen]
    assert len(chosen[0].dataset("train")) == 5 and len(chosen[0].dataset("val")) == 2
    assert names[0] == names[1] != names[2]
    assert len(module(tmp_path, limit_train=100).dataset("train")) == 12


def test_summary_split_lists_and_fingerprint(tmp_path: Path) -> None:
    data = module(dataset(tmp_path), batch_size=3)
    summary = data.summary()
    assert summary.images == summary.samples == summary.objects == {"train": 4, "val": 2, "test": 2}
    assert (summary.first_samples, summary.first_batches) == ((1, 1, 1, 1), (3, 1))
    assert data.categories == ("cell",) and data.category_ids == (1,)
    assert data.split_lists()["test"] == ["7.png", "8.png"]
    before = data.fingerprint()
    assert before == module(tmp_path).fingerprint()
    changed = json.loads((tmp_path / "train.json").read_text())
    changed["annotations"][0]["bbox"][0] += 1
    write(tmp_path / "train.json", changed)
    assert module(tmp_path).fingerprint() != before


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_image_that_does_not_decode_is_a_sentence_from_a_worker_too(
    tmp_path: Path, num_workers: int
) -> None:
    data = module(dataset(tmp_path), num_workers=num_workers)
    (tmp_path / "images" / "2.png").write_bytes(b"nothing")
    with pytest.raises(UserError) as caught:
        list(data.train_dataloader())
    assert str(caught.value).startswith("The image '")
    assert "2.png' cannot be decoded" in str(caught.value) and "Traceback" not in str(caught.value)


def test_bad_settings(tmp_path: Path) -> None:
    dataset(tmp_path)
    with pytest.raises(UserError, match="rename names 'horse'"):
        module(tmp_path, prompts=PromptPolicy({"horse": "x"}))
    with pytest.raises(RuntimeError, match="bind"):
        DataModule(CocoSource(str(tmp_path))).dataset("train")


@pytest.mark.parametrize("name", ["num_workers", "batch_size"])
def test_impossible_loader_settings_are_a_sentence(tmp_path: Path, name: str) -> None:
    dataset(tmp_path)
    settings = {"batch_size": 4, "num_workers": 0, name: -1}
    with pytest.raises(UserError, match=f"data.{name}=-1"):
        DataModule(CocoSource(str(tmp_path)), **settings)
