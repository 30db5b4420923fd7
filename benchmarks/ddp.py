"""Two processes (gloo) train as one with the joined batch: every family, through the whole program.

One process with a batch of 4 against two with 2 each, on the CPU: gradients of the first optimiser steps,
losses, validation metrics, one run folder. BatchNorm is frozen, dropout, noise and augmentation are off, the
states of points are those of validation (drawn per image).

    python -m benchmarks.ddp [--family detr]
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import nn

from benchmarks import families, harness

STEPS = 3
"""Training steps (iterations) that are compared."""


class Capture(Callback):
    """Holds BatchNorm still; keeps the gradients that every optimiser step is made from, and the losses."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.gradients: list[dict[str, torch.Tensor]] = []
        self.losses: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        for part in pl_module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.eval()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        named = [(n, p) for n, p in pl_module.named_parameters() if id(p) in held and p.requires_grad]
        assert all(p.grad is not None for _, p in named), [n for n, p in named if p.grad is None]
        self.gradients.append({name: p.grad.detach().clone() for name, p in named if p.grad is not None})

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        self.losses.append(float(outputs["loss"]))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        content = {"gradients": self.gradients, "losses": self.losses}
        torch.save(content, self.path.with_name(f"{self.path.name}_{trainer.global_rank}.pt"))


def rank(number: int, world: int, port: int, folder: Path, arguments: list[str]) -> None:
    """One process of a training, as Lightning would start it."""
    torch.set_num_threads(1)
    if world > 1:
        place = {"LOCAL_RANK": number, "NODE_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in place.items()})
    from maskwell import app, build, compose, runs

    still_points()
    configured = build.callbacks
    build.callbacks = lambda cfg: [Capture(folder.with_name(f"world_{world}")), *configured(cfg)]
    build.cpu_cores = lambda: world  # two processes fit on one core here
    if number == 0:
        app.train(*compose.compose("train", arguments))
        return
    os.environ[runs.RUN_DIR] = str(folder)
    while not (folder / runs.CONFIG).is_file():
        time.sleep(0.05)
    app.train(runs.load(folder)[0])


def still_points() -> None:
    """States drawn per image instead of per step and rank."""
    from maskwell.models.points.module import Points

    step = Points.step
    Points.step = lambda self, batch, stage: step(self, batch, "val")  # type: ignore[method-assign, assignment]


def train(family: str, world: int, work: Path) -> Path:
    """The run folder of a training in ``world`` processes with 4 images a step."""
    folder = work / f"run_{world}"
    arguments = [
        *families.overrides(family, work / "cells", 4 // world, augment=False),
        *(["model.iterations=3", "model.evaluate_every=3"] if family == "s4gan" else []),
        *([] if family == "s4gan" else [f"trainer.max_steps={STEPS}", "trainer.max_epochs=1"]),
        "trainer.limit_train_batches=3",
        f"trainer.devices={world}",
        f"paths.run_dir={folder}",
        "health=none",
        "data.num_workers=0",
    ]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=rank, args=(number, world, port, folder, arguments)) for number in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError(f"{family}: exit codes {[process.exitcode for process in processes]}")
    return folder


def compare(family: str, work: Path) -> dict[str, float]:
    """Differences between one process and two: of gradients (largest, relative), losses and metrics."""
    families.write_data(work / "cells")
    one, two = train(family, 1, work), train(family, 2, work)
    alone = torch.load(work / "world_1_0.pt", weights_only=True)
    ranks = [torch.load(work / f"world_2_{number}.pt", weights_only=True) for number in range(2)]
    pairs = list(zip(alone["gradients"], *(kept["gradients"] for kept in ranks), strict=True))
    between = max(float((a[n] - b[n]).abs().max()) for _, a, b in pairs for n in a)
    losses = [sum(pair) / 2 for pair in zip(*(kept["losses"] for kept in ranks), strict=True)]
    return {
        "max_abs_diff": max(_difference(a, b) for a, b, _ in pairs[: _first(family)]),
        "gradient_diff_of_ranks": between,
        "loss_diff": max(abs(a - b) / abs(b) for a, b in zip(losses, alone["losses"], strict=True)),
        "metric_diff": _metrics(one, two),
        "run_folders": sum(path.is_dir() and path.name.startswith("run_2") for path in work.iterdir()),
    }


def _first(family: str) -> int:
    """Optimiser steps before rounding has changed the weights: one, of a GAN two."""
    return 2 if family == "s4gan" else 1


def _difference(two: dict[str, torch.Tensor], one: dict[str, torch.Tensor]) -> float:
    """Largest difference of a gradient's entries, over the largest entry of all."""
    assert two.keys() == one.keys()
    largest = max(float(value.abs().max()) for value in one.values())
    return max(float((two[name] - value).abs().max()) for name, value in one.items()) / largest


def _metrics(one: Path, two: Path) -> float:
    """Largest difference of a validation metric, relative above 1 (some are pixels); the same rows logged."""
    first, second = (list(csv.DictReader((f / "metrics.csv").open())) for f in (one, two))
    assert [row["step"] for row in first] == [row["step"] for row in second], "rows differ"
    names = [name for name in first[0] if name.startswith("val/") and "loss" not in name]
    assert names
    pairs = [(a[n], b[n]) for a, b in zip(first, second, strict=True) for n in names if a[n] and b[n]]
    numbers = [(float(a), float(b)) for a, b in pairs if a != b]
    return max((abs(a - b) / max(1.0, abs(b)) for a, b in numbers), default=0.0)


def main() -> None:
    parser = harness.arguments(__doc__ or "")
    parser.add_argument("--family", choices=families.FAMILIES, help="this one alone")
    args: argparse.Namespace = parser.parse_args()
    started = time.monotonic()
    chosen = [args.family] if args.family else ["points"] if args.quick else list(families.FAMILIES)
    figures: dict[str, Any] = {}
    for family in chosen:
        with tempfile.TemporaryDirectory() as work:
            figures[family] = compare(family, Path(work))
    harness.publish(
        args,
        "ddp",
        figures,
        command=harness.command_line("benchmarks.ddp"),
        seeds=[0],
        minutes=(time.monotonic() - started) / 60,
        notes="max_abs_diff: largest difference of a gradient entry over the largest entry, first step.",
    )


if __name__ == "__main__":
    main()
