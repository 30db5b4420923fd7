"""What is trained on a base: LoRA adapters, everything, or the heads only."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import Sam3Model

from maskwell.errors import UserError, nearest

Adaptation = Literal["lora", "full", "heads"]

_PARTS = r"(vision_encoder|detr_encoder|detr_decoder|mask_decoder)"
_ATTENTION = r"(q_proj|k_proj|v_proj|o_proj)"
PRESETS: dict[str, str] = {
    "attention": rf"{_PARTS}\..*\.{_ATTENTION}",
    "attention_mlp": rf"{_PARTS}\..*\.({_ATTENTION}|fc1|fc2)",
    "decoder_only": rf"(detr_decoder|mask_decoder)\..*\.({_ATTENTION}|fc1|fc2)",
}
"""Regular expressions over module names. Text and geometry encoders are in none: bare names such as
``q_proj`` would hit them too, and text-only training gives the geometry encoder no gradient."""

_HEADS = (
    "detr_decoder.box_head",
    "detr_decoder.presence_head",
    "detr_decoder.presence_layer_norm",
    "dot_product_scoring",
    "mask_decoder.mask_embedder",
    "mask_decoder.instance_projection",
)


@dataclass(frozen=True)
class Lora:
    """LoRA (Hu et al., 2021): ``targets`` is a preset or a regular expression over module names.

    ``modules_to_save``: modules trained in full beside the adapters and stored with them.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: str = "attention_mlp"
    modules_to_save: tuple[str, ...] = ()


def adapt(
    sam: Sam3Model, adaptation: Adaptation, lora: Lora, *, train_text: bool, train_semantic: bool
) -> nn.Module:
    """Freeze, unfreeze and inject so that exactly what text-only training reaches is trainable.

    Returns the module to train: ``sam`` itself, or a peft model around it.
    """
    sam.requires_grad_(False)
    if adaptation == "full":
        sam.requires_grad_(True)
        sam.geometry_encoder.requires_grad_(False)
        sam.text_encoder.requires_grad_(train_text)
        sam.text_projection.requires_grad_(train_text)
        _freeze_clip_pooling(sam)
        sam.vision_encoder.neck.fpn_layers[-1].requires_grad_(False)  # SAM 3 drops the coarsest level
        _freeze_unused(sam, train_semantic)
        return sam
    if adaptation == "heads":
        for name in _HEADS:
            sam.get_submodule(name).requires_grad_(True)
        return sam
    if adaptation == "lora":
        return _inject(sam, lora, train_text)
    near = nearest(adaptation, ("lora", "full", "heads"))
    raise UserError(f"model.adaptation={adaptation} is not known; use lora, full or heads.{near}")


def _freeze_clip_pooling(sam: Sam3Model) -> None:
    sam.text_encoder.text_projection.requires_grad_(False)  # CLIP's pooled output; SAM 3 reads the tokens


def _freeze_unused(sam: Sam3Model, train_semantic: bool) -> None:
    """Freeze parameters that no text-prompted output depends on, which DDP would refuse."""
    sam.mask_decoder.semantic_projection.requires_grad_(train_semantic)
    used = len(sam.mask_decoder.pixel_decoder.conv_layers)
    levels = len(sam.config.vision_config.scale_factors) - 2
    for index in range(levels, used):
        sam.mask_decoder.pixel_decoder.conv_layers[index].requires_grad_(False)
        sam.mask_decoder.pixel_decoder.norms[index].requires_grad_(False)


def _inject(sam: Sam3Model, lora: Lora, train_text: bool) -> PeftModel:
    targets = PRESETS.get(lora.targets, lora.targets)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        modules_to_save=list(lora.modules_to_save) or None,
        bias="none",
    )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message=".*is_gradient_checkpointing.*"
            )  # peft's, not the user's
            model = get_peft_model(sam, config)
    except ValueError as error:
        raise UserError(
            f"model.lora.targets={lora.targets} matches no linear layer of the base; use one of "
            f"{', '.join(PRESETS)} or a regular expression over module names.{nearest(lora.targets, PRESETS)}"
        ) from error
    if train_text:
        sam.text_encoder.requires_grad_(True)
        sam.text_projection.requires_grad_(True)
        _freeze_clip_pooling(sam)
    return model
