"""Whether a model can learn one batch by heart: the first question to a training that does not learn."""

from __future__ import annotations

from typing import Any

from lightning import Callback, LightningModule, Trainer

from maskwell.errors import UserError


class OverfitCheck(Callback):
    """Compares the loss of the last step with that of the first one and fails where it hardly fell.

    Args:
        share: of the first loss that has to be reached.
    """

    def __init__(self, share: float = 0.5) -> None:
        super().__init__()
        self.share = share
        self._first: float | None = None
        self._last = float("nan")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._last = float(outputs["loss"])
        if self._first is None:
            self._first = self._last

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._first is None:
            return
        text = f"the loss on one batch went from {self._first:.4g} to {self._last:.4g}"
        if not self._last <= self.share * self._first:
            raise UserError(f"Overfitting failed: {text}; a sound model gets below {self.share:.0%} of it.")
        print(f"overfit: {text}")
