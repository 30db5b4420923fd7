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

from maskwell.errors import UserError, warn

FORMAT = 1
"""Version of what this package adds to Lightning's checkpoint."""

HEADER = "maskwell"
"""Key of the entry that it adds: ``format``, ``family`` and ``config`` (resolved, as a YAML string)."""


class AtomicCheckpointIO(CheckpointIO):
    """Writes to a temporary file beside the target, syncs and renames; reads with ``weights_only``.

    A full disk or a folder that cannot be written costs this checkpoint, not the run: the file before it
    stays, :attr:`failure` holds the error until the next one is written.

    Args:
        family: of the task that is trained; a checkpoint of another one is refused.
        config: the resolved configuration as YAML, put into every checkpoint.
    """

    def __init__(self, family: str, config: str) -> None:
        super().__init__()
        self.family = family
        self.config = config
        self.failure: OSError | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        header = {"format": FORMAT, "family": self.family, "config": self.config}
        self.failure = None
        try:
            write({**checkpoint, HEADER: header}, Path(path))
        except OSError as error:
            self.failure = error
            warn(f"the checkpoint {path} could not be written ({error}); the one before it stays")

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
    """Save ``checkpoint`` so that ``path`` is at any moment the old file or the whole new one.

    Raises:
        OSError: it could not be written; ``path`` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except RuntimeError as error:  # torch's own of a file that ends too early
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
    finally:
        beside.unlink(missing_ok=True)
    _sync_folder(path.parent)


def tidy(folder: Path) -> None:
    """Remove what a run that was killed while it wrote left in its folder of checkpoints."""
    for beside in folder.glob(".*.ckpt.*.tmp"):
        beside.unlink(missing_ok=True)


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
    except Exception as error:  # of a damaged file torch raises whatever comes up in it
        if isinstance(error, pickle.UnpicklingError) and zipfile.is_zipfile(path):
            raise UserError(
                f"{path} holds pickled code and is not loaded: checkpoints hold tensors and plain values "
                "only."
            ) from error
        raise UserError(f"{path} is damaged or is no checkpoint.") from error
    header = checkpoint.get(HEADER) if isinstance(checkpoint, dict) else None
    kinds = {"format": int, "family": str, "config": str}
    if not isinstance(header, dict) or not all(isinstance(header.get(k), kinds[k]) for k in kinds):
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
