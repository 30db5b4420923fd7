"""Backbones of transformers as pyramids of two levels: fine features and deep ones."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoBackbone, AutoConfig, AutoModel, PreTrainedConfig, ResNetConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING
from transformers.utils import logging as transformers_logging

from maskwell.errors import UserError

SMALL = "small"
Norm = Literal["batch", "group", "frozen_batch"]
NORMS = ("batch", "group", "frozen_batch")

DILATED = {"resnet": 16, "mobilenet_v2": 16}
"""Kinds whose last stages can be dilated, and the output stride they get unless told otherwise."""

FINE_STRIDE = 4
"""Stride of the features that the decoder of DeepLabv3+ adds."""


class Backbone(nn.Module):
    """Wraps a transformers model; :meth:`forward` gives (fine, deep) feature maps [B, C, h, w].

    Args:
        model: with feature maps (``AutoBackbone``) or hidden states that are maps (``AutoModel``).

    Attributes:
        channels: of the fine and of the deep maps.
        fine_stride: input pixels per pixel of the fine maps.
        stride: input pixels per pixel of the deep maps; inputs are padded to a multiple of it.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        patch = getattr(model.config, "patch_size", FINE_STRIDE)
        side = 16 * (patch if isinstance(patch, int) else FINE_STRIDE)
        was_training = model.training
        model.eval()
        with torch.no_grad():
            maps = self._maps(torch.zeros(1, 3, side, side))
        model.train(was_training)
        strides = [round(side / found.shape[-1]) for found in maps]
        if strides[0] == strides[-1]:  # a plain transformer: an early layer instead of a fine one
            self._fine = len(maps) // 3
        else:
            at_least = min(stride for stride in strides if stride >= FINE_STRIDE)
            self._fine = max(i for i, stride in enumerate(strides) if stride == at_least)
        self.channels = (maps[self._fine].shape[1], maps[-1].shape[1])
        self.fine_stride, self.stride = strides[self._fine], strides[-1]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Fine and deep features of normalised images [B, 3, H, W]."""
        maps = self._maps(images)
        return maps[self._fine], maps[-1]

    def _maps(self, images: Tensor) -> tuple[Tensor, ...]:
        if hasattr(self.model, "out_features"):
            result: tuple[Tensor, ...] = tuple(self.model(images).feature_maps)
            return result
        output = self.model(images, output_hidden_states=True)
        states: tuple[Tensor, ...] = tuple(state for state in output.hidden_states if state.ndim == 4)
        last = output.last_hidden_state
        return states if last.shape == states[-1].shape else (*states, last)


def load(name: str, *, norm: Norm, output_stride: int | None, seed: int, key: str) -> Backbone:
    """A backbone in float32.

    Args:
        name: ``small`` (a ResNet of 1.3 million parameters with fresh weights), a directory in Hub layout, or
            a Hub name: ResNet, MobileNetV2, ConvNeXt, DINOv2, SegFormer encoders and their like.
        norm: ``batch`` keeps BatchNorm where there is any; ``frozen_batch`` keeps its statistics and
            factors as they were loaded (DeepLabv2); ``group`` replaces it, for fresh weights only.
        output_stride: 8, 16 or 32 with ResNet and MobileNetV2, whose last stages are then dilated; None:
            16 for those, its own for any other.
        seed: of fresh weights.
        key: where the configuration holds these settings (``model.generator``), for messages.

    Raises:
        UserError: not found, no backbone, or an option that it does not have.
    """
    if norm not in NORMS:
        raise UserError(f"{key}.norm={norm}: give one of {', '.join(NORMS)}.")
    if norm == "group" and name != SMALL:
        raise UserError(
            f"{key}.norm=group would undo pretrained weights: use batch or frozen_batch, or "
            f"{key}.backbone=small."
        )
    if name == SMALL:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = AutoBackbone.from_config(_small_config())
    else:
        model = _pretrained(name, output_stride, key)
    kind = str(model.config.model_type)
    if output_stride is not None and kind not in DILATED:
        raise UserError(
            f"{key}.output_stride={output_stride}: a backbone of the kind {kind} has its own; set it to null."
        )
    if kind == "resnet":
        dilate_resnet(model, output_stride or DILATED[kind], key)
    convert_norm(model, norm)
    return Backbone(model)


def _small_config() -> ResNetConfig:
    return ResNetConfig(
        embedding_size=32,
        hidden_sizes=[32, 64, 128, 192],
        depths=[1, 1, 2, 1],
        layer_type="basic",
        out_indices=[0, 1, 2, 3, 4],
    )


def _pretrained(name: str, output_stride: int | None, key: str) -> nn.Module:
    if Path(name).exists() or name.startswith((".", "/", "~")):
        name = str(Path(name).expanduser())
        if not (Path(name) / "config.json").is_file():
            raise UserError(
                f"{key}.backbone={name}: no config.json there; a backbone is a directory in Hub "
                "layout, a Hub name such as microsoft/resnet-50, or small."
            )
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(name)
        return _load(name, config, output_stride)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(_explain(name, error, key)) from error
    finally:
        transformers_logging.set_verbosity(level)
        transformers_logging.enable_progress_bar()


def _load(name: str, config: PreTrainedConfig, output_stride: int | None) -> nn.Module:
    more: dict[str, Any] = {"config": config, "dtype": torch.float32}
    if type(config) in MODEL_FOR_BACKBONE_MAPPING:
        config.out_indices = list(range(len(config.stage_names)))
        # The class itself: AutoBackbone.from_pretrained takes a directory for a Hub name.
        return MODEL_FOR_BACKBONE_MAPPING[type(config)].from_pretrained(name, **more)
    if config.model_type == "mobilenet_v2":
        config.output_stride = output_stride or DILATED["mobilenet_v2"]
    return AutoModel.from_pretrained(name, **more)


def _explain(name: str, error: Exception, key: str) -> str:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if Path(name).is_dir():
        return f"{key}.backbone={name}: the directory could not be read as a backbone ({first})."
    return (
        f"{key}.backbone={name}: neither a local directory nor reachable on the Hub from here; "
        "check the spelling and the connection, download it and give the directory, or use "
        f"{key}.backbone=small."
    )


def dilate_resnet(model: nn.Module, output_stride: int, key: str) -> None:
    """Lower the stride of a ResNet from 32 to 8 or 16: its last stages dilate instead (DeepLab).

    Raises:
        UserError: another stride.
    """
    if output_stride not in (8, 16, 32):
        raise UserError(f"{key}.output_stride={output_stride}: give 8, 16, 32 or null.")
    rate = 1
    kept = int(math.log2(output_stride // 4))  # stages 2 to 4 halve; the stem and stage 1 leave stride 4
    encoder: Any = model.encoder
    for stage in list(encoder.stages)[kept + 1 :]:
        before, rate = rate, rate * 2
        for place, layer in enumerate(stage.layers):
            for conv in (module for module in layer.modules() if isinstance(module, nn.Conv2d)):
                step = before if place == 0 and conv.stride != (1, 1) else rate
                conv.stride = (1, 1)
                if conv.kernel_size == (3, 3):
                    conv.dilation = conv.padding = (step, step)


class FrozenBatchNorm(nn.BatchNorm2d):
    """BatchNorm whose statistics and factors stay as they are."""

    def train(self, mode: bool = True) -> FrozenBatchNorm:
        return super().train(False)


def convert_norm(module: nn.Module, norm: Norm) -> None:
    """Replace every BatchNorm below ``module`` in place, as ``norm`` says; other norms stay."""
    for name, child in module.named_children():
        if not isinstance(child, nn.BatchNorm2d):
            convert_norm(child, norm)
        elif norm == "group":
            setattr(module, name, group_norm(child.num_features))
        elif norm == "frozen_batch":
            frozen = FrozenBatchNorm(child.num_features, child.eps)
            frozen.load_state_dict(child.state_dict())
            setattr(module, name, frozen.requires_grad_(False).train(False))


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with groups of at least 8 channels, 32 groups at most (Wu & He, 2018: 32)."""
    return nn.GroupNorm(math.gcd(channels, max(1, min(32, channels // 8))), channels)
