"""The small SAM 3: configuration, tokenizer and an initialisation from which it learns.

`transformers`' initialisation of SAM 3 is meant for loading weights; trained from it a small model
stays on a plateau. :func:`initialise` sets what makes it learn from scratch: Xavier matrices, anchor
boxes on a grid, and a decoder cross-attention that starts by looking inside each query's box.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPTokenizer, Sam3Config, Sam3Model
from transformers.models.sam3.modeling_sam3 import Sam3DecoderMLP

SCENES = "maskwell scenes"
"""``pretrained_on`` in the configuration of a base that learnt on generated scenes."""

_WIDTH = 128
_HEADS = 4
_MAX_TOKENS = 16
_START, _END, _SUFFIX = "<|startoftext|>", "<|endoftext|>", "</w>"
_OUTSIDE_PENALTY = 6.0
"""Attention logit lost per unit of (log-scaled) distance outside the box."""


def tiny_config(vocab_size: int, *, image_size: int = 128) -> Sam3Config:
    """A SAM 3 of the full architecture with about 4 M parameters.

    128 px in 8 px patches gives 16 x 16 tokens and masks of 32 x 32; ``image_size`` is a multiple of 8.
    """
    block = {"hidden_size": _WIDTH, "num_attention_heads": _HEADS, "intermediate_size": 256}
    detr = {**block, "num_layers": 3, "dropout": 0.0}
    text = {
        "model_type": "clip_text_model",
        "vocab_size": vocab_size,
        "hidden_size": _WIDTH,
        "intermediate_size": 256,
        "projection_dim": _WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": _HEADS,
        "max_position_embeddings": _MAX_TOKENS,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    backbone = {
        "model_type": "sam3_vit_model",
        **block,
        "intermediate_size": 384,
        "num_hidden_layers": 6,
        "image_size": image_size,
        "pretrain_image_size": 64,
        "patch_size": 8,
        "window_size": 8,
        "global_attn_indexes": [1, 3, 5],
    }
    vision = {
        "backbone_config": backbone,
        "fpn_hidden_size": _WIDTH,
        "scale_factors": [2.0, 1.0, 0.5],
        "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
    }
    return Sam3Config(
        vision_config=vision,
        text_config=text,
        geometry_encoder_config={**block, "num_layers": 1, "dropout": 0.0, "roi_size": 2},
        detr_encoder_config=detr,
        detr_decoder_config={**detr, "num_queries": 64},
        mask_decoder_config={
            "hidden_size": _WIDTH,
            "num_attention_heads": _HEADS,
            "num_upsampling_stages": 1,
        },
        pretrained_on=SCENES,
    )


def build_tokenizer(words: Iterable[str], *, vocab_size: int = 1000) -> CLIPTokenizer:
    """A byte-level CLIP tokenizer whose merges are learnt from ``words``.

    A function of the set of words alone, so that weights trained in one process mean the same in the
    next. Any text can be encoded: letters that end none of ``words`` follow at the end of the vocabulary.
    """
    words = sorted(set(words))
    split = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend = Tokenizer(models.BPE(unk_token=_END, end_of_word_suffix=_SUFFIX))
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    backend.pre_tokenizer = split
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    endings = sorted({part[-1] + _SUFFIX for word in words for part, _ in split.pre_tokenize_str(word)})
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        # Letters and endings are named here: left to itself the trainer numbers endings at random.
        special_tokens=[_START, _END, *alphabet, *endings],
        end_of_word_suffix=_SUFFIX,
        show_progress=False,
    )
    backend.train_from_iterator(words, trainer)
    merges = [tuple(pair) for pair in json.loads(backend.to_str())["model"]["merges"]]
    vocab = backend.get_vocab()
    for letter in alphabet:
        vocab.setdefault(letter + _SUFFIX, len(vocab))
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=_MAX_TOKENS)


@torch.no_grad()
def initialise(model: Sam3Model, seed: int) -> None:
    """Give a model built from a configuration weights from which it learns (in place).

    Xavier for linear layers, convolutions and embeddings of words; object queries with unit variance;
    last layer of the box head zero; anchors on a grid; the position bias of :func:`_look_inside`.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(module.weight, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    decoder = model.detr_decoder
    nn.init.normal_(decoder.query_embed.weight, generator=generator)
    nn.init.normal_(decoder.presence_token.weight, generator=generator)
    last = decoder.box_head.layer3
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    decoder.reference_points.weight.copy_(_grid_anchors(decoder.reference_points.num_embeddings))
    _look_inside(decoder.box_rpb_embed_x, near_heads=(0, 2))
    _look_inside(decoder.box_rpb_embed_y, near_heads=(1, 3))


def _grid_anchors(count: int) -> Tensor:
    """Inverse sigmoid of ``count`` (cx, cy, w, h) boxes on a grid over the image -> [count, 4]."""
    side = math.ceil(math.sqrt(count))
    index = torch.arange(count)
    x = (index % side + 0.5) / side
    y = (torch.div(index, side, rounding_mode="floor") + 0.5) / math.ceil(count / side)
    size = torch.full_like(x, 1.5 / side)
    return torch.stack([x, y, size, size], dim=1).logit()


def _look_inside(embed: Sam3DecoderMLP, near_heads: tuple[int, int]) -> None:
    """Start a relative position bias so that attention falls off outside a query's box.

    Input per axis: (d_low, d_high), signed log distances of a pixel from the box's near and far edge.
    Four hidden units hold the positive and negative parts of both; a pixel is outside by
    max(0, -d_low) + max(0, d_high). Every head pays for being outside; one head also for distance from
    the near edge, one from the far edge, so that boxes can be read off where attention lands.
    """
    first, second = embed.layer1, embed.layer2
    first.weight[:4] = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    first.bias[:4] = 0
    second.weight.mul_(0.05)
    second.weight[:, :4] = torch.tensor([0.0, -1.0, -1.0, 0.0]) * _OUTSIDE_PENALTY
    near, far = near_heads
    second.weight[near, :4] += torch.tensor([-1.0, -1.0, 0.0, 0.0]) * _OUTSIDE_PENALTY
    second.weight[far, :4] += torch.tensor([0.0, 0.0, -1.0, -1.0]) * _OUTSIDE_PENALTY
