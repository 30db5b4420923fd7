"""One training, recorded: what the monitor was told, how it ended and what it cost."""

from __future__ import annotations

import gc
import logging
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning
from lightning import Callback, LightningModule, Trainer

from benchmarks.health.catalogue import Family
from benchmarks.health.injection import Put
from benchmarks.health.miniature import command
from benchmarks.health.tape import Tape
from maskwell import build, compose
from maskwell.callbacks import faults
from maskwell.callbacks.clock import iteration
from maskwell.callbacks.monitor.recovery import fit_with_recovery
from maskwell.callbacks.step_seed import StepSeed
from maskwell.health.signals import METRIC

TAPE, CHECKPOINT = "tape.npz", "stopped.ckpt"


@dataclass(frozen=True)
class Training:
    """What is to be trained.

    ``put``: (callback, severity, start); ``resume_at``: step of a stop, or 0; ``recovers``: with the
    monitor's own rules, going back to healthy checkpoints where they say so: nothing is taped.
    """

    family: Family
    seed: int
    steps: int
    images: int
    evaluate_every: int
    overrides: tuple[str, ...] = ()
    put: tuple[tuple[Put, float, int], ...] = ()
    resume_at: int = 0
    ranks: int = 1
    recovers: bool = False

    def key(self) -> dict[str, Any]:
        """Plain values that tell it from others."""
        put = [f"{p.kind}({severity:g}, {start}, {dict(p.given)})" for p, severity, start in self.put]
        return {
            "family": self.family,
            "seed": self.seed,
            "steps": self.steps,
            "images": self.images,
            "evaluate_every": self.evaluate_every,
            "overrides": list(self.overrides),
            "put": put,
            "resume_at": self.resume_at,
            "ranks": self.ranks,
            "recovers": self.recovers,
        }


@dataclass
class Recorded:
    """``onset``: the first step in which a fault acted; ``metrics``: those of the last evaluation;
    ``monitor``: the name of the metric that counts; ``seconds`` of processor time; ``returns`` to
    healthy checkpoints.
    """

    tape: Tape
    steps: int = 0
    onset: int | None = None
    monitor: str = ""
    mode: str = "max"
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    ended: str = ""
    returns: int = 0

    def result(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "steps": self.steps,
            "onset": self.onset,
            "monitor": self.monitor,
            "mode": self.mode,
            "metrics": dict(self.metrics),
            "seconds": round(self.seconds, 2),
            "ended": self.ended,
            "returns": self.returns,
            "evaluations": evaluations(self.tape),
        }


def evaluations(tape: Tape) -> list[int]:
    """The steps of the evaluations on a tape."""
    return sorted({int(step) for name in tape.under(METRIC) for step in tape.series(name)[0]})


def record(training: Training) -> Recorded:
    """Train, with a monitor that has no rules, and keep what it was told.

    A training that a fault ends is as good as any other: how it ended is noted.
    """
    quiet()
    made = Recorded(Tape())
    started = time.process_time()
    with TemporaryDirectory() as name, redirect_stdout(StringIO()):
        folder = Path(name)
        if training.resume_at:
            _fit(training, folder, made, until=training.resume_at)
        if not made.ended:
            _fit(training, folder, made, put=training.put, resume=bool(training.resume_at))
        if training.ranks > 1 and (folder / TAPE).is_file():  # it was filled in another process
            made.tape, made.steps = Tape.load(folder / TAPE), training.steps
            made.onset = max((start + 1 for _, _, start in training.put), default=None)
    made.seconds = time.process_time() - started
    gc.collect()
    return made


def quiet() -> None:
    """Leave out what libraries print about themselves."""
    for name in ("lightning.pytorch", "lightning.fabric", "peft"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")


class End(Callback):
    """Stops a run behind the step ``until`` with a checkpoint; keeps the tape of several processes."""

    def __init__(self, tape: Tape, folder: Path, until: int | None) -> None:
        super().__init__()
        self.tape, self.folder, self.until = tape, folder, until

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if self.until is not None and iteration(trainer, pl_module) >= self.until:
            trainer.save_checkpoint(self.folder / CHECKPOINT)
            trainer.should_stop = True

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1 and trainer.is_global_zero:
            self.tape.save(self.folder / TAPE)


def _fit(
    training: Training,
    folder: Path,
    made: Recorded,
    *,
    put: Sequence[tuple[Put, float, int]] = (),
    until: int | None = None,
    resume: bool = False,
) -> None:
    """Train to the end or up to a step, from the start or from where the run was stopped."""
    cfg, _ = compose.compose("train", _overrides(training, folder))
    lightning.seed_everything(training.seed, workers=True, verbose=False)
    task = build.task(cfg)
    data = build.datamodule(cfg, task)
    configured: Sequence[Any] = build.callbacks(cfg)
    for callback in configured:
        if hasattr(callback, "engine") and not training.recovers:
            made.tape.listen(callback.engine)
    added = [_callback(*entry, training.seed) for entry in put]
    trainer = build.trainer(
        cfg,
        task,
        callbacks=[*added, *configured, StepSeed(training.seed), End(made.tape, folder, until)],
        logger=False,
        enable_checkpointing=False,
    )
    path = str(folder / CHECKPOINT) if resume else None
    fit = fit_with_recovery if training.recovers else Trainer.fit
    try:
        fit(trainer, task, datamodule=data, ckpt_path=path, weights_only=True)
    except Exception as error:  # whatever a fault does to the training is a result
        made.ended = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    made.steps, made.monitor, made.mode = int(task.iteration), task.monitor, task.mode
    made.metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
    made.returns = sum(len(c.recovery.returns) for c in configured if getattr(c, "recovery", None))
    made.onset = next((p.onset for p in added if p.onset is not None), 1 if training.overrides else None)


def _overrides(training: Training, folder: Path) -> list[str]:
    more = [*training.overrides, f"paths.run_dir={folder}"]
    if training.ranks > 1:
        more += [f"trainer.devices={training.ranks}", "trainer.strategy=ddp_fork"]
    if training.recovers:
        more += ["health.recovery.most=3", "health.recovery.every=50", "health.recovery.clean=50"]
    return command(
        training.family, training.seed, training.steps, training.images, training.evaluate_every, more
    )


def _callback(put: Put, severity: float, start: int, seed: int) -> Any:
    return getattr(faults, put.kind)(severity=severity, start=start, seed=seed, **put.given)
