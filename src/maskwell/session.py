"""One start of the program: a new run in a new folder, or a run that goes on."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from maskwell import build, checkpoint, runs
from maskwell.callbacks import csv_logger
from maskwell.errors import UserError


@dataclass(frozen=True)
class Session:
    """``cfg`` final, with ``paths.run_dir`` set; ``folder`` of the run, ``made`` by this start or not;
    ``checkpoint`` to resume from.
    """

    cfg: DictConfig
    folder: Path
    made: bool
    checkpoint: Path | None = None

    @property
    def resolved(self) -> str:
        """The configuration without interpolations, as YAML."""
        return OmegaConf.to_yaml(self.cfg, resolve=True)


def start(cfg: DictConfig, origin: runs.Origin) -> Session:
    """Make the run folder, or find the run that ``ckpt_path`` names and cut what came after its checkpoint.

    In the processes that the first rank starts, the folder it chose.
    """
    if (folder := runs.joined()) is not None:
        stored, _ = runs.load(folder)
        return Session(stored, folder, False, Path(stored.ckpt_path) if stored.ckpt_path else None)
    if cfg.ckpt_path and cfg.init_from:
        raise UserError(
            "ckpt_path= resumes a run and init_from= starts a new one from weights: give one of them."
        )
    session = _resume(cfg, origin) if cfg.ckpt_path else _new(cfg, origin)
    os.environ[runs.RUN_DIR] = str(session.folder)
    return session


def discard(run: Session) -> None:
    """Remove the folder that was made for a run which bad input ended before anything was trained."""
    if run.made and not (run.folder / "checkpoints").exists():
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


def _new(cfg: DictConfig, origin: runs.Origin) -> Session:
    made = cfg.paths.run_dir is None or not Path(cfg.paths.run_dir).exists()
    folder = _folder(cfg)
    cfg.paths.run_dir = str(folder)
    runs.save(folder, cfg, origin)
    print(f"run folder: {folder}")
    return Session(cfg, folder, made)


def _folder(cfg: DictConfig) -> Path:
    if cfg.paths.run_dir is None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError(
                "These processes were started by a launcher: give paths.run_dir=, so that they share it."
            )
        return runs.create(Path(cfg.paths.runs), build.family(cfg), datetime.now())
    folder = Path(cfg.paths.run_dir)
    if (folder / runs.CONFIG).exists() and int(os.environ.get("RANK", "0")) == 0:
        raise UserError(
            f"paths.run_dir={folder} holds a run already; ckpt_path={folder} would go on with it."
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _resume(cfg: DictConfig, origin: runs.Origin) -> Session:
    path = runs.find_checkpoint(cfg.ckpt_path, Path(cfg.paths.runs), build.family(cfg))
    content = checkpoint.read(path)
    folder = runs.folder_of(path)
    made = folder is None
    if folder is None:
        folder = runs.create(Path(cfg.paths.runs), content[checkpoint.HEADER]["family"], datetime.now())
        stored, before = runs.moved(content[checkpoint.HEADER]["config"], folder), runs.Origin()
    else:
        stored, before = runs.load(folder)
    merged, applied = runs.on_top(stored, before, cfg, origin)
    merged.ckpt_path, merged.init_from, merged.paths.run_dir = str(path), None, str(folder)
    checkpoint.check_family(content, build.family(merged), path)
    cut = csv_logger.cut(folder / "metrics.csv", _batches(content))
    now = datetime.now().isoformat(timespec="seconds")
    runs.save(folder, merged, runs.Origin(tuple(applied)), f"{now}: resumed from {path}")
    print(f"run folder: {folder}\nresuming from {path} (iteration {content.get('iteration', '?')})")
    if applied:
        print(f"overrides on top: {' '.join(applied)}")
    if cut:
        print(f"{cut} rows after the checkpoint were cut from metrics.csv")
    return Session(merged, folder, made, path)


def _batches(content: dict[str, Any]) -> int:
    """The log step of the last batch that the checkpoint has seen."""
    return int(content["loops"]["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"])
