"""What the framework costs: a whole training step against a bare PyTorch loop on the same network and batch.

The two alternate inside one run: before each of Lightning's steps a twin of the network takes the same step
in a bare loop (loss, backward, clipping, optimiser). Both are timed on the wall; what is left of Lightning's
time are its loop, callbacks, health, logging and the schedule. The same once more with Lightning's loop and
our task alone, without logger and callbacks but clipping: the part of the cost that is not ours to save.
Batches lie in memory; they grow until a bare step takes 50 ms. Then 2,000 steps of one family, for the growth
of memory.

    python -m benchmarks.overhead [--family points]
"""

from __future__ import annotations

import argparse
import gc
import logging
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import torch
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from torch import nn

from benchmarks import families, harness

STEPS, WARM_UP = 100, 5
"""Steps of each kind that are timed, and those before."""

SHORTEST = 0.05
"""Seconds that a bare step must take at least."""

GROWTH_STEPS, SETTLED = 2000, 400
"""Steps over which memory is watched, from the one on that all buffers are filled."""


class Alternating(Callback):
    """Takes a bare step before each of Lightning's; the first callback, so that all others are timed."""

    def __init__(self, twin: Bare) -> None:
        self.bare: list[float] = []
        self.whole: list[float] = []
        self._twin = twin
        self._since: float | None = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, _: int) -> None:
        now = time.perf_counter()
        if self._since is not None:
            self.whole.append(now - self._since)
        state = torch.get_rng_state()
        started = time.perf_counter()
        self._twin.step(batch)
        self.bare.append(time.perf_counter() - started)
        torch.set_rng_state(state)
        self._since = time.perf_counter()

    @property
    def ratios(self) -> list[float]:
        """Lightning's step over the bare one before it."""
        pairs = list(zip(self.whole, self.bare, strict=False))
        return [whole / bare for whole, bare in pairs[WARM_UP:]]


class Bare:
    """A training without a framework, of a task that is built for it alone, with its kinds of optimisers."""

    def __init__(self, task: Any) -> None:
        self.task = task
        parts = (task.generator, task.discriminator) if task.family == "s4gan" else (task,)
        self.parameters = [[p for p in part.parameters() if p.requires_grad] for part in parts]
        first, *others = self.parameters
        self.optimisers: list[torch.optim.Optimizer] = (
            [torch.optim.SGD(first, lr=1e-5, momentum=0.9, weight_decay=1e-4, fused=True)]
            if task.family == "s4gan"
            else [torch.optim.AdamW(first, lr=1e-5, fused=True)]
        )
        self.optimisers += [torch.optim.Adam(found, lr=1e-5, fused=True) for found in others]

    def step(self, batch: Any) -> None:
        """Loss, backward, clipping, optimiser."""
        if self.task.family == "s4gan":
            self._gradients_of_gan(batch)
        else:
            self.task.step(batch, "train").loss.backward()
        for found, optimiser in zip(self.parameters, self.optimisers, strict=True):
            nn.utils.clip_grad_norm_(found, 1.0)
            optimiser.step()
            optimiser.zero_grad()
        if self.task.family == "s4gan":
            self.task.teacher.update(self.task.generator, self.task.iteration)

    def _gradients_of_gan(self, batch: Any) -> None:
        from maskwell.models.s4gan import optimisation

        losses = self.task._losses(batch)
        terms = zip((losses.generator, losses.discriminator), self.parameters, strict=True)
        optimisation.set_gradients([(loss, found) for loss, found in terms if loss is not None])
        self.task.iteration += 1


class InMemory(LightningDataModule):
    """The same few batches again and again."""

    def __init__(self, batches: list[Any], steps: int) -> None:
        super().__init__()
        self.batches, self.steps = batches, steps

    def train_dataloader(self) -> Any:
        return Repeated(self.batches, self.steps)


class Repeated:
    """An iterable with a length, as Lightning takes it for a loader."""

    def __init__(self, batches: list[Any], steps: int) -> None:
        self.batches, self.steps = batches, steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Any]:
        return (self.batches[i % len(self.batches)] for i in range(self.steps))


def prepared(family: str, work: Path, batch_size: int, steps: int, folder: Path) -> tuple[Any, Any, Any]:
    """(configuration, task, batches) of a family."""
    from maskwell import build, compose

    families.write_data(work / "cells", train=64)
    arguments = families.overrides(family, work / "cells", batch_size, augment=True)
    counted = [f"model.iterations={steps}"] if family == "s4gan" else [f"trainer.max_steps={steps}"]
    cfg, _ = compose.compose("train", [*arguments, *counted, f"paths.run_dir={folder}", "data.num_workers=0"])
    torch.manual_seed(0)
    task = build.task(cfg)
    data = build.datamodule(cfg, task)
    loader = data.train_dataloader()
    batches = [batch for batch, _ in zip(_plain(loader), range(4), strict=False)]
    return cfg, task, batches


