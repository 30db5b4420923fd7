"""Weights & Biases: offline where no key is set, one W&B run per run folder."""

from __future__ import annotations

import netrc
import os
import secrets
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import wandb
from lightning.pytorch.loggers import WandbLogger as LightningWandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import OmegaConf

from maskwell import runs
from maskwell.errors import warn

CONNECT_SECONDS, FINISH_SECONDS = 60.0, 300.0
"""How long the server may take to answer at the start, and to take the rest at the end."""


class WandbLogger(LightningWandbLogger):
    """Lightning's WandbLogger that needs no account and goes on with the same W&B run after a resume.

    Args:
        folder: of the run; W&B writes below ``<folder>/wandb`` and the id is kept in ``wandb_id.txt``.
        project: in W&B.
        entity: team or user; None takes the account's default.
        name: shown in W&B; None takes the folder's name.
        group: of runs that belong together; None: of a search or a multirun what its runs share, else
            ``WANDB_RUN_GROUP`` or none.
        offline: None decides by whether a key is set. ``wandb sync`` uploads an offline run later.
    """

    def __init__(
        self,
        folder: str,
        project: str = "maskwell",
        entity: str | None = None,
        name: str | None = None,
        group: str | None = None,
        offline: bool | None = None,
    ) -> None:
        decided = not has_key() if offline is None else offline
        super().__init__(
            name=name or Path(folder).name,
            save_dir=folder,
            id=run_id(Path(folder)),
            project=project,
            entity=entity,
            group=group,
            offline=decided,
            resume="allow",
            log_model=False,
            settings=wandb.Settings(init_timeout=CONNECT_SECONDS, finish_timeout=FINISH_SECONDS),
        )
        self._folder = Path(folder)
        self._step = 0
        if decided and offline is None:
            _say(f"wandb: no key is set, the run stays offline; upload: {upload(self._folder)}")

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run with the configuration of the folder; an offline one where no server answers."""
        known = self._experiment is not None
        run = self._open()
        if not known and (self._folder / runs.CONFIG).is_file():
            config = OmegaConf.to_container(runs.load(self._folder)[0], resolve=True)
            run.config.update(config, allow_val_change=True)  # a run that goes on may have other values
        return run

    def _open(self) -> Any:
        try:
            return super().experiment
        except wandb.Error as error:
            if self._offline:
                raise
            warn(f"W&B does not answer ({' '.join(str(error).split())}); the run is logged offline")
            wandb.teardown()  # its background process holds on to the run
            self._offline = True
            self._wandb_init |= {"mode": "offline", "resume": None}
            return super().experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Always with a step: W&B would count its own calls otherwise."""
        self._step = self._step if step is None else step
        super().log_metrics(dict(metrics), self._step)


def has_key() -> bool:
    """Whether a key is in the environment or in the netrc file to which ``wandb login`` writes."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    for path in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        if path and Path(path).expanduser().is_file():
            try:
                return netrc.netrc(Path(path).expanduser()).authenticators(host) is not None
            except netrc.NetrcParseError:
                return False
    return False


def upload(folder: Path) -> str:
    """The command that uploads the offline run of ``folder``, with all its starts."""
    return f"wandb sync {shlex.quote(str(folder / 'wandb'))}/offline-run-*"


def run_id(folder: Path) -> str:
    """The W&B id of the run in ``folder``: made once, read again when the run is resumed."""
    path = folder / "wandb_id.txt"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{secrets.token_hex(4)}\n", encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()


@rank_zero_only
def _say(text: Any) -> None:
    print(text)
