"""Logs the learning rate of every optimiser at every step."""

from __future__ import annotations

from typing import Any

from lightning import Callback, LightningModule, Trainer

from maskwell.callbacks.clock import optimiser_suffixes


class LRMonitor(Callback):
    """``train/learning_rate`` each step and ``learning_rate`` each epoch, per optimiser.

    Where there are several, the name of the optimiser is appended (``train/learning_rate_generator``).
    The rate is read before the step that uses it, of the first parameter group; further groups with
    a rate of their own appear as ``train/learning_rate/<group>``.
    """

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        pl_module.log_dict(_rates(trainer, pl_module, "train/learning_rate"), on_step=True, on_epoch=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log_dict(_rates(trainer, pl_module, "learning_rate"), on_step=False, on_epoch=True)


def _rates(trainer: Trainer, module: LightningModule, prefix: str) -> dict[str, float]:
    rates: dict[str, float] = {}
    for optimiser, suffix in zip(trainer.optimizers, optimiser_suffixes(trainer, module), strict=True):
        first = float(optimiser.param_groups[0]["lr"])
        rates[prefix + suffix] = first
        for group in optimiser.param_groups[1:]:
            if "name" in group and float(group["lr"]) != first:
                rates[f"{prefix}{suffix}/{group['name']}"] = float(group["lr"])
    return rates
