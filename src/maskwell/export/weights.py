"""Trained weights as safetensors: one file that any tool reads, and from which a task is built again.

The header holds what a checkpoint says beside its tensors (family, configuration, categories), as JSON.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from maskwell import checkpoint
from maskwell.errors import UserError

SUFFIX = ".safetensors"
ENTRY = "maskwell.checkpoint"
"""Key of the file's header under which the rest of the checkpoint lies."""

OF_TRAINING = frozenset(
    {"state_dict", "loops", "callbacks", "optimizer_states", "lr_schedulers", "epoch_loss"}
    | {"epoch", "global_step", "pytorch-lightning_version", "hparams_name", "hyper_parameters"}
)
"""Entries of a checkpoint that only going on with the training needs."""


def write(content: dict[str, Any], path: Path) -> None:
    """Write the weights of a checkpoint, without what only training needs.

    Args:
        content: as :func:`maskwell.checkpoint.read` gives it.
        path: of the file, ``.safetensors``.
    """
    rest = {key: value for key, value in content.items() if key not in OF_TRAINING}
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in _tensors(content)}
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.tmp")
    save_file(tensors, beside, {ENTRY: json.dumps(rest), "format": "pt"})
    beside.replace(path)


def read(path: Path) -> dict[str, Any]:
    """A checkpoint without the state of its training.

    Raises:
        UserError: the file is missing, damaged, or was not written by :func:`write`.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    try:
        with safe_open(path, "pt") as file:
            entry = (file.metadata() or {}).get(ENTRY)
            if entry is None:
                raise UserError(f"{path} was not exported by maskwell: its header has no '{ENTRY}'.")
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise UserError(f"{path} is damaged or no safetensors file.") from error
    content = json.loads(entry)
    if content[checkpoint.HEADER]["format"] > checkpoint.FORMAT:
        raise UserError(f"{path} is of a newer maskwell than this one: update maskwell.")
    return {**content, "state_dict": state}


def _tensors(content: dict[str, Any]) -> list[tuple[str, Tensor]]:
    return [(name, value) for name, value in content["state_dict"].items() if isinstance(value, Tensor)]
