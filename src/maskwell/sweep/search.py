"""The search that a command line asks for: fixed keys, searched keys, how many trials, what is measured."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from maskwell import compose
from maskwell.errors import UserError, nearest
from maskwell.sweep import search_space
from maskwell.sweep.search_space import Space

PROGRAM = (sys.executable, "-m", "maskwell", "train")
"""What a trial runs; its overrides follow."""


@dataclass
class SweepConfig:
    """The keys ``sweep.*``, see ``conf/sweep/default.yaml``."""

    study: str | None = None
    storage: str | None = None
    trials: int = 20
    sampler: str = "auto"
    pruner: str = "median"
    startup_trials: int = 4
    warmup_values: int = 2
    metric: str | None = None
    mode: str | None = None
    seed: int = 0
    poll_seconds: float = 2.0
    space: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Search:
    """A search, read and checked: ``fixed`` overrides and the ``space`` of the others; ``folder`` holds the
    trials, ``storage`` the study; ``program`` trains.
    """

    config: SweepConfig
    fixed: tuple[str, ...]
    space: Space
    metric: str
    mode: str
    study: str
    folder: Path
    storage: str
    program: tuple[str, ...] = PROGRAM

    @property
    def grid(self) -> list[dict[str, str]] | None:
        """Every combination, where that is what is searched."""
        points = search_space.grid(self.space)
        if self.config.sampler == "grid" and points is None:
            raise UserError("sweep.sampler=grid: an interval has no end of values; write lists or ranges.")
        fits = points is not None and len(points) <= self.config.trials
        return points if self.config.sampler == "grid" or (self.config.sampler == "auto" and fits) else None

    @property
    def trials(self) -> int:
        """How many are wanted."""
        return len(self.grid) if self.grid else self.config.trials


def read(arguments: Sequence[str], flags: Sequence[str] = (), program: Sequence[str] = PROGRAM) -> Search:
    """The search that a command line asks for.

    Args:
        arguments: ``sweep=...``, ``sweep.KEY=...`` and overrides of ``train.py``, some of them searched.
        flags: ``--config-dir`` and its folder, for ``train.py`` too.
        program: what trains.

    Raises:
        UserError: an unknown key or search, nothing to search, or values that cannot be composed.
    """
    own = [a for a in arguments if a.startswith(("sweep=", "sweep."))]
    config = _config([a.removeprefix("sweep") for a in own])
    fixed, space = search_space.split([a for a in arguments if a not in own], config.space)
    if not space:
        raise UserError(
            f"There is nothing to search: give a key {search_space.FORMS}, or sweep= one of "
            f"{', '.join(names())}."
        )
    cfg, _ = compose.compose("train", [*fixed, *search_space.example(space)], _search_path(flags))
    task = _task(cfg)
    study = config.study or task.family
    folder = Path(cfg.paths.runs) / "sweeps" / study
    return Search(
        config,
        tuple(fixed),
        space,
        config.metric or task.monitor,
        config.mode or (task.mode if config.metric is None else "max"),
        study,
        folder,
        config.storage or f"sqlite:///{folder / 'study.db'}",
        (*program, *flags),
    )


def names() -> list[str]:
    """The search files."""
    found = {path.stem for path in (compose.conf_dir() / "sweep").glob("*.yaml")}
    return sorted(found - {"default"})


def _config(own: Sequence[str]) -> SweepConfig:
    """``default.yaml``, the chosen file and the keys of the command line, in this order."""
    folder = compose.conf_dir() / "sweep"
    merged = OmegaConf.merge(OmegaConf.structured(SweepConfig), OmegaConf.load(folder / "default.yaml"))
    for text in own:
        key, _, value = text.partition("=")
        try:
            if not key:
                if value not in names():
                    raise UserError(f"There is no sweep={value}.{nearest(value, names())}")
                merged = OmegaConf.merge(merged, OmegaConf.load(folder / f"{value}.yaml"))
            elif key.removeprefix(".") not in SweepConfig.__dataclass_fields__:
                known = SweepConfig.__dataclass_fields__
                raise UserError(f"Unknown key 'sweep{key}'.{nearest(key.removeprefix('.'), known)}")
            else:
                merged = OmegaConf.merge(merged, OmegaConf.from_dotlist([text.removeprefix(".")]))
        except OmegaConfBaseException as error:
            raise UserError(f"Cannot set sweep{text}: {str(error).splitlines()[0]}.") from error
    config = OmegaConf.to_object(merged)
    assert isinstance(config, SweepConfig)
    choices = {
        "sampler": ("auto", "tpe", "random", "grid"),
        "pruner": ("median", "none"),
        "mode": ("min", "max"),
    }
    for name, allowed in choices.items():
        given = getattr(config, name)
        if given not in allowed and not (name == "mode" and given is None):
            raise UserError(f"sweep.{name}={given}: use one of {', '.join(allowed)}.")
    if config.trials < 1:
        raise UserError(f"sweep.trials={config.trials}: give at least 1.")
    return config


def _search_path(flags: Sequence[str]) -> list[str]:
    return [f"file://{Path(flags[1]).resolve()}"] if flags else []


def _task(cfg: DictConfig) -> Any:
    """The class of the task: it knows family, metric and mode."""
    from hydra.utils import get_object

    from maskwell import build

    build.family(cfg)
    return get_object(cfg.model._target_)
