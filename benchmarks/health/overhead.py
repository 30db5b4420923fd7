"""What the monitor costs: a network's training with it and without it, in turns."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median, quantiles
from threading import Semaphore
from typing import Any

import lightning
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from maskwell.callbacks.loss_health import LossHealth

WARM, STEPS = 296, 512
"""Steps before the measurement, with preflight and what is looked at in the first 256 alone, and steps that
are measured: as many as the monitor's longest round has.
"""
BLOCK = 8
"""Steps between two turns: the monitor reads its buffers once in as many."""
EPOCH = 128
"""Steps of an epoch."""
MILLISECONDS = (50, 10)
"""How long a step takes, more or less."""


class Network(LightningModule):
    """A classifier of noise."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for width in (16, 32, 32, 64):
            layers += [nn.LazyConv2d(width, 3, stride=2, padding=1), nn.ReLU()]
        self.net = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(10))
        self.net(torch.zeros(1, 3, 32, 32))

    def fitting(self, milliseconds: float) -> int:
        """How many images take about that long, forward and backward."""
        for size in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512):
            images = torch.randn(size, 3, 32, 32)
            self.net(images).sum().backward()
            begun = time.process_time()
            for _ in range(3):
                self.net(images).sum().backward()
            if (time.process_time() - begun) / 3 >= milliseconds / 1000:
                break
        return size

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.01)


class Turn(Callback):
    """Lets one of two trainings work at a time, :data:`BLOCK` steps each; ``seconds`` of its own blocks."""

    def __init__(self, mine: Semaphore, other: Semaphore) -> None:
        super().__init__()
        self.mine, self.other = mine, other
        self.begun: float | None = None
        self.seconds: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step % BLOCK:
            return
        if self.begun is not None:
            self.seconds.append(time.thread_time() - self.begun)
            self.other.release()
        self.mine.acquire()
        self.begun = time.thread_time()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.other.release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.other.release()


def measure(milliseconds: float, turns: int, folder: str) -> dict[str, float]:
    """What the monitor adds to a step: median over pairs of blocks, its quartiles, and ms of a step without.

    Two trainings that differ in nothing else take turns every :data:`BLOCK` steps, so that a slow moment
    of the machine hits both.
    """
    size = Network().fitting(milliseconds)
    pairs: list[tuple[float, float]] = []
    for _ in range(turns):
        first, second = Semaphore(1), Semaphore(0)
        with_it, without = Turn(first, second), Turn(second, first)
        with ThreadPoolExecutor(2) as pool:
            runs = [
                pool.submit(_train, size, folder, [LossHealth(), with_it]),
                pool.submit(_train, size, folder, [without]),
            ]
        for run in runs:
            run.result()
        pairs += list(zip(with_it.seconds, without.seconds, strict=True))[WARM // BLOCK :]
    low, middle, high = quantiles([a / b - 1 for a, b in pairs], n=4)
    plain = 1000 * median(b for _, b in pairs) / BLOCK
    return {"share": middle, "share.q1": low, "share.q3": high, "ms": plain}


def _train(size: int, folder: str, callbacks: list[Callback]) -> None:
    torch.set_num_threads(1)  # a thread has its own setting
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(
        torch.randn(size * EPOCH, 3, 32, 32, generator=generator),
        torch.randint(0, 10, (size * EPOCH,), generator=generator),
    )
    trainer = lightning.Trainer(
        callbacks=callbacks,
        max_steps=WARM + STEPS,
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(Network(), DataLoader(data, batch_size=size))
