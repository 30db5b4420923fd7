"""From a checkpoint back to a task: its configuration is built anew and its weights are loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from maskwell import build, checkpoint, runs
from maskwell.errors import UserError
from maskwell.export import weights
from maskwell.models.base import BaseTask

PREFERRED = ("best", "last")
"""Which checkpoint of a run folder is meant where only the folder is given."""


@dataclass(frozen=True)
class Restored:
    """A task with its trained weights, the configuration it was built from and its data's categories."""

    task: BaseTask
    cfg: DictConfig
    categories: tuple[str, ...]
    path: Path


def find(wanted: str, root: Path, family: str) -> Path:
    """The checkpoint meant by ``last`` (of the newest run), a run folder or a file: best before last.

    Raises:
        UserError: there is none.
    """
    path = runs.find_checkpoint(wanted, root, family, PREFERRED)
    folder = runs.folder_of(path)
    if wanted == "last" and folder is not None:
        return runs.find_checkpoint(str(folder), root, family, PREFERRED)
    return path


def restore(path: Path, adjust: Callable[[DictConfig], DictConfig] | None = None) -> Restored:
    """Build the task that ``path`` holds the weights of, on the CPU, to answer and not to be trained.

    Args:
        path: a checkpoint of any family, or the safetensors file of its export.
        adjust: changes the stored configuration first (the base has moved, other data).

    Raises:
        UserError: the file is missing, damaged, holds pickled code, is not ours, belongs to another
            family than its configuration, or to another base than the one that is found.
    """
    content = weights.read(path) if path.suffix == weights.SUFFIX else checkpoint.read(path)
    cfg = stored_config(content, path)
    if adjust is not None:
        cfg = adjust(cfg)
    checkpoint.check_family(content, build.family(cfg), path)
    task = build.task(cfg)
    load_weights(task, content, path)
    task.prepare_inference()
    return Restored(task, cfg, tuple(content.get("categories", ())), path)


def fresh(content: dict[str, Any], path: Path) -> tuple[BaseTask, int]:
    """The task that a checkpoint was written of, to be trained on, and the seed of its run.

    Raises:
        UserError: as :func:`restore`.
    """
    cfg = stored_config(content, path)
    task = build.task(cfg)
    load_weights(task, content, path)
    return task, int(cfg.get("seed", 0))


def load_weights(task: BaseTask, content: dict[str, Any], path: Path) -> None:
    """Put a checkpoint's weights into a task of its family; frozen weights may be missing in it.

    Raises:
        UserError: the weights are of another base or do not fit.
    """
    try:
        task.on_load_checkpoint(content)
        missing, unexpected = task.load_state_dict(content["state_dict"], strict=False)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"The weights of {path} do not fit this model: {reason}") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    trained = {name for name, _ in task.trainable_parameters()}
    odd = [*unexpected, *(name for name in missing if name in trained or task.strict_loading)]
    if odd:
        raise UserError(f"The weights of {path} do not fit this model ({odd[0]} is in one of them only).")


def with_overrides(
    stored: DictConfig, fresh: DictConfig, origin: runs.Origin, path: Path, groups: tuple[str, ...]
) -> DictConfig:
    """The configuration stored in the checkpoint ``path`` with the overrides of ``groups`` on top."""
    folder = runs.folder_of(path)
    before = runs.load(folder)[1] if folder else runs.Origin()
    wanted = tuple(o for o in origin.overrides if o.lstrip("+~").partition("=")[0].split(".")[0] in groups)
    return runs.on_top(stored, before, fresh, replace(origin, overrides=wanted))[0]


def best_device() -> torch.device:
    """The GPU where there is one."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def stored_config(content: dict[str, Any], path: Path) -> DictConfig:
    """The configuration that a checkpoint was trained with.

    Raises:
        UserError: it cannot be read, or names no model.
    """
    cfg = runs.parse(content[checkpoint.HEADER]["config"], f"{path}: the configuration stored in it")
    model = cfg.get("model")
    if not isinstance(model, DictConfig) or "_target_" not in model:
        raise UserError(f"{path}: the configuration stored in it names no model.")
    return cfg
