"""Checkpoint files: written whole or not at all, read as data and never as code."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO

from maskwell.errors import UserError

FORMAT = 1
"""Version of what this package adds to Lightning's checkpoint."""

HEADER = "maskwell"
"""Key of the entry that it adds: ``format``, ``family`` and ``config`` (resolved, as a YAML string)."""


class AtomicCheckpointIO(CheckpointIO):
    """Writes to a temporary file beside the target, syncs and renames; reads with ``weights_only``.

    Args:
        family: of the task that is trained; a checkpoint of another one is refused.
        config: the resolved configuration as YAML, put into every checkpoint.
    """

    def __init__(self, family: str, config: str) -> None:
        super().__init__()
        self.family = family
        self.config = config

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        header = {"format": FORMAT, "family": self.family, "config": self.config}
        write({**checkpoint, HEADER: header}, Path(path))

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        map_location: Any | None = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        return read(Path(path), self.family, map_location or "cpu")

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        Path(path).unlink(missing_ok=True)


def write(checkpoint: dict[str, Any], path: Path) -> None:
    """Save ``checkpoint`` so that ``path`` is at any moment the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    # The rename itself is lost in a power cut unless the folder is synced too (POSIX only).
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read(
    path: Path, family: str | None = None, map_location: str | torch.device | Callable[..., Any] = "cpu"
) -> dict[str, Any]:
    """Load a checkpoint of this package as data.

    Args:
        path: the file.
        family: what it has to be a checkpoint of; None takes any.
        map_location: as in :func:`torch.load`.

    Raises:
        UserError: the file is missing, damaged, holds pickled code, is not of this package, is of a
            newer format or of another family.
    """
    if not path.is_file():
        raise UserError(f"There is no checkpoint {path}.")
    try:
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        if not zipfile.is_zipfile(path):
            raise UserError(f"{path} is damaged or is no checkpoint.") from error
        raise UserError(
            f"{path} holds pickled code and is not loaded: checkpoints hold tensors and plain values only."
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise UserError(f"{path} is damaged or is no checkpoint.") from error
    header = checkpoint.get(HEADER) if isinstance(checkpoint, dict) else None
    if not isinstance(header, dict) or not {"format", "family", "config"} <= header.keys():
        raise UserError(f"{path} was not written by maskwell: it has no '{HEADER}' entry.")
    if header["format"] > FORMAT:
        raise UserError(
            f"{path} has format {header['format']}, this version reads up to {FORMAT}: update maskwell."
        )
    if family is not None:
        check_family(checkpoint, family, path)
    return checkpoint


def check_family(checkpoint: dict[str, Any], family: str, path: Path) -> None:
    """Refuse a checkpoint of another family than ``family``."""
    found = checkpoint[HEADER]["family"]
    if found != family:
        raise UserError(f"{path} is a checkpoint of the family '{found}', not of '{family}'.")
