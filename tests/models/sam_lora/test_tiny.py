"""The small architecture: its size, its tokenizer and the initialisation from which it learns."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from transformers import PreTrainedTokenizerBase, Sam3Model

from maskwell.data.phrases import VOCABULARY
from maskwell.models.sam_lora.base_model import load_base
from maskwell.models.sam_lora.tiny import build_tokenizer, tiny_config


@pytest.fixture(scope="module")
def fresh() -> tuple[Sam3Model, PreTrainedTokenizerBase]:
    return load_base("scratch", image_size=64)


def test_it_is_small(fresh: tuple[Sam3Model, PreTrainedTokenizerBase]) -> None:
    assert sum(p.numel() for p in fresh[0].parameters()) < 4.5e6


def test_words_of_the_vocabulary_are_one_token_each(
    fresh: tuple[Sam3Model, PreTrainedTokenizerBase],
) -> None:
    ids = [fresh[1](word, add_special_tokens=False).input_ids for word in VOCABULARY]
    assert all(len(word) == 1 for word in ids)
    assert len({word[0] for word in ids}) == len(VOCABULARY)
    assert len(fresh[1]) == fresh[0].config.text_config.vocab_size


@pytest.mark.parametrize("text", ["mitochondrion", "Zelle über 5 µm", "細胞", "🔬", "x"])
def test_any_other_text_can_be_encoded(fresh: tuple[Sam3Model, PreTrainedTokenizerBase], text: str) -> None:
    ids = fresh[1](text, add_special_tokens=False).input_ids
    assert ids
    assert max(ids) < len(fresh[1])


def test_case_does_not_matter(fresh: tuple[Sam3Model, PreTrainedTokenizerBase]) -> None:
    assert fresh[1]("Red CIRCLE").input_ids == fresh[1]("red circle").input_ids


def test_tokenizer_frames_and_pads_as_the_text_encoder_expects(
    fresh: tuple[Sam3Model, PreTrainedTokenizerBase],
) -> None:
    tokens = fresh[1](["cell", "small red circle"], padding="max_length", max_length=16)
    for ids, mask in zip(tokens.input_ids, tokens.attention_mask, strict=True):
        length = sum(mask)
        assert len(ids) == 16
        assert ids[0] == 0
        assert ids[length - 1 :] == [1] * (17 - length)


def test_tokenizer_is_the_same_each_time() -> None:
    """Weights of one run are read by the next: the same words have the same numbers in each process."""
    texts = {build_tokenizer(reversed(VOCABULARY)).backend_tokenizer.to_str() for _ in range(5)}
    assert texts == {build_tokenizer(VOCABULARY).backend_tokenizer.to_str()}


def test_queries_start_on_a_grid(fresh: tuple[Sam3Model, PreTrainedTokenizerBase]) -> None:
    boxes = fresh[0].detr_decoder.reference_points.weight.sigmoid()
    centres = {(round(x, 3), round(y, 3)) for x, y in boxes[:, :2].tolist()}
    steps = [round((i + 0.5) / 8, 3) for i in range(8)]
    assert centres == set(product(steps, steps))
    torch.testing.assert_close(boxes[:, 2:], torch.full((64, 2), 1.5 / 8))


def test_boxes_start_at_their_anchors(fresh: tuple[Sam3Model, PreTrainedTokenizerBase]) -> None:
    last = fresh[0].detr_decoder.box_head.layer3
    assert last.weight.abs().max() == 0
    assert last.bias.abs().max() == 0


def test_attention_starts_inside_each_box(fresh: tuple[Sam3Model, PreTrainedTokenizerBase]) -> None:
    """Attention given by the position bias alone: most of it falls into the query's box."""
    decoder = fresh[0].detr_decoder
    box = torch.tensor([[[0.5, 0.25, 0.25, 0.25]]])  # columns 6 to 10 and rows 2 to 6 of 16
    with torch.no_grad():
        bias = decoder._get_rpb_matrix(box, (16, 16))[0, :, 0]
    attention = bias.softmax(-1).reshape(4, 16, 16)
    inside = attention[:, 2:7, 6:11].sum((1, 2))
    assert (inside > 0.7).all()  # the box covers a tenth of the image
    x, y = torch.arange(16.0), torch.arange(16.0)
    columns = (attention.sum(1) * x).sum(-1)
    rows = (attention.sum(2) * y).sum(-1)
    assert columns[0] < columns[2] - 1  # one head looks at the left edge, one at the right
    assert rows[1] < rows[3] - 1  # and likewise at the upper and the lower


def test_queries_differ_with_unit_variance(fresh: tuple[Sam3Model, PreTrainedTokenizerBase]) -> None:
    assert fresh[0].detr_decoder.query_embed.weight.std().item() == pytest.approx(1.0, abs=0.05)


def test_linear_layers_keep_the_variance(fresh: tuple[Sam3Model, PreTrainedTokenizerBase]) -> None:
    """Xavier: uniform within sqrt(6 / (in + out))."""
    weight = fresh[0].vision_encoder.backbone.layers[0].mlp.fc1.weight
    bound = math.sqrt(6 / sum(weight.shape))
    assert weight.abs().max().item() == pytest.approx(bound, rel=0.01)


@pytest.mark.parametrize("size", [32, 64, 128])
def test_sizes(size: int) -> None:
    config = tiny_config(1000, image_size=size)
    assert config.vision_config.backbone_config.image_size == size
    assert size % config.vision_config.backbone_config.patch_size == 0
