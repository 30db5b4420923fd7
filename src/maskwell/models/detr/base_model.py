"""Where a detector comes from: the Hub, a directory in Hub layout, or fresh weights of a small one."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForObjectDetection, ImageProcessingMixin, PreTrainedConfig
from transformers.utils import logging as transformers_logging

from maskwell.data.sample import IMAGENET_MEAN, IMAGENET_STD, Colour
from maskwell.errors import UserError, nearest
from maskwell.models.detr.small import counts_classes as counts_classes
from maskwell.models.detr.small import initialise, release_backbone, small_config

KINDS = ("rt_detr_v2", "detr", "conditional_detr", "deformable_detr", "rf_detr")
SMALL = "small"
PREPROCESSOR = "preprocessor_config.json"
"""What a base says of the images that it was trained on."""

PRIOR = 0.01
"""Score of every class of a fresh head."""


def read_config(base: str, architecture: str, queries: int | None) -> PreTrainedConfig:
    """The configuration of ``base``, or of the small ``architecture``; ``queries`` None: its own number.

    Raises:
        UserError: not found, or no detector of a kind in :data:`KINDS`.
    """
    if architecture not in KINDS:
        raise UserError(
            f"model.architecture={architecture}: give one of {', '.join(KINDS)}."
            f"{nearest(architecture, KINDS)}"
        )
    if queries is not None and queries < 1:
        raise UserError(f"model.queries={queries}: give at least 1, or null.")
    config = small_config(architecture) if base == SMALL else _read(base)
    if config.model_type not in KINDS:
        raise UserError(
            f"model.base={base} is a model of the kind '{config.model_type}', not one of {', '.join(KINDS)}."
        )
    if queries is not None:
        config.num_queries = queries
    return config


def build(
    config: PreTrainedConfig, classes: int, seed: int, base: str = SMALL, *, load: bool = True
) -> nn.Module:
    """A detector in float32 with a head for ``classes``.

    Args:
        config: from :func:`read_config`, or out of a checkpoint.
        classes: of the data.
        seed: of fresh weights; a loaded network's class layers are fresh where their count differs.
        base: where weights come from; ``small``: all are fresh.
        load: False where a checkpoint will fill the model.

    Raises:
        UserError: the weights cannot be read or do not fill the model.
    """
    config.num_labels = classes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if base == SMALL or not load:
            model = AutoModelForObjectDetection.from_config(config)
            initialise(model)
            fresh = {name for name, _ in model.named_parameters()}
        else:
            model, fresh = _load(base, config)
    _set_prior(model, fresh)
    release_backbone(model, fresh=base == SMALL)
    return model


def to_json(config: PreTrainedConfig) -> str:
    """The configuration as checkpoints keep it, so that they need no base."""
    return str(config.to_json_string(use_diff=False))


def from_json(text: str) -> PreTrainedConfig:
    """Inverse of :func:`to_json`."""
    content = json.loads(text)
    return AutoConfig.for_model(content.pop("model_type"), **content)


def multiple_of(config: PreTrainedConfig) -> int:
    """What the sides of the input have to be multiples of, px."""
    if config.model_type == "rf_detr":  # whole windows of whole patches
        backbone: Any = config.backbone_config
        return int(backbone.patch_size) * int(backbone.num_windows)
    return 32


def min_side(config: PreTrainedConfig) -> int:
    """Side of the smallest square input with a place for each query, px; 1 where queries need none."""
    if config.model_type == "rt_detr_v2":
        more: Any = config.feat_strides
        strides = [int(stride) for stride in more]
    elif config.model_type == "rf_detr":
        backbone: Any = config.backbone_config
        strides = [int(backbone.patch_size)]
    else:
        return 1
    step = multiple_of(config)
    wanted: Any = config.num_queries
    return next(
        side
        for side in itertools.count(step, step)
        if sum((side // stride) ** 2 for stride in strides) >= wanted
    )


def normalisation(base: str, config: PreTrainedConfig) -> tuple[Colour, Colour]:
    """Mean and standard deviation, of values in [0, 1], of the input that ``base`` was trained on.

    ImageNet's where it has no preprocessor_config.json; fresh weights get those too.

    Raises:
        UserError: the file cannot be read.
    """
    if base == SMALL:
        return IMAGENET_MEAN, IMAGENET_STD
    name = _folder(base)
    local = Path(name).is_dir()
    if local and not (Path(name) / PREPROCESSOR).exists():
        return IMAGENET_MEAN, IMAGENET_STD
    try:
        told, _ = ImageProcessingMixin.get_image_processor_dict(name)
    except (OSError, ValueError) as error:
        if not local:  # its configuration was found: it has no such file
            return IMAGENET_MEAN, IMAGENET_STD
        raise UserError(f"model.base={base}: its {PREPROCESSOR} cannot be read.") from error
    white = 255 * told.get("rescale_factor", 1 / 255) if told.get("do_rescale", True) else 255.0
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if told.get("do_normalize", config.model_type != "rt_detr_v2"):  # RT-DETR's default is not to
        mean, std = told.get("image_mean", IMAGENET_MEAN), told.get("image_std", IMAGENET_STD)
    return _colour(value / white for value in mean), _colour(value / white for value in std)


def _colour(values: Iterable[float]) -> Colour:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _read(base: str) -> PreTrainedConfig:
    name = _folder(base)
    try:
        return AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UserError(_explain(base, error)) from error


def _folder(base: str) -> str:
    if not (Path(base).exists() or base.startswith((".", "/", "~"))):
        return base
    folder = Path(base).expanduser()
    if not (folder / "config.json").is_file():
        raise UserError(
            f"model.base={base}: no config.json there; a base is a directory in Hub layout (config.json, "
            "model.safetensors), a Hub name such as PekingU/rtdetr_v2_r18vd, or small."
        )
    return str(folder)


def _load(base: str, config: PreTrainedConfig) -> tuple[nn.Module, set[str]]:
    """The model and the names of its fresh weights."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        model, info = AutoModelForObjectDetection.from_pretrained(
            _folder(base),
            config=config,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(_explain(base, error)) from error
    finally:
        transformers_logging.set_verbosity(level)
        transformers_logging.enable_progress_bar()
    fresh = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    odd = sorted(key for key in fresh if not counts_classes(key))
    if odd:
        raise UserError(
            f"model.base={base}: {len(odd)} weights of the model are not in the file or have another shape "
            f"(first: {odd[0]}); with model.queries=null the number of queries is the base's own."
        )
    return model, fresh


@torch.no_grad()
def _set_prior(model: nn.Module, fresh: set[str]) -> None:
    """Let fresh class layers say "nothing" at first, or the many empty queries drown the rest.

    (Focal loss, Lin et al., 2017, section 3.3.) A softmax has a class for it.
    """
    config: Any = model.config
    for name, parameter in model.named_parameters():
        if name in fresh and counts_classes(name) and name.endswith("bias") and config.model_type != "detr":
            parameter.fill_(-math.log((1 - PRIOR) / PRIOR))


def _explain(base: str, error: Exception) -> str:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if Path(base).is_dir():
        return f"model.base={base}: the directory could not be read as a detector ({first})."
    return (
        f"model.base={base}: neither a local directory nor reachable on the Hub from here; check the "
        "spelling and the connection, download it and give the directory, or use model.base=small."
    )
