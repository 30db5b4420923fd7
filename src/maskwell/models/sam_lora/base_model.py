"""Where the base model comes from: the Hub, a directory in Hub layout, the shipped small one, or scratch."""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Sam3Config, Sam3Model
from transformers.utils import logging as transformers_logging

from maskwell.errors import UserError
from maskwell.models.sam_lora.tiny import build_tokenizer, initialise, tiny_config

TINY = "tiny"
SCRATCH = "scratch"


def load_base(
    name: str, *, image_size: int | None = None, seed: int = 0
) -> tuple[Sam3Model, PreTrainedTokenizerBase]:
    """A SAM 3 in float32 with its tokenizer.

    Args:
        name: ``tiny`` (shipped with the package), ``scratch`` (the small architecture, fresh weights),
            a directory in Hub layout, or a Hub name such as ``facebook/sam3``.
        image_size: side of the square input in px, a multiple of the patch size; None: the base's own.
        seed: of fresh weights.

    Raises:
        UserError: not found, gated, offline, or weights that do not fill the model.
    """
    if name == SCRATCH:
        return _fresh(image_size, seed)
    if name == TINY:
        with resources.as_file(resources.files("maskwell") / "assets" / "tiny") as folder:
            return _load(str(folder), image_size)
    if Path(name).exists() or name.startswith((".", "/", "~")):
        folder = Path(name).expanduser()
        if not (folder / "config.json").is_file():
            raise UserError(
                f"model.base={name}: no config.json there; a base is a directory in Hub layout "
                "(config.json, model.safetensors, tokenizer files), a Hub name, or 'tiny'."
            )
        return _load(str(folder), image_size)
    return _load(name, image_size)


def _fresh(image_size: int | None, seed: int) -> tuple[Sam3Model, PreTrainedTokenizerBase]:
    from maskwell.data.phrases import VOCABULARY

    tokenizer = build_tokenizer(VOCABULARY)
    config = tiny_config(len(tokenizer))
    if image_size is not None:
        _set_image_size(config, image_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Sam3Model(config)
    initialise(model, seed)
    return model, tokenizer


def _load(name: str, image_size: int | None) -> tuple[Sam3Model, PreTrainedTokenizerBase]:
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        config = _read_config(name)
        if image_size is not None:
            _set_image_size(config, image_size)
        model, info = Sam3Model.from_pretrained(
            name, config=config, dtype=torch.float32, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(_explain(name, error)) from error
    finally:
        transformers_logging.set_verbosity(level)
        transformers_logging.enable_progress_bar()
    lacking = sorted([*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])])
    if lacking:
        raise UserError(
            f"model.base={name}: {len(lacking)} weights of the model are not in the file or have another "
            f"shape (first: {lacking[0]}); this is not a SAM 3 in the layout of transformers."
        )
    return model, tokenizer


def _read_config(name: str) -> Sam3Config:
    """The configuration of the image model, also out of that of the video model that contains it."""
    raw, _ = Sam3Config.get_config_dict(name)
    kind = str(raw.get("model_type"))
    if not kind.startswith("sam3"):
        raise UserError(f"model.base={name} is a model of the kind '{kind}', not a SAM 3.")
    return Sam3Config.from_dict(raw.get("detector_config") or raw)


def _set_image_size(config: Sam3Config, image_size: int) -> None:
    patch = config.vision_config.backbone_config.patch_size
    if image_size % patch:
        nearest = max(patch, round(image_size / patch) * patch)
        raise UserError(
            f"model.image_size={image_size} is not a multiple of the base's patch of {patch} px; "
            f"try {nearest}."
        )
    config.vision_config.backbone_config.image_size = image_size


def _explain(name: str, error: Exception) -> str:
    text = f"{type(error).__name__} {error}".lower()
    if "gated" in text or "401" in text or "403" in text:
        return (
            f"model.base={name}: access to these weights is restricted; accept the licence on the model's "
            "page and run `hf auth login`, give a local directory, or use model.base=tiny."
        )
    if Path(name).is_dir():
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return f"model.base={name}: the directory could not be read as a SAM 3 in Hub layout ({first})."
    return (
        f"model.base={name}: neither a local directory nor reachable on the Hub from here; check the "
        "spelling and the connection, download it to a directory and give that, or use model.base=tiny."
    )


def weight_hash(model: torch.nn.Module) -> str:
    """Hex digest of all parameters and persistent buffers, names included; independent of the device."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
