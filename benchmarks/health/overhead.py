"""What the monitor costs: a network's training with it and without it, in turns."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import lightning
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from maskwell.callbacks.loss_health import LossHealth

WARM, STEPS = 40, 200
"""Steps before the measurement, preflight among them, and steps that are measured."""
MILLISECONDS = (50, 10)
"""How long a step takes, more or less."""


class Network(LightningModule):
    """A classifier of noise whose step takes about ``milliseconds``; the batch's size decides."""

    def __init__(self, milliseconds: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for width in (16, 32, 32, 64):
            layers += [nn.LazyConv2d(width, 3, stride=2, padding=1), nn.ReLU()]
        self.net = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(10))
        self.net(torch.zeros(1, 3, 32, 32))
        self.batch_size = self._fitting(milliseconds)

    def _fitting(self, milliseconds: float) -> int:
        """Images whose forward and backward pass take that long."""
        for size in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512):
            images = torch.randn(size, 3, 32, 32)
            self.net(images).sum().backward()
            begun = time.process_time()
            for _ in range(3):
                self.net(images).sum().backward()
            if (time.process_time() - begun) / 3 >= milliseconds / 1000:
                break
        self.zero_grad()
        return size

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.01)


class Stopwatch(Callback):
    """Processor seconds of the steps behind :data:`WARM`."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = self.seconds = 0.0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == WARM:
            self.begun = time.process_time()
        if trainer.global_step == WARM + STEPS:
            self.seconds = time.process_time() - self.begun


def measure(milliseconds: float, turns: int, folder: str) -> dict[str, float]:
    """Median over the turns of (seconds with - without) / without, and milliseconds of a step without."""
    ratios, plain = [], []
    for _ in range(turns):
        with_it, without = (_seconds(milliseconds, folder, monitor) for monitor in (True, False))
        ratios.append(with_it / without - 1)
        plain.append(1000 * without / STEPS)
    return {"share": median(ratios), "share.low": min(ratios), "share.high": max(ratios), "ms": median(plain)}


def _seconds(milliseconds: float, folder: str, monitor: bool) -> float:
    network, watch = Network(milliseconds), Stopwatch()
    generator = torch.Generator().manual_seed(0)
    count = network.batch_size * 16
    data = TensorDataset(
        torch.randn(count, 3, 32, 32, generator=generator),
        torch.randint(0, 10, (count,), generator=generator),
    )
    trainer = lightning.Trainer(
        callbacks=[*([LossHealth()] if monitor else []), watch],
        max_steps=WARM + STEPS,
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(network, DataLoader(data, batch_size=network.batch_size))
    return watch.seconds
