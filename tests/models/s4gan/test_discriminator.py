"""The discriminator and the maps it takes for real."""

from __future__ import annotations

import math

import pytest
import torch

from maskwell.errors import UserError
from maskwell.models.s4gan import loss
from maskwell.models.s4gan.discriminator import Discriminator, DiscriminatorSpec, real_maps


def build(spectral: bool = False, ndf: int = 4, dropout: float = 0.0) -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(3, DiscriminatorSpec(ndf, dropout), spectral=spectral)


@pytest.mark.parametrize("size", [(16, 16), (45, 61), (96, 64)])
def test_any_input_size_gives_a_logit_and_features(size: tuple[int, int]) -> None:
    logits, features = build()(torch.randn(2, 3, *size), torch.rand(2, 3, *size))
    assert logits.shape == (2,) and features.shape == (2, 32)


def test_its_size_is_that_of_the_paper() -> None:
    network = Discriminator(11, DiscriminatorSpec(64), spectral=False)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == 2.77  # 4 convolutions and a linear


@pytest.mark.parametrize("spectral", [False, True])
def test_at_the_start_its_loss_is_that_of_guessing(spectral: bool) -> None:
    network = build(spectral, ndf=16)
    images = torch.rand(4, 3, 64, 64) * 2 - 1
    real = torch.nn.functional.one_hot(torch.randint(0, 3, (4, 64, 64)), 3).permute(0, 3, 1, 2).float()
    fake = torch.randn(4, 3, 64, 64).softmax(1)
    value = loss.discriminator(network(images, real)[0], network(images, fake)[0])
    assert abs(float(value) - math.log(2)) < 0.05


def test_spectral_norm_bounds_every_weight() -> None:
    network = build(spectral=True)
    for _ in range(30):
        network(torch.randn(1, 3, 16, 16), torch.rand(1, 3, 16, 16))
    network.eval()
    for layer in [*network.layers, network.classifier]:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2) < 1.05


def test_dropout_is_off_when_it_scores() -> None:
    network = build(dropout=0.5)
    inputs = torch.randn(1, 3, 32, 32), torch.rand(1, 3, 32, 32)
    assert torch.equal(network(*inputs, scoring=True)[0], network(*inputs, scoring=True)[0])
    assert not torch.equal(network(*inputs)[1], network(*inputs)[1])


def test_hard_maps_are_one_hot_and_void_is_zero() -> None:
    labels = torch.tensor([[[0, 2, 255]]])
    predicted = torch.full((1, 3, 1, 3), 1 / 3)
    found = real_maps(labels, predicted, confidence=1.0, fill_void=False)
    assert found[0, :, 0].T.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_soft_maps_carry_no_cue() -> None:
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (2, 8, 8))
    labels[0, 0] = 255
    predicted = (3 * torch.randn(2, 3, 8, 8)).softmax(1)
    found = real_maps(labels, predicted, confidence=0.9, fill_void=True)
    assert torch.allclose(found.sum(1), torch.ones(2, 8, 8), atol=1e-6)
    assert (found > 0).all()
    known = labels != 255
    own = found.gather(1, labels.clamp(max=2)[:, None])[:, 0]
    assert (own[known] >= 0.9 - 1e-6).all()
    assert torch.equal(found.permute(0, 2, 3, 1)[~known], predicted.permute(0, 2, 3, 1)[~known])


def test_where_the_prediction_is_right_and_sure_the_soft_map_is_the_prediction() -> None:
    labels = torch.zeros(1, 2, 2, dtype=torch.int64)
    predicted = torch.tensor([0.97, 0.02, 0.01])[None, :, None, None].expand(1, 3, 2, 2)
    assert torch.allclose(real_maps(labels, predicted, confidence=0.9, fill_void=True), predicted)
    unsure = torch.tensor([0.5, 0.4, 0.1])[None, :, None, None].expand(1, 3, 2, 2)
    found = real_maps(labels, unsure, confidence=0.9, fill_void=True)
    assert torch.allclose(found[0, :, 0, 0], torch.tensor([0.9, 0.08, 0.02]))


@pytest.mark.parametrize("settings", [{"ndf": 0}, {"dropout": 1.0}])
def test_impossible_sizes_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"model\.discriminator"):
        DiscriminatorSpec(**settings)  # type: ignore[arg-type]
