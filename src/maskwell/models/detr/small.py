"""Small detectors for fresh weights: one architecture of each kind that trains on a CPU."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, ResNetConfig, RTDetrResNetConfig

WIDTHS, DEPTHS = [24, 64, 128, 192], [1, 1, 2, 1]
"""Channels and blocks of the backbone's stages, at strides 4, 8, 16 and 32."""

CLASS_LAYERS = ("class_embed", "class_labels_classifier", "score_head")
"""Parts of the names of all layers whose weights' first dimension counts classes."""

QUERIES = ("query_position_embeddings", "query_feat")
"""Ends of the names of learnt queries."""

_BOX_ENDS = re.compile(r"(enc_bbox_head|bbox_embed\.\d+|bbox_predictor)\.layers\.2$")

_TRANSFORMER: dict[str, Any] = {
    "d_model": 128,
    "encoder_ffn_dim": 256,
    "decoder_ffn_dim": 256,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "decoder_layers": 3,
    "num_queries": 100,
}


def counts_classes(name: str) -> bool:
    """Whether the first dimension of the weights of this name counts classes."""
    return any(part in name for part in CLASS_LAYERS)


def small_config(architecture: str) -> PreTrainedConfig:
    """The small architecture of a kind, without a class count.

    Roughly 3 million parameters; 100 queries, 3 decoder layers, 128 channels. RT-DETR v2 keeps its
    denoising (100 queries), its proposals and three feature levels.
    """
    resnet = {"embedding_size": WIDTHS[0], "hidden_sizes": WIDTHS, "depths": DEPTHS, "layer_type": "basic"}
    if architecture == "rt_detr_v2":
        more: dict[str, Any] = {
            **_TRANSFORMER,
            "backbone_config": RTDetrResNetConfig(**resnet, out_indices=[2, 3, 4]),
            "encoder_in_channels": WIDTHS[1:],
            "encoder_hidden_dim": 128,
            "decoder_in_channels": [128] * 3,
            "hidden_expansion": 0.5,
            "freeze_backbone_batch_norms": False,  # fresh statistics are none
        }
    elif architecture == "rf_detr":
        more = _small_rf_detr()
    else:
        stages = ["stage2", "stage3", "stage4"] if architecture == "deformable_detr" else ["stage4"]
        more = {
            **_TRANSFORMER,
            "backbone_config": ResNetConfig(**resnet, out_features=stages),
            "encoder_layers": 2,
            "dropout": 0.0,  # the decoder has little to spare
        }
        if architecture == "deformable_detr":
            more |= {"num_feature_levels": 3, "with_box_refine": True}
    return AutoConfig.for_model(architecture, **more)


def _small_rf_detr() -> dict[str, Any]:
    backbone = {
        "model_type": "rf_detr_dinov2",
        "hidden_size": 96,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "image_size": 320,
        "patch_size": 16,
        "num_windows": 2,
        "out_features": ["stage2", "stage4", "stage6"],
        "use_mask_token": False,
    }
    return {
        "backbone_config": backbone,
        "d_model": 128,
        "decoder_ffn_dim": 256,
        "decoder_self_attention_heads": 4,
        "decoder_cross_attention_heads": 4,
        "decoder_layers": 3,
        "decoder_n_points": 2,
        "num_queries": 100,
        "group_detr": 3,
        "dropout": 0.0,
    }


def initialise(model: nn.Module) -> None:
    """Give a model built from a configuration weights from which it learns (in place).

    The library's are meant to be overwritten by loaded ones: RT-DETR's BatchNorm scales are drawn around 0,
    which nearly silences every layer, and queries drawn with 0.02 all look at the middle of the image. He for
    convolutions, Xavier for linear layers, BatchNorm 1, queries 1; layers that start at 0 (sampling offsets)
    stay, class layers too. Proposals start as anchors, boxes as small ones where their queries look.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.Linear) and module.weight.any() and not counts_classes(name):
            nn.init.xavier_uniform_(module.weight)
        elif isinstance(module, nn.Embedding) and name.endswith(QUERIES):
            nn.init.normal_(module.weight)
    _start_boxes(model)


@torch.no_grad()
def _start_boxes(model: nn.Module) -> None:
    """Ends of box heads at 0; where sizes come from the head alone, an eighth of the image (Deformable DETR).

    Not of detr, where places come from the head too: its queries would all answer the same.
    """
    config: Any = model.config
    kind = config.model_type
    for name, module in model.named_modules():
        if kind == "detr" or not isinstance(module, nn.Linear) or not _BOX_ENDS.search(name):
            continue
        module.weight.zero_()
        if kind == "conditional_detr" or (kind == "deformable_detr" and "bbox_embed.0." in name):
            module.bias[2:] = -2.0


def release_backbone(model: nn.Module, *, fresh: bool) -> None:
    """Train what the library holds still: it freezes the ResNet of the DETR kinds.

    Fresh weights learn everything, with real BatchNorm; loaded ones keep their stem, first stage and
    BatchNorm as they are (DETR, Carion et al., 2020, A.4).
    """
    for name, parameter in model.named_parameters():
        if ".backbone." in name and (fresh or re.search(r"\.(stages\.[123]|layer[234])\.", name)):
            parameter.requires_grad_(True)
    if fresh:
        _thaw(model)


def _thaw(module: nn.Module) -> None:
    for name, child in module.named_children():
        if type(child).__name__.endswith("FrozenBatchNorm2d"):
            width: Any = child.weight
            setattr(module, name, nn.BatchNorm2d(len(width)))
        else:
            _thaw(child)
