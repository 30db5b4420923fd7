"""A small base for the tests of this family: 32 px, fresh weights with noise on every parameter."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedTokenizerBase, Sam3Model

from maskwell.models.sam_lora.base_model import load_base
from maskwell.models.sam_lora.net import PromptedSam

Base = tuple[Sam3Model, PreTrainedTokenizerBase]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tiny tensors: a second thread costs more than it brings."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def base() -> Base:
    """Shared, never to be changed. The noise gives every output, refined boxes included, a say."""
    sam, tokenizer = load_base("scratch", image_size=32)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in sam.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return sam.eval(), tokenizer


@pytest.fixture
def new_sam(base: Base) -> Callable[[], Sam3Model]:
    """Makes copies of the base that a test may change."""
    return lambda: copy.deepcopy(base[0])


@pytest.fixture
def net(base: Base, new_sam: Callable[[], Sam3Model]) -> PromptedSam:
    """A frozen network of its own around a copy of the base."""
    return PromptedSam(new_sam().requires_grad_(False), base[1])


@pytest.fixture
def exact_net(base: Base, new_sam: Callable[[], Sam3Model]) -> PromptedSam:
    """As ``net``, in float64: what is the same computation agrees to far more than 1e-5."""
    return PromptedSam(new_sam().requires_grad_(False).double(), base[1])


@pytest.fixture
def images() -> torch.Tensor:
    """Two images [2, 3, 32, 32]."""
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
