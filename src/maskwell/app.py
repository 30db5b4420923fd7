"""The verbs as plain functions over the composed configuration."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shlex
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import lightning
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerStatus
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig

from maskwell import build, checkpoint, plan, restore, results, run_report, runs, session
from maskwell.callbacks import csv_logger
from maskwell.callbacks.interrupt import GracefulInterrupt, leaving_on_request
from maskwell.callbacks.loss_health import LossHealth
from maskwell.callbacks.monitor.recovery import fit_with_recovery
from maskwell.callbacks.shelter import shelter_callback, shelter_logger
from maskwell.callbacks.step_seed import StepSeed
from maskwell.data import checks
from maskwell.data.layouts import Layout
from maskwell.diagnosis import diagnose as diagnose
from maskwell.errors import TRY_AGAIN, UserError
from maskwell.evaluation import evaluate as evaluate
from maskwell.prediction import predict as predict

if TYPE_CHECKING:
    from lightning import Trainer

    from maskwell.data.datamodule import DataModule
    from maskwell.data.source import Split
    from maskwell.models.base import BaseTask


def train(cfg: DictConfig, origin: runs.Origin | None = None) -> float | None:
    """Train; score the model before and after on the test split; report.

    Returns:
        The last value of the metric that the family monitors: what a search works on.

    Raises:
        UserError: bad input; a run folder made for it is removed again.
        SystemExit: the run was stopped, by Ctrl-C (130) or a signal of a queue (75), after its checkpoint was
            written.
    """
    _quiet()
    _refuse_shared_process(cfg)
    if cfg.plan:
        plan.show(plan.measure(cfg))
        return None
    with leaving_on_request():
        run = session.start(cfg, origin or runs.Origin())
        try:
            score = _train(run)
        except UserError:  # nothing was changed
            session.discard(run)
            raise
        except BaseException:
            run_report.write(run)
            raise
        else:
            run_report.write(run)
            return score
        finally:
            session.finish()


def _train(run: session.Session) -> float | None:
    cfg = run.cfg
    lightning.seed_everything(cfg.seed, workers=True, verbose=False)
    task = build.task(cfg)
    _check_overrides(task, run.origin)
    data = build.datamodule(cfg, task)
    _load_weights(task, run)
    build.bind_data(data, task)  # a detector's weights bring the normalisation that they were trained with
    trainer = _trainer(run, task)
    session.begin(run)
    if runs.is_first():
        _check_data(data, run.folder)
    if cfg.evaluate_base and cfg.test and run.resumed is None:
        _evaluate(trainer, task, data, run, "base")
    started = time.monotonic()
    _fit(trainer, task, data, run)
    if run.resumed and task.iteration == run.resumed.iteration and trainer.is_global_zero:
        longer = "trainer.max_epochs=... or trainer.max_steps=..."
        if task.iterations is not None:
            longer = f"a model.iterations above {task.iteration}"
        print(f"nothing was left to train; {longer} lets it go on")
    score = trainer.callback_metrics.get(task.monitor)
    best = _best(run)
    if cfg.test:
        _evaluate(trainer, task, data, run, "trained", best)
    if trainer.is_global_zero:
        minutes = (time.monotonic() - started) / 60
        content = results.update(
            run.folder, checkpoint=best, iteration=task.iteration, minutes=round(minutes, 3)
        )
        results.show(content, run.folder)
    return None if score is None else float(score)


def _refuse_shared_process(cfg: DictConfig) -> None:
    """Jobs of a multirun in one process cannot be trusted to give each of several devices the same values."""
    running = HydraConfig.get() if HydraConfig.initialized() else None
    if running is None or running.mode != RunMode.MULTIRUN or runs.joined() is not None:
        return
    launcher = str(running.launcher.get("_target_", ""))
    if (launcher.startswith("hydra._internal") or "joblib" in launcher) and build.processes(cfg) > 1:
        asked = shlex.join(a for a in sys.argv[1:] if a not in ("-m", "--multirun"))
        raise UserError(
            "-m trains all values in one process, which cannot start several devices for each; a search "
            f"does: python -m maskwell.sweep {asked}"
        )


def _check_overrides(task: BaseTask, origin: runs.Origin) -> None:
    """Refuse what is said of an optimiser that the family does not use."""
    given = [o for o in origin.overrides if re.match(r"[+~]*optim(\.|=|$)", o)]
    if task.own_rates and given:
        raise UserError(
            f"{given[0]}: model={task.family} does not use the group optim; its optimisers are set by "
            f"{task.own_rates}."
        )


def _check_data(data: DataModule, folder: Path) -> None:
    """Print the errors and warnings of the fast data checks; keep the lists of the splits.

    Generated data has neither a folder to check nor lists.
    """
    layout = getattr(data.source, "layout", None)
    if isinstance(layout, Layout):
        told = {"point-shared"} if data.pointwise else set()
        findings = checks.check_layout(layout, fast=True)
        found = [f for f in findings if f.severity != "info" or f.code in told]
        for finding in found:
            print(f"data {finding.severity}: {finding.message} ({finding.code}, {finding.count} times)")
        if found:
            print(f"examples: python -m maskwell.data.checks {layout.root}")
    if lists := data.split_lists():
        path = folder / "splits.json"
        if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != lists:
            print(
                f"warning: the images of the splits are no longer those of {path}; this resume is not exact"
            )
        path.write_text(json.dumps(lists, indent=1) + "\n", encoding="utf-8")


def _trainer(run: session.Session, task: BaseTask) -> Trainer:
    """The Trainer with the configured callbacks and those that every run has."""
    configured = build.callbacks(run.cfg)
    last = run.folder / "checkpoints" / "last.ckpt"
    return build.trainer(
        run.cfg,
        task,
        callbacks=[*map(shelter_callback, configured), StepSeed(run.cfg.seed), GracefulInterrupt(last)],
        logger=[shelter_logger(logger) for logger in build.loggers(run.cfg)] or False,
        plugins=[checkpoint.AtomicCheckpointIO(task.family, run.resolved)],
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in configured),
    )


def _load_weights(task: BaseTask, run: session.Session) -> None:
    """Weights of another run to start from; of this one, to see that they fit before anything is changed."""
    if run.resumed is not None:
        restore.load_weights(task, checkpoint.read(run.resumed.path, task.family), run.resumed.path)
    elif run.cfg.init_from:
        path = restore.find(run.cfg.init_from, Path(run.cfg.paths.runs), task.family)
        restore.load_weights(task, task.adopt(checkpoint.read(path, task.family)), path)
        task.reset_progress()


def _fit(trainer: Trainer, task: BaseTask, data: DataModule, run: session.Session) -> None:
    resume = str(run.resumed.path) if run.resumed else None
    try:
        if _recovers(trainer):
            fit_with_recovery(
                trainer, task, ckpt_path=resume, on_return=_cut_log(run), datamodule=data, weights_only=True
            )
        else:
            trainer.fit(task, datamodule=data, ckpt_path=resume, weights_only=True)
    except MisconfigurationException as error:
        raise UserError(" ".join(str(error).split())) from error
    except SystemExit as stopped:
        if trainer.state.status != TrainerStatus.INTERRUPTED:
            raise
        if trainer.is_global_zero:
            _say_stopped(task, run)
        interrupt = next(c for c in trainer.callbacks if isinstance(c, GracefulInterrupt))  # type: ignore[attr-defined]
        early = stopped.code == TRY_AGAIN  # a signal between the preparations and the first batch
        raise SystemExit(TRY_AGAIN if early else interrupt.exit_code) from stopped


def _say_stopped(task: BaseTask, run: session.Session) -> None:
    """Where the run goes on; nothing where nobody listens any more."""
    last = run.folder / "checkpoints" / "last.ckpt"
    with contextlib.suppress(OSError):
        if last.is_file():
            print(f"stopped after iteration {task.iteration}; checkpoint: {last}")
            print(f"go on with: python train.py ckpt_path={run.folder}", flush=True)
        else:
            print(f"stopped after iteration {task.iteration}, before the first checkpoint.", flush=True)


def _recovers(trainer: Trainer) -> bool:
    """Whether the monitor may go back to a healthy checkpoint (health.recovery.most)."""
    monitors = [c for c in trainer.callbacks if isinstance(c, LossHealth)]  # type: ignore[attr-defined]
    return any(m.recovery is not None and m.recovery.most for m in monitors)


def _cut_log(run: session.Session) -> Callable[[Path], None]:
    """What follows a checkpoint in metrics.csv will be logged again."""

    def cut(path: Path) -> None:
        if runs.is_first():
            content = checkpoint.read(path)
            step = content["loops"]["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"]
            csv_logger.cut(run.folder / "metrics.csv", int(step))

    return cut


def _best(run: session.Session) -> str | None:
    """The best checkpoint, else the last; None where none was written."""
    written = [run.folder / "checkpoints" / f"{name}.ckpt" for name in ("best", "last")]
    return next((str(path) for path in written if path.is_file()), None)


def _evaluate(
    trainer: Trainer,
    task: BaseTask,
    data: DataModule,
    run: session.Session,
    column: str,
    ckpt_path: str | None = None,
) -> None:
    """Score on the test split (on val where the data has no test split) into a column of the results."""
    split: Split = "test" if data.source.size("test") else "val"
    images = data.source.size(split)
    run_split = trainer.test if split == "test" else trainer.validate
    scored = run_split(task, datamodule=data, ckpt_path=ckpt_path, verbose=False, weights_only=True)
    if trainer.is_global_zero and scored:
        figures = results.plain(scored[0], split)
        labels = {"trained": task.trained_label}
        results.update(run.folder, split=split, images=images, labels=labels, **{column: figures})


def _quiet() -> None:
    """Leave out what Lightning prints about itself, and warnings whose cause is dealt with here."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # 0 workers is the default on purpose: small machines
        ".*your dataloader is not resumable.*",  # the sampler goes on where the trainer stands
        ".*Checkpoint directory .* exists and is not empty.*",  # a run that goes on
        ".*It is recommended to use .self.log.*sync_dist=True.*",  # the same on all ranks, or reduced already
        ".*LeafSpec.*",
        ".*is_gradient_checkpointing.*",
        ".*Unable to fetch remote file.*",  # peft looks for the base on the Hub; a local one is not there
        ".*Could not find a config file in.*",
        ".*Found .* module.s. in eval mode.*",
    ):
        warnings.filterwarnings("ignore", message)
