"""What a ``_target_`` of a configuration may name.

A configuration can come from a stranger: inside a checkpoint, beside a run, in an experiment file. A module
path can reach whatever the modules on its way have imported (``maskwell.data.folders.shutil.rmtree``), so a
prefix alone proves nothing. What is found must itself be defined in a trusted package and be of a kind that
configurations are made of.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from hydra.utils import get_object

from maskwell.errors import UserError

TRUSTED = (
    "maskwell.models.",
    "maskwell.data.kinds.",
    "maskwell.data.transforms.",
    "maskwell.data.prompts.",
    "maskwell.callbacks.",
    "maskwell.health.",
    "maskwell.ops.matcher.",
    "maskwell.sharding.",
    "lightning.pytorch.",
    "torch.optim.",
    "torch.nn.",
    "torchmetrics.",
)
"""Prefixes of what may be built; ``lightning.Trainer`` beside them."""

FUNCTIONS = ("maskwell.data.kinds.", "maskwell.sharding.")
"""Where functions may be called too; elsewhere classes alone are built."""

TRAINER = "lightning.Trainer"


def resolve(target: object, key: str, trusted: Sequence[str] = TRUSTED) -> Callable[..., Any]:
    """The class or function that ``target`` names.

    Raises:
        UserError: it is outside the trusted packages, no kind that may be built, or not there.
    """
    if not isinstance(target, str):
        raise UserError(
            f"{key}._target_ is {target!r}; it has to name what is built, as package.module.Class."
        )
    if target != TRAINER and not target.startswith(tuple(trusted)):
        raise UserError(
            f"{key}._target_ names '{target}', which is outside the packages that may be built here."
        )
    try:
        found = get_object(target)
    except (ImportError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{key}._target_: '{target}' cannot be imported ({reason}).") from error
    if target != TRAINER and not _is_allowed(found, tuple(trusted)):
        raise UserError(f"{key}._target_ names '{target}', which is no kind of thing that may be built here.")
    return found


def _is_allowed(found: object, trusted: tuple[str, ...]) -> bool:
    home = f"{getattr(found, '__module__', '')}."
    if inspect.isfunction(found):
        return home.startswith(FUNCTIONS)
    if not inspect.isclass(found) or not home.startswith(trusted):
        return False
    kinds = next((kinds() for prefix, kinds in _KINDS.items() if home.startswith(prefix)), (object,))
    return issubclass(found, kinds)


def _of_lightning() -> tuple[type, ...]:
    from lightning.pytorch import Callback, Trainer
    from lightning.pytorch.loggers import Logger
    from lightning.pytorch.plugins import ClusterEnvironment, Precision
    from lightning.pytorch.profilers import Profiler
    from lightning.pytorch.strategies import Strategy

    return Callback, ClusterEnvironment, Logger, Precision, Profiler, Strategy, Trainer


def _of_torch() -> tuple[type, ...]:
    import torch

    return torch.nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler


def _of_metrics() -> tuple[type, ...]:
    from torchmetrics import Metric

    return (Metric,)


_KINDS: dict[str, Callable[[], tuple[type, ...]]] = {
    "lightning.": _of_lightning,
    "torch.": _of_torch,
    "torchmetrics.": _of_metrics,
}
"""Base classes of what may be built, by where it is defined; any class elsewhere."""
