"""From the composed configuration to objects: the only module that calls hydra's ``instantiate``.

Nothing is built that is not on the list of trusted packages, and an argument that a constructor does
not take is refused with the nearest one that it does.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from maskwell import targets
from maskwell.errors import UserError, nearest

if TYPE_CHECKING:
    import lightning
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.loggers import Logger

    from maskwell.data.datamodule import DataModule
    from maskwell.models.base import BaseTask

TRUSTED = targets.TRUSTED
"""Prefixes of ``_target_`` that may be built."""

HYDRA_KEYS = frozenset({"_target_", "_partial_", "_args_", "_recursive_", "_convert_"})


def family(cfg: DictConfig) -> str:
    """Name of the family that ``cfg.model`` belongs to, without building it."""
    name = getattr(targets.resolve(cfg.model._target_, "model", TRUSTED), "family", None)
    if name is None:
        raise UserError(f"model._target_: '{cfg.model._target_}' is no task of a model family.")
    return str(name)


def task(cfg: DictConfig) -> BaseTask:
    """The family's LightningModule."""
    return _build(cfg.model, "model")


def datamodule(cfg: DictConfig, built: BaseTask) -> DataModule:
    """The data, in the geometry that ``built`` wants; tells the task its categories and optimiser."""
    data = _build(cfg.data, "data")
    bind_data(data, built)
    data.setup()
    optim = _build(cfg.optim, "optim") if cfg.get("optim") else None  # none where nothing is trained
    built.bind(categories=data.categories, optim=optim)
    return data


def bind_data(data: DataModule, built: BaseTask) -> None:
    """Give the data what ``built`` wants to see; again where weights were loaded that want something else."""
    data.bind(
        built.input_spec,
        promptable=built.promptable,
        knows_scenes=built.knows_scenes,
        unlabelled=built.needs_unlabelled,
        pointwise=built.pointwise,
    )


def part(node: DictConfig, key: str) -> Any:
    """What a single node names, as a rule of the monitor; ``key`` is its place, for errors."""
    return _build(node, key)


def callbacks(cfg: DictConfig) -> list[Callback]:
    """The monitor of the group ``health`` and every named entry of ``callbacks`` that is not null."""
    monitor = [_build(cfg.health, "health")] if cfg.health else []
    return [*monitor, *_build_entries(cfg.callbacks, "callbacks")]


def loggers(cfg: DictConfig) -> list[Logger]:
    """Every named entry of the group ``logger``."""
    return _build_entries(cfg.logger, "logger")


def trainer(cfg: DictConfig, task: BaseTask | None = None, **more: Any) -> lightning.Trainer:
    """The Trainer; ``more`` (callbacks, loggers, plugins, ...) goes on top of the group ``trainer``.

    Where the run of ``task`` is counted in iterations, its own keys say how long it is.

    Raises:
        UserError: where ``trainer.devices`` asks for more than there is, or a key does not fit the task.
    """
    node = OmegaConf.create(OmegaConf.to_container(cfg.trainer, resolve=True))
    assert isinstance(node, DictConfig)
    accelerator = _accelerator(node.accelerator)
    _check_devices(accelerator, node.devices)
    _check_strategy(node.strategy, accelerator)
    _check_accumulation(node.accumulate_grad_batches, task)
    if node.precision == "auto":
        node.precision = _precision(accelerator)
    if str(node.precision) in ("bf16-true", "16-true", "64-true", "64"):
        raise UserError(
            f"trainer.precision={node.precision}: weights stay in float32 here; use bf16-mixed, 16-mixed or "
            "32-true."
        )
    if node.get("sync_batchnorm") and accelerator == "cpu":
        raise UserError(
            "trainer.sync_batchnorm=true works on GPUs only: set it to false, or use GroupNorm "
            "(model.generator.norm=group)."
        )
    if task is not None and task.iterations is not None:
        _count_iterations(node, task.iterations, task.evaluate_every)
    return _build(node, "trainer", **more)


def _count_iterations(node: DictConfig, iterations: int, evaluate_every: int | None) -> None:
    """One epoch of ``iterations`` batches; validation counts batches too."""
    if node.max_steps > 0:
        raise UserError(
            f"trainer.max_steps={node.max_steps} counts the steps of every optimiser: give "
            f"model.iterations={node.max_steps} instead."
        )
    limit = node.limit_train_batches
    length = min(iterations, limit) if isinstance(limit, int) else max(1, int(iterations * limit))
    node.max_epochs = 1
    node.val_check_interval = min(evaluate_every or length, length)
    node.check_val_every_n_epoch = None