def _plain(loader: Any) -> Iterator[Any]:
    """Batches of a loader; of Lightning's combined one without its indices."""
    for found in loader:
        yield found[0] if isinstance(found, tuple) else found


def trainer(cfg: Any, task: Any, folder: Path, *first: Callback) -> Trainer:
    """As a run has it, without checkpoints and validation: they are no part of a step."""
    from maskwell import build, checkpoint
    from maskwell.callbacks.interrupt import GracefulInterrupt
    from maskwell.callbacks.shelter import shelter_callback, shelter_logger
    from maskwell.callbacks.step_seed import StepSeed

    cfg.callbacks.checkpoint = None
    cfg.callbacks.adapter_checkpoint = None
    cfg.trainer.limit_val_batches = 0
    configured = map(shelter_callback, build.callbacks(cfg))
    last = GracefulInterrupt(folder / "checkpoints" / "last.ckpt")
    return build.trainer(
        cfg,
        task,
        callbacks=[*first, *configured, StepSeed(cfg.seed), last],
        logger=[shelter_logger(logger) for logger in build.loggers(cfg)],
        plugins=[checkpoint.AtomicCheckpointIO(task.family, "")],
        enable_checkpointing=False,
    )


def ratio(family: str, work: Path, steps: int) -> dict[str, float]:
    """Median of whole over bare steps, also of Lightning's loop alone, and seconds of a bare step."""
    size = batch_size(family, work)
    ours = alternated(family, work, size, steps, whole=True)
    alone = alternated(family, work, size, steps, whole=False)
    return {
        "ratio": statistics.median(ours.ratios),
        "ratio.spread": statistics.stdev(ours.ratios) / len(ours.ratios) ** 0.5,
        "lightning_alone": statistics.median(alone.ratios),
        "bare_s": statistics.median(ours.bare[WARM_UP:]),
        "batch_size": size,
    }


def alternated(family: str, work: Path, size: int, steps: int, whole: bool) -> Alternating:
    """Times of a run in which bare steps alternate with those of a ``whole`` run, or of Lightning alone."""
    folder = work / f"{family}_run"
    cfg, task, batches = prepared(family, work, size, steps + WARM_UP + 1, folder)
    _, twin, _ = prepared(family, work, size, steps, folder)
    alternating = Alternating(Bare(twin))
    fit = trainer(cfg, task, folder, alternating) if whole else lightning_alone(alternating)
    gc.collect()
    fit.fit(task, datamodule=InMemory(batches, steps + WARM_UP + 1))
    return alternating


class Clipping(Callback):
    """Clips as the bare loop does, whoever makes the steps."""

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)


def lightning_alone(alternating: Alternating) -> Trainer:
    """One epoch without logger, bar, checkpoints and validation."""
    return Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_val_batches=0,
        callbacks=[alternating, Clipping()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def batch_size(family: str, work: Path) -> int:
    """The smallest power of two with which a bare step takes long enough."""
    size = 2
    while True:
        _, task, batches = prepared(family, work, size, 9, work / "unused")
        bare = Bare(task)
        bare.step(batches[0])
        seconds = []
        for batch in batches[:3]:
            started = time.perf_counter()
            bare.step(batch)
            seconds.append(time.perf_counter() - started)
        if min(seconds) >= SHORTEST or size >= 32:
            return size
        size *= 2


def growth(family: str, work: Path, steps: int) -> float:
    """MiB by which resident memory grew between the settled run and its end."""

    held: dict[int, int] = {}

    class Memory(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            if pl_module.iteration in (steps * SETTLED // GROWTH_STEPS, steps):
                gc.collect()
                held[pl_module.iteration] = psutil.Process().memory_info().rss

    folder = work / "growth_run"
    cfg, task, batches = prepared(family, work, 2, steps, folder)
    trainer(cfg, task, folder, Memory()).fit(task, datamodule=InMemory(batches, steps))
    first, last = (held[step] for step in sorted(held))
    return (last - first) / 2**20


def main() -> None:
    parser = harness.arguments(__doc__ or "")
    parser.add_argument("--family", choices=families.FAMILIES, help="this one alone")
    args: argparse.Namespace = parser.parse_args()
    started = time.monotonic()
    harness.use_cores(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    chosen = [args.family] if args.family else ["points"] if args.quick else list(families.FAMILIES)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for family in chosen:
            figures[family] = ratio(family, Path(scratch), 10 if args.quick else STEPS)
        figures["memory_growth_mib"] = growth("points", Path(scratch), 60 if args.quick else GROWTH_STEPS)
    harness.publish(
        args,
        "overhead",
        figures,
        command=harness.command_line("benchmarks.overhead"),
        seeds=[0],
        minutes=(time.monotonic() - started) / 60,
        notes="ratio: a whole step over a bare one, medians of pairs, one core; lightning_alone: the same "
        "without loggers and callbacks but clipping; memory_growth_mib: points.",
    )


if __name__ == "__main__":
    main()
