"""The wrapped detectors: what they promise of padding, batches and parameters."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from detr_small import batch, make_task, targets
from maskwell.data.sample import IMAGENET_MEAN, IMAGENET_STD
from maskwell.data.transforms import network_image
from maskwell.errors import UserError
from maskwell.models.detr import base_model
from maskwell.models.detr.module import Detr
from maskwell.models.detr.net import MASKED, Detector


@pytest.mark.parametrize("architecture", base_model.KINDS)
def test_an_image_is_answered_alike_alone_and_in_a_batch(architecture: str) -> None:
    net = make_task(architecture).net.eval()
    content = batch(2, 3, 1)
    with torch.no_grad():
        together = net(content.images, content.pixel_mask).layers
        alone = net(content.images[1:2], content.pixel_mask[1:2]).layers
    torch.testing.assert_close(together.logits[:, 1:2], alone.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together.boxes[:, 1:2], alone.boxes, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("architecture", base_model.KINDS)
def test_the_pixel_mask_is_read_where_it_is_said_to_be(architecture: str) -> None:
    net = make_task(architecture).net.eval()
    content = batch(2)
    masked = content.pixel_mask.clone()
    masked[:, :, 64:] = False
    with torch.no_grad():
        whole, part = (net(content.images, mask).layers.logits for mask in (content.pixel_mask, masked))
    assert bool((whole - part).abs().max() > 1e-6) == (architecture in MASKED) == net.reads_mask


@pytest.mark.parametrize("architecture", base_model.KINDS)
def test_every_trained_parameter_gets_a_gradient(architecture: str) -> None:
    """Also without any object; data-parallel ranks would wait for the others."""
    task = make_task(architecture).train()
    for content in (batch(2, 1), batch(0, 0)):
        wanted = targets(content)
        task.zero_grad()
        task.criterion(task.net(content.images, content.pixel_mask, wanted), wanted)[0].backward()
        idle = [name for name, p in task.net.named_parameters() if p.requires_grad and p.grad is None]
        assert idle == []


def test_fresh_heads_say_nothing_at_first() -> None:
    net = make_task().net.eval()
    content = batch(2)
    with torch.no_grad():
        scores = net(content.images, content.pixel_mask).layers.logits.sigmoid()
    assert float(scores.mean()) < 0.1


@pytest.mark.parametrize("architecture", base_model.KINDS)
def test_fresh_weights_are_not_the_silent_ones_of_the_library(architecture: str) -> None:
    """Its BatchNorm scales lie around 0 and its weights are drawn with 0.01, to be loaded over."""
    for name, module in make_task(architecture).net.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert bool((module.weight == 1).all()), name
        if isinstance(module, nn.Linear | nn.Conv2d) and bool(module.weight.any()):
            assert float(module.weight.detach().std()) > 0.015, name


@pytest.mark.parametrize("architecture", ["deformable_detr", "conditional_detr"])
def test_fresh_boxes_are_small_and_lie_all_over_the_image(architecture: str) -> None:
    """The library draws queries with 0.02: all would look at the middle, at boxes of half the image."""
    net = make_task(architecture, queries=100).net.eval()
    content = batch(2)
    with torch.no_grad():
        boxes = net(content.images, content.pixel_mask).layers.boxes[-1, 0]
    assert float(boxes[:, :2].std(0).min()) > 0.1
    assert float(boxes[:, 2:].max()) < 0.2


def test_the_same_seed_gives_the_same_weights_and_leaves_the_random_state() -> None:
    config = base_model.read_config("small", "detr", 10)
    torch.manual_seed(1)
    first = base_model.build(config, 2, seed=4)
    drawn = torch.rand(1)
    torch.manual_seed(1)
    second = base_model.build(config, 2, seed=4)
    assert torch.equal(drawn, torch.rand(1))
    theirs = second.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in first.state_dict().items())


@pytest.mark.parametrize("architecture", ["rt_detr_v2", "detr", "rf_detr"])
def test_a_configuration_survives_a_checkpoint(architecture: str) -> None:
    config = base_model.read_config("small", architecture, 17)
    again = base_model.from_json(base_model.to_json(config))
    assert again.num_queries == 17 and again.model_type == architecture
    shapes = [
        {name: value.shape for name, value in base_model.build(c, 3, 0).state_dict().items()}
        for c in (config, again)
    ]
    assert shapes[0] == shapes[1]


def test_a_directory_in_hub_layout_is_a_base_and_keeps_all_but_the_class_layers(tmp_path: Path) -> None:
    model = base_model.build(base_model.read_config("small", "rt_detr_v2", 20), 5, seed=1)
    model.save_pretrained(str(tmp_path))
    task = Detr(base=str(tmp_path), image_size=None)
    task.bind(categories=("a", "b"))
    loaded, original = task.net.model.state_dict(), model.state_dict()
    assert loaded["class_embed.0.weight"].shape[0] == 2
    kept = [name for name in loaded if not base_model.counts_classes(name)]
    assert all(torch.equal(loaded[name], original[name]) for name in kept)
    assert float(loaded["class_embed.0.bias"].max()) == pytest.approx(-4.595, abs=1e-2)


def saved(folder: Path, **told: object) -> Path:
    """A base in Hub layout whose preprocessor says what is ``told``; nothing where that is nothing."""
    base_model.build(base_model.read_config("small", "rt_detr_v2", 20), 2, seed=1).save_pretrained(
        str(folder)
    )
    if told:
        (folder / "preprocessor_config.json").write_text(json.dumps(told))
    return folder


HALF = [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("told", "mean", "std"),
    [
        ({}, IMAGENET_MEAN, IMAGENET_STD),
        ({"do_normalize": False, "image_mean": HALF, "image_std": HALF}, (0, 0, 0), (1, 1, 1)),
        ({"do_rescale": True, "rescale_factor": 1 / 255}, (0, 0, 0), (1, 1, 1)),  # RT-DETR's default
        ({"do_normalize": True, "image_mean": HALF, "image_std": [0.25] * 3}, (0.5,) * 3, (0.25,) * 3),
        ({"do_rescale": False, "do_normalize": False}, (0, 0, 0), (1 / 255,) * 3),
        (
            {"do_rescale": False, "do_normalize": True, "image_mean": [51.0] * 3, "image_std": [102.0] * 3},
            (0.2,) * 3,
            (0.4,) * 3,
        ),
    ],
)
def test_a_base_gets_the_input_it_was_trained_on(
    told: dict[str, object], mean: tuple[float, ...], std: tuple[float, ...], tmp_path: Path
) -> None:
    spec = Detr(base=str(saved(tmp_path, **told))).input_spec
    assert spec.mean == pytest.approx(mean) and spec.std == pytest.approx(std)
    pixels = np.full((40, 40, 3), 51, np.uint8)
    wanted = 51 * (told.get("rescale_factor", 1 / 255) if told.get("do_rescale", True) else 1)  # type: ignore[operator]
    if told.get("do_normalize", not told):
        values = [told.get(f"image_{name}", found) for name, found in (("mean", mean), ("std", std))]
        wanted = (wanted - np.array(values[0])) / np.array(values[1])
    np.testing.assert_allclose(network_image(pixels, spec)[:, 0, 0], np.broadcast_to(wanted, 3), rtol=1e-4)


def test_a_preprocessor_that_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    (folder / "preprocessor_config.json").write_text("{")
    with pytest.raises(UserError, match=r"preprocessor_config\.json cannot be read"):
        _ = Detr(base=str(folder)).input_spec


def test_loaded_weights_keep_what_upstream_keeps_frozen(tmp_path: Path) -> None:
    model = base_model.build(base_model.read_config("small", "detr", 20), 2, seed=1)
    assert all(p.requires_grad for p in model.parameters())
    plain = base_model.build(base_model.read_config("small", "detr", 20), 2, 1, "elsewhere", load=False)
    frozen = {name for name, p in plain.named_parameters() if not p.requires_grad}
    assert frozen and all("embedder" in name or "stages.0" in name for name in frozen)
    assert Detector(plain).kind == "detr"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"architecture": "rt_detr_v3"}, "architecture=rt_detr_v3"),
        ({"base": "./nowhere"}, "no config.json"),
        ({"queries": 0}, "queries=0"),
    ],
)
def test_what_cannot_be_built_is_a_sentence(settings: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        make_task(**{"queries": None, **settings})  # type: ignore[arg-type]


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "resnet"}))
    with pytest.raises(UserError, match="'resnet'"):
        make_task(base=str(tmp_path))