def _accelerator(wanted: str) -> str:
    import torch

    if wanted == "gpu" and not torch.cuda.is_available() and not torch.backends.mps.is_available():
        raise UserError("trainer.accelerator=gpu, but PyTorch sees no GPU here: use trainer=cpu.")
    if wanted == "mps" and not torch.backends.mps.is_available():
        raise UserError("trainer.accelerator=mps, but PyTorch sees no Apple GPU here: use trainer=cpu.")
    if wanted in ("auto", "gpu"):
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return wanted


def _precision(accelerator: str) -> str:
    import torch

    return "bf16-mixed" if accelerator == "cuda" and torch.cuda.is_bf16_supported() else "32-true"


def _check_devices(accelerator: str, devices: int | str | ListConfig) -> None:
    """Lightning takes 64 CPU processes on two cores; here more than there is, is a mistake."""
    existing, wanted = _existing(accelerator), _wanted(devices)
    if existing is not None and wanted > existing:
        what = "CPU cores" if accelerator == "cpu" else "GPUs"
        raise UserError(
            f"trainer.devices={wanted}, but this machine has {existing} {what}: ask for at most {existing}."
        )


def _check_strategy(strategy: str | DictConfig, accelerator: str) -> None:
    """What shares a model out works on CUDA only."""
    name = strategy if isinstance(strategy, str) else str(strategy.get("_target_"))
    kind = next((kind for kind in ("fsdp", "deepspeed") if kind in name.lower()), None)
    if kind and accelerator != "cuda":
        raise UserError(f"trainer.strategy={kind} needs CUDA GPUs: use trainer=ddp, or trainer=cpu.")
    if kind == "deepspeed" and find_spec("deepspeed") is None:
        raise UserError("trainer=deepspeed needs the package: pip install deepspeed.")


def _check_accumulation(together: int, task: BaseTask | None) -> None:
    if together > 1 and task is not None and not task.automatic_optimization:
        raise UserError(
            f"trainer.accumulate_grad_batches={together}: model={task.family} makes its optimiser steps "
            "itself, one in each batch; set it to 1, and data.batch_size as large as memory allows."
        )


def _existing(accelerator: str) -> int | None:
    """Devices of a kind in this machine; None where that cannot be told."""
    import torch

    if accelerator == "cpu":
        return cpu_cores()
    return torch.cuda.device_count() if accelerator == "cuda" else None


def _wanted(devices: int | str | ListConfig) -> int:
    """How many ``trainer.devices`` names; 0 where it leaves that open (auto, -1)."""
    if isinstance(devices, ListConfig):
        return len(devices)
    return int(devices) if str(devices).isdigit() else 0


def processes(cfg: DictConfig) -> int:
    """How many processes will train on this machine."""
    accelerator = _accelerator(cfg.trainer.accelerator)
    if wanted := _wanted(cfg.trainer.devices):
        return wanted
    # left open: every GPU, one process on the CPU
    return 1 if accelerator == "cpu" else _existing(accelerator) or 1


def cpu_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _build_entries(group: DictConfig | None, key: str) -> list[Any]:
    if group is None:
        return []
    return [_build(node, f"{key}.{name!s}") for name, node in group.items() if node is not None]


def _build(node: Any, key: str, **more: Any) -> Any:
    check_node(node, key)
    try:
        if more:  # not through instantiate(), which would turn dataclasses among them into configurations
            return instantiate(node, _convert_="all", _partial_=True)(**more)
        return instantiate(node, _convert_="all")
    except (InstantiationException, ValueError, TypeError) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) else error
        if isinstance(cause, UserError):
            raise cause from None
        if isinstance(cause, ValueError | TypeError):
            raise UserError(f"{key}: {' '.join(str(cause).split()).rstrip('.')}.") from error
        raise


def check_node(node: Any, key: str) -> None:
    """Hold every ``_target_`` at or below ``node`` against the trusted packages and its signature.

    Raises:
        UserError: for an untrusted or missing target and for an argument that it does not take.
    """
    if isinstance(node, ListConfig):
        for index, item in enumerate(node):
            check_node(item, f"{key}[{index}]")
    if not isinstance(node, DictConfig):
        return
    target = node.get("_target_") if "_target_" in node else None
    if target is not None:
        known = parameters(target, key)
        for name in map(str, node):
            if known is not None and name not in known and name not in HYDRA_KEYS:
                raise UserError(f"{key}.{name}: {target} takes no '{name}'.{nearest(name, known)}")
    for entry, child in node.items():
        check_node(child, f"{key}.{entry!s}")


def parameters(target: object, key: str) -> set[str] | None:
    """Names of the arguments that ``target`` takes; None where it takes any."""
    found = targets.resolve(target, key, TRUSTED)
    arguments: Mapping[str, inspect.Parameter] = inspect.signature(found).parameters
    if any(p.kind is p.VAR_KEYWORD for p in arguments.values()):
        return None
    return set(arguments)
