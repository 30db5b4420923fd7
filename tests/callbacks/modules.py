"""Tiny LightningModules that the callback tests train."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import Logger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Automatic(LightningModule):
    """A linear regression; ``spoil`` changes the loss of a step, counted from 1."""

    monitor = "val/loss"
    mode = "min"

    def __init__(
        self, lr: float = 0.01, spoil: Callable[[int, Tensor], Tensor] = lambda _, loss: loss
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(4, 1)
        self.iteration = 0
        self.lr = lr
        self.spoil = spoil
        self.val_losses: list[float] | None = None

    def loss_on(self, batch: Sequence[Tensor]) -> Tensor:
        return (self.net(batch[0]) - batch[1]).pow(2).mean()

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Any:
        self.iteration += 1
        loss = self.spoil(self.iteration, self.loss_on(batch))
        self.log("train/batch_loss", loss)
        return {
            "loss": loss,
            "parts": {"loss_box": loss.detach()},
            "facts": {"num_objects": torch.tensor(3.0)},
        }

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        scripted = self.val_losses[self.current_epoch] if self.val_losses else None
        self.log("val/loss", self.loss_on(batch) if scripted is None else torch.tensor(scripted))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), self.lr)


class Manual(Automatic):
    """Two networks with an optimiser each, stepped by hand in one batch; logs its loss, returns none."""

    optimizer_names = ("generator", "discriminator")

    def __init__(
        self, lr: float = 0.01, spoil: Callable[[int, Tensor], Tensor] = lambda _, loss: loss
    ) -> None:
        super().__init__(lr, spoil)
        self.automatic_optimization = False
        self.other = nn.Linear(4, 1)

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self.iteration += 1
        loss = self.spoil(self.iteration, self.loss_on(batch))
        for optimiser, value in zip(
            self.optimizers(), (loss, self.other(batch[0]).pow(2).mean()), strict=True
        ):
            optimiser.zero_grad()
            self.manual_backward(value)
            optimiser.step()
        self.log("train/loss", loss)

    def configure_optimizers(self) -> Any:
        return [
            torch.optim.SGD(self.net.parameters(), self.lr),
            torch.optim.SGD(self.other.parameters(), self.lr * 10),
        ]


class Memory(Logger):
    """Keeps what is logged, as (step, metrics); images also as (key, images, captions)."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, float]]] = []
        self.images: list[tuple[int | None, Any]] = []
        self.sets: list[tuple[str, list[Any], list[str]]] = []

    name = version = "memory"

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((step, dict(metrics)))

    def log_image(
        self, key: str, images: list[Any], step: int | None = None, caption: list[str] | None = None
    ) -> None:
        self.images.append((step, images[0]))
        self.sets.append((key, images, caption or []))

    def series(self, name: str) -> list[float]:
        return [metrics[name] for _, metrics in self.rows if name in metrics]


def loader(samples: int = 16, batch_size: int = 4, scale: float = 1.0) -> DataLoader[Any]:
    """A regression task with a known answer, in fixed order."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(samples, 4, generator=generator) * scale
    return DataLoader(TensorDataset(inputs, inputs.sum(1, keepdim=True)), batch_size=batch_size)


def trainer(folder: Path, *callbacks: Callback, **more: Any) -> Trainer:
    """A quiet CPU trainer that logs every step."""
    settings: dict[str, Any] = {
        "max_epochs": 3,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
        "num_sanity_val_steps": 0,
        "default_root_dir": folder,
    }
    return Trainer(callbacks=list(callbacks), **{**settings, **more})
