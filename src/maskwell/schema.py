"""Dataclasses of the root configuration, registered with Hydra as ``<verb>_schema``.

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
    report: bool = True
    plan: bool = False


@dataclass
class PredictConfig:
    """Root of ``predict.yaml``."""

    model: dict[str, Any] = MISSING
    paths: PathsConfig = field(default_factory=PathsConfig)
    ckpt: str | None = None
    base: str | None = None
    input: str = MISSING
    prompt: Any = None
    threshold: float | None = None
    tile: int | None = None
    overlap: float = 0.25
    batch_size: int = 8
    output: str | None = None
    seed: int = 0


@dataclass
class EvaluateConfig:
    """Root of ``evaluate.yaml``."""

    model: dict[str, Any] = MISSING
    data: dict[str, Any] = MISSING
    paths: PathsConfig = field(default_factory=PathsConfig)
    ckpt: str | None = None
    split: str = "test"
    tile: int | None = None
    overlap: float = 0.25
    max_dets: list[int] = field(default_factory=lambda: [1, 10, 100])
    output: str | None = None
    seed: int = 0


@dataclass
class DiagnoseConfig:
    """Root of ``diagnose.yaml``."""

    health: dict[str, Any] | None = None
    paths: PathsConfig = field(default_factory=PathsConfig)
    input: str | None = None
    replay: str | None = None
    run: str | None = None
    output: str | None = None


def register() -> None:
    """Make the schemas known to Hydra; called once by the entry points."""
    store = ConfigStore.instance()
    store.store(name="train_schema", node=TrainConfig)
    store.store(name="predict_schema", node=PredictConfig)
    store.store(name="evaluate_schema", node=EvaluateConfig)
    store.store(name="diagnose_schema", node=DiagnoseConfig)
