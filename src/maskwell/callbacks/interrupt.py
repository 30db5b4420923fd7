"""Ctrl-C: finish the batch, write the last checkpoint, stop."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from lightning import Callback, LightningModule, Trainer


class GracefulInterrupt(Callback):
    """Writes ``path`` after the running batch when Ctrl-C is pressed, then ends the fit.

    A second Ctrl-C ends it at once. With several processes the ranks could stop at different
    batches, so there the last regular checkpoint has to do.

    Args:
        path: where the checkpoint goes.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._wanted = False
        self._saved = False
        self._before: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._wanted = self._saved = False
        if trainer.world_size == 1 and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._wanted:
            raise KeyboardInterrupt
        self._wanted = True
        print("\nstopping after this batch (Ctrl-C again: at once)")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._wanted:
            trainer.save_checkpoint(self.path)
            self._saved = True

    # The fit ends one hook later than it is saved: the batch's row is then in the log.

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self._stop()

    def on_validation_start(self, trainer: Trainer, *_: Any) -> None:
        self._stop()

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._saved:
            raise KeyboardInterrupt

    def on_train_end(self, *_: Any) -> None:
        self._restore()

    def on_exception(self, *_: Any) -> None:
        self._restore()

    def _restore(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None
