"""One start of the program: a new run in a new folder, or a run that goes on."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from maskwell import build, checkpoint, runs
from maskwell.callbacks import csv_logger
from maskwell.errors import UserError
from maskwell.sweep import trial_process


@dataclass(frozen=True)
class Resumed:
    """Where a run goes on: ``path`` of the checkpoint, its ``iteration`` and its last log ``step``."""

    path: Path
    iteration: int
    step: int


@dataclass(frozen=True)
class Session:
    """``cfg`` final, with ``paths.run_dir`` set, composed from ``origin``; ``folder`` of the run, ``made``
    by this start or not; ``resumed`` where it goes on.
    """

    cfg: DictConfig
    origin: runs.Origin
    folder: Path
    made: bool
    resumed: Resumed | None = None

    @property
    def resolved(self) -> str:
        """The configuration without interpolations, as YAML."""
        return OmegaConf.to_yaml(self.cfg, resolve=True)


def start(cfg: DictConfig, origin: runs.Origin) -> Session:
    """Make the run folder, or find the run that ``ckpt_path`` names; nothing in it is changed yet.

    Where ``ckpt_path`` and ``paths.run_dir`` name the same folder, the run goes on if it has a checkpoint
    and starts anew if it has none: a command that a queue can repeat. In the processes that the first rank
    starts, the folder it chose.
    """
    if (folder := runs.joined()) is not None:
        stored, before = runs.load(folder)
        goes_on = resumed(Path(stored.ckpt_path)) if stored.ckpt_path else None
        return Session(stored, before, folder, False, goes_on)
    if cfg.ckpt_path and cfg.init_from:
        raise UserError(
            "ckpt_path= resumes a run and init_from= starts a new one from weights: give one of them."
        )
    if _not_begun(cfg):
        cfg.ckpt_path = None
        if runs.is_first():  # what the first attempt left: it starts anew
            for name in (runs.CONFIG, "metrics.csv"):
                (Path(cfg.paths.run_dir) / name).unlink(missing_ok=True)
    session = _resume(cfg, origin) if cfg.ckpt_path else _new(cfg, origin)
    os.environ[runs.RUN_DIR] = str(session.folder)
    return session


def begin(run: Session) -> None:
    """Write the configuration into the folder and cut the log, once it is sure that training can start."""
    if not runs.is_first():
        return
    checkpoint.tidy(run.folder / "checkpoints")
    note = ""
    if run.resumed is not None:
        note = f"{datetime.now().isoformat(timespec='seconds')}: resumed from {run.resumed.path}"
        print(f"resuming from {run.resumed.path} (iteration {run.resumed.iteration})")
        if run.origin.overrides:
            print(f"overrides on top: {' '.join(run.origin.overrides)}")
        if cut := csv_logger.cut(run.folder / "metrics.csv", run.resumed.step):
            print(f"{cut} rows after the checkpoint were cut from metrics.csv")
    runs.save(run.folder, run.cfg, run.origin, note)
    print(f"run folder: {run.folder}")


def discard(run: Session) -> None:
    """Remove the folder that was made for a run which bad input ended before anything was trained."""
    if run.made and runs.is_first() and not (run.folder / "checkpoints").exists():
        shutil.rmtree(run.folder, ignore_errors=True)


def finish() -> None:
    """Forget folder, ranks and W&B run of this training, so that a multirun's next job starts afresh."""
    if "wandb" in sys.modules:  # it would go on with the run that is open
        sys.modules["wandb"].finish()
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
        for name in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            os.environ.pop(name, None)
    os.environ.pop(runs.RUN_DIR, None)


def _not_begun(cfg: DictConfig) -> bool:
    """Whether the run is to go on in its own folder, but was never saved there."""
    if not cfg.ckpt_path or not cfg.paths.run_dir or Path(cfg.ckpt_path) != Path(cfg.paths.run_dir):
        return False
    return not (Path(cfg.ckpt_path) / "checkpoints" / "last.ckpt").is_file()


def _new(cfg: DictConfig, origin: runs.Origin) -> Session:
    made = cfg.paths.run_dir is None or not Path(cfg.paths.run_dir).exists()
    folder = _folder(cfg)
    cfg.paths.run_dir = str(folder)
    _group(cfg, folder)
    return Session(cfg, origin, folder, made)


def _group(cfg: DictConfig, folder: Path) -> None:
    """Write down which group of W&B the run belongs to, so that it stays in it when it goes on alone."""
    entry = cfg.logger.get("wandb")
    if entry is None or entry.get("group"):
        return
    running = HydraConfig.get() if HydraConfig.initialized() else None
    if trial_process.is_trial(folder):
        entry.group = folder.parent.name
    elif running is not None and running.mode == RunMode.MULTIRUN:
        entry.group = Path(running.sweep.dir).name


def _folder(cfg: DictConfig) -> Path:
    if cfg.paths.run_dir is None:
        if runs.launched() is not None:
            raise UserError(
                "These processes were started by a launcher: give paths.run_dir=, so that they share it."
            )
        return runs.create(Path(cfg.paths.runs), build.family(cfg), datetime.now())
    folder = Path(cfg.paths.run_dir)
    if (folder / runs.CONFIG).exists() and runs.is_first():
        raise UserError(
            f"paths.run_dir={folder} holds a run already; ckpt_path={folder} would go on with it."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"paths.run_dir={folder} cannot be made ({error}).") from error
    return folder


def _resume(cfg: DictConfig, origin: runs.Origin) -> Session:
    path = runs.find_checkpoint(cfg.ckpt_path, Path(cfg.paths.runs), build.family(cfg))
    header = checkpoint.read(path)[checkpoint.HEADER]
    folder = runs.folder_of(path)
    made = folder is None
    if folder is None:
        folder = runs.create(Path(cfg.paths.runs), header["family"], datetime.now())
        stored, before = runs.moved(header["config"], folder), runs.Origin()
    else:
        stored, before = runs.load(folder)
    merged, applied = runs.on_top(stored, before, cfg, origin)
    merged.ckpt_path, merged.init_from, merged.paths.run_dir = str(path), None, str(folder)
    return Session(merged, runs.Origin(tuple(applied)), folder, made, resumed(path, build.family(merged)))


def resumed(path: Path, family: str | None = None) -> Resumed:
    """Where a training goes on from ``path``.

    Raises:
        UserError: as :func:`maskwell.checkpoint.read`, and where it holds no training.
    """
    content = checkpoint.read(path, family)
    try:
        step = content["loops"]["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"]
        return Resumed(path, int(content["iteration"]), int(step))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{path} holds no training to go on with; init_from= takes its weights.") from error
