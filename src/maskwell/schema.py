"""Dataclasses of the root configuration, registered with Hydra under ``schema/``.

They type every scalar of the root, so that an unknown or mistyped root key is refused while the
configuration is composed. Keys inside the groups are held against the chosen files and the
constructors they name by :mod:`maskwell.compose`.

Imports nothing heavy: ``--help`` goes through this module.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


@dataclass
class PathsConfig:
    """Where things go, relative to the working directory."""

    runs: str = "runs"
    """Each run makes its own folder ``<runs>/<family>/<date_time>``."""
    run_dir: str | None = None
    """The folder of this run: chosen by the program unless given."""


@dataclass
class TrainConfig:
    """Root of ``train.yaml``."""

    model: dict[str, Any] = MISSING
    data: dict[str, Any] = MISSING
    optim: dict[str, Any] = MISSING
    trainer: dict[str, Any] = MISSING
    callbacks: dict[str, Any] | None = None
    logger: dict[str, Any] | None = None
    health: dict[str, Any] | None = None
    paths: PathsConfig = field(default_factory=PathsConfig)
    seed: int = 0
    ckpt_path: str | None = None
    init_from: str | None = None
    evaluate_base: bool = True
    test: bool = True
    plan: bool = False


def register() -> None:
    """Make the schemas known to Hydra; called once by the entry points."""
    store = ConfigStore.instance()
    store.store(group="schema", name="train", node=TrainConfig)
