"""Backbones of every kind that is named, strides, norms, heads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import (
    AutoBackbone,
    AutoModel,
    ConvNextConfig,
    Dinov2Config,
    MobileNetV2Config,
    PreTrainedConfig,
    ResNetConfig,
    SegformerConfig,
)

from maskwell.errors import UserError
from maskwell.models import backbone as backbones
from maskwell.models.s4gan import net
from maskwell.models.s4gan.net import GeneratorSpec

TINY: dict[str, tuple[PreTrainedConfig, tuple[int, int], int]] = {
    "resnet": (
        ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 2], layer_type="bottleneck"
        ),
        (8, 32),
        16,
    ),
    "mobilenet_v2": (MobileNetV2Config(depth_multiplier=0.25, finegrained_output=False), (8, 320), 16),
    "convnext": (ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1]), (8, 32), 32),
    "dinov2": (
        Dinov2Config(
            hidden_size=16, num_hidden_layers=3, num_attention_heads=2, image_size=56, patch_size=14
        ),
        (16, 16),
        14,
    ),
    "segformer": (
        SegformerConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 2]),
        (8, 32),
        32,
    ),
}
"""Configuration, channels of the fine and deep features, and stride of each kind."""


def saved(kind: str, folder: Path) -> str:
    config = TINY[kind][0]
    torch.manual_seed(0)
    known = kind not in ("mobilenet_v2", "segformer")
    (AutoBackbone if known else AutoModel).from_config(config).save_pretrained(folder)
    return str(folder)


def load(name: str, **more: object) -> backbones.Backbone:
    settings = {"norm": "batch", "output_stride": None, "seed": 0, "key": "model.generator", **more}
    return backbones.load(name, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", TINY)
def test_directories_of_every_kind_load_with_their_weights(kind: str, tmp_path: Path) -> None:
    found = load(saved(kind, tmp_path))
    _, channels, stride = TINY[kind]
    assert found.stride == stride
    assert found.channels[1] == channels[1] or kind == "mobilenet_v2"
    assert found.channels[0] == channels[0] or kind == "mobilenet_v2"
    side = 2 * max(32, found.stride)
    fine, deep = found(torch.randn(2, 3, side, side))
    assert (fine.shape[1], deep.shape[1]) == found.channels
    assert deep.shape[-1] == side // stride
    assert fine.shape[-1] == (side // 4 if kind != "dinov2" else deep.shape[-1])
    again = load(str(tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("head", ["v2", "v3plus"])
@pytest.mark.parametrize("kind", ["resnet", "dinov2"])
def test_heads_give_logits_at_the_input_resolution(kind: str, head: str, tmp_path: Path) -> None:
    spec = GeneratorSpec(saved(kind, tmp_path), head, width=16)  # type: ignore[arg-type]
    network = net.build(spec, load(spec.backbone), 5, seed=0)
    images = torch.randn(1, 3, 84, 56, requires_grad=True)  # one image: BatchNorm trains with it
    logits = network(images)
    assert logits.shape == (1, 5, 84, 56)
    logits.square().mean().backward()
    assert all(p.grad is not None for p in network.head.parameters())
    assert images.grad is not None and float(images.grad.abs().sum()) > 0


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_dilation_keeps_weights_and_lowers_the_stride(stride: int) -> None:
    found = load("small", output_stride=stride)
    reference = load("small", output_stride=32)
    assert found.stride == stride
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), reference.parameters(), strict=True))
    assert found(torch.randn(2, 3, 64, 64))[1].shape[-1] == 64 // stride


def test_dilated_features_at_the_kept_places_are_those_of_the_strided_network() -> None:
    """Dilation is the strided network evaluated more densely (Chen et al., 2018a)."""
    images = torch.randn(1, 3, 128, 128)
    strided, dilated = load("small", output_stride=32).eval(), load("small", output_stride=8).eval()
    sparse, dense = strided(images)[1], dilated(images)[1]
    assert torch.allclose(dense[..., ::4, ::4], sparse, atol=1e-4)


def test_small_is_seeded_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second, other = load("small"), load("small"), load("small", seed=1)
    assert torch.equal(before, torch.get_rng_state())
    weights = [next(b.parameters()) for b in (first, second, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert 1e6 < sum(p.numel() for p in first.parameters()) < 2e6


def test_norms() -> None:
    assert any(isinstance(m, nn.BatchNorm2d) for m in load("small").modules())
    grouped = load("small", norm="group")
    assert not any(isinstance(m, nn.BatchNorm2d) for m in grouped.modules())
    frozen = load("small", norm="frozen_batch").train()
    norms = [m for m in frozen.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [m.running_mean.clone() for m in norms]
    frozen(torch.randn(2, 3, 64, 64))
    assert all(torch.equal(m.running_mean, b) for m, b in zip(norms, before, strict=True))
    assert not any(p.requires_grad for m in norms for p in m.parameters())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "no/such-model-here"}, "neither a local directory nor reachable"),
        ({"name": "./nowhere"}, "no config.json"),
        ({"name": "microsoft/resnet-50", "norm": "group"}, "would undo pretrained weights"),
        ({"name": "small", "norm": "layer"}, "give one of"),
        ({"name": "small", "output_stride": 12}, "give 8, 16, 32"),
    ],
)
def test_bad_backbones_are_refused_in_a_sentence(
    settings: dict[str, object], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=words):
        load(**settings)  # type: ignore[arg-type]


def test_a_stride_that_cannot_be_chosen_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="convnext has its own"):
        load(saved("convnext", tmp_path), output_stride=8)


@pytest.mark.parametrize("settings", [{"head": "unet"}, {"dropout": 1.0}, {"width": 4}])
def test_bad_heads_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"model\.generator"):
        GeneratorSpec(**settings)  # type: ignore[arg-type]
