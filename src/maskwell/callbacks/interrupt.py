"""Ctrl-C, SIGTERM and SIGUSR1: finish the batch, write the last checkpoint, stop."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from maskwell.callbacks.clock import has_stepped
from maskwell.errors import CTRL_C, TRY_AGAIN

Handler = Callable[[int, FrameType | None], None]

QUEUE_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name)
)
"""By which a queue or a system tells a program to end, that its time is nearly over, that nobody listens."""


class GracefulInterrupt(Callback):
    """Writes ``path`` after the running batch when the program is asked to end, then ends the fit.

    Where gradients are accumulated, after the batch that the optimiser steps with: no checkpoint holds them.

    A second Ctrl-C ends it at once. Several processes agree after each batch, so that a signal to one
    of them stops all at the same one.

    Args:
        path: where the checkpoint goes.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._signal: int | None = None
        self._saved = False
        self._speaks = True
        self._before: dict[int, Any] = {}

    @property
    def exit_code(self) -> int:
        """Of the program that was stopped: a queue is told to start it again."""
        return TRY_AGAIN if self._signal in QUEUE_SIGNALS else CTRL_C

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._signal, self._saved, self._speaks = None, False, trainer.is_global_zero
        self._before = _handle((signal.SIGINT, *QUEUE_SIGNALS), self._note)  # in place of Lightning's own

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._signal is not None:
            raise KeyboardInterrupt
        if self._signal is None and self._speaks:
            name = "Ctrl-C again: at once" if number == signal.SIGINT else signal.Signals(number).name
            with contextlib.suppress(OSError):  # of a terminal that is gone
                print(f"\nstopping after this batch ({name})", flush=True)
        self._signal = number

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._agreed(trainer) and has_stepped(trainer):
            trainer.save_checkpoint(self.path)
            self._saved = True

    def _agreed(self, trainer: Trainer) -> bool:
        """Whether any process was told to stop; all then know the signal."""
        number = self._signal or 0
        if trainer.world_size > 1:
            numbers = trainer.strategy.reduce(
                torch.tensor(number, device=trainer.strategy.root_device), reduce_op="max"
            )
            number = int(numbers)
            self._signal = number or None
        return number > 0

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
        _restore(self._before)
        self._before = {}


@contextmanager
def leaving_on_request() -> Iterator[None]:
    """Before and after the training itself there is nothing to save: leave at once, with the same code."""

    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit(TRY_AGAIN)

    before = _handle(QUEUE_SIGNALS, leave)
    try:
        yield
    finally:
        _restore(before)


def _handle(numbers: Sequence[int], handler: Handler) -> dict[int, Any]:
    """Install a handler, except where a signal is ignored (nohup); what was there before.

    Only a main thread may; others, in notebooks and tests, go without.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    wanted = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in wanted}


def _restore(before: Mapping[int, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)
