"""Back to the last healthy checkpoint: what is kept for it, and how the training starts again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.strategies.launchers.multiprocessing import _MultiProcessingLauncher

from maskwell.callbacks.clock import has_stepped
from maskwell.errors import UserError

STAMP = "health"
"""Key of the stamp in a checkpoint: ``{"step", "healthy"}``."""


class RecoverySignal(Exception):
    """Ends a fit so that it can be started again from ``checkpoint``.

    Lightning has no way to go back inside a running fit. Raised on all ranks at the same step;
    caught by :func:`fit_with_recovery`.
    """

    def __init__(self, checkpoint: Path, cause: str) -> None:
        super().__init__(f"{cause}; going back to {checkpoint}")
        self.checkpoint, self.cause = checkpoint, cause


@dataclass(frozen=True)
class Return:
    """One return: from ``step`` to the checkpoint of ``to_step``, rates times ``factor``, for ``cause``."""

    step: int
    to_step: int
    factor: float
    cause: str


class Recovery:
    """Keeps healthy checkpoints and decides whether, and to which, a run goes back.

    Args:
        most: returns in all; 0 never goes back.
        every: steps between checkpoints that are kept for it.
        clean: steps without a finding before a checkpoint counts as healthy.
        cool_down: steps after a return in which another fault ends the run.
        factor: of the learning rates, at each return.
        window: steps before the fault whose batches are skipped too.
    """

    def __init__(
        self,
        most: int = 3,
        every: int = 200,
        clean: int = 100,
        cool_down: int = 200,
        factor: float = 0.5,
        window: int = 8,
    ) -> None:
        if most < 0 or every < 1 or clean < 0 or cool_down < 0 or not 0 < factor <= 1 or window < 0:
            raise UserError(
                "health.recovery: give most, clean, cool_down and window of 0 or more, every of 1 or more "
                "and a factor above 0 and at most 1."
            )
        self.most, self.every, self.clean, self.cool_down = most, every, clean, cool_down
        self.factor, self.window = factor, window
        self.armed = False
        self.returns: list[Return] = []
        self.skip: tuple[int, int] | None = None
        self._kept: list[tuple[int, Path]] = []

    @property
    def rate_factor(self) -> float:
        """Of the configured rates, after all returns so far."""
        return float(self.factor ** len(self.returns))

    def skips(self, step: int) -> bool:
        """Whether the batch of this step belongs to the window that led to the fault."""
        return self.skip is not None and self.skip[0] <= step <= self.skip[1]

    def due(self, trainer: Trainer, step: int) -> bool:
        """Whether a checkpoint is to be kept now, behind a batch that the optimiser stepped with.

        None holds gradients that are being accumulated.
        """
        return step % self.every < trainer.accumulate_grad_batches and has_stepped(trainer)

    def keep(self, trainer: Trainer, step: int, clean: bool) -> None:
        """Write a checkpoint; the two newest that are healthy stay. All ranks call it."""
        if not self.armed or not self.most or (step and not clean):
            return
        path = Path(trainer.default_root_dir) / "health" / f"step_{step:08d}.ckpt"
        trainer.save_checkpoint(path)
        self._kept = [(s, p) for s, p in self._kept if s != step and s < step]
        self._kept.append((step, path))
        for _, old in self._kept[:-3]:
            trainer.strategy.remove_checkpoint(old)
        self._kept = self._kept[-3:]

    def target(self, incident: int) -> tuple[int, Path] | None:
        """The newest checkpoint that lies ``clean`` steps before the incident, else the oldest there is."""
        known = [(s, p) for s, p in self._kept if p.is_file()]
        early = [entry for entry in known if entry[0] <= incident - self.clean]
        return early[-1] if early else (known[0] if known and known[0][0] < incident else None)

    def go_back(self, step: int, begun: int, cause: str) -> RecoverySignal | None:
        """The signal to raise; None where the returns are used up, or the last one is too near."""
        found = self.target(begun)
        too_soon = bool(self.returns) and step - self.returns[-1].to_step < self.cool_down
        if not self.armed or len(self.returns) >= self.most or found is None or too_soon:
            return None
        to_step, path = found
        self.returns.append(Return(step, to_step, self.factor ** (len(self.returns) + 1), cause))
        self.skip = (max(to_step + 1, begun - self.window), step)
        self._kept = [(s, p) for s, p in self._kept if s <= to_step]
        return RecoverySignal(path, cause)

    def finish(self, trainer: Trainer) -> None:
        """The run has ended: what was kept is removed."""
        for _, path in self._kept:
            trainer.strategy.remove_checkpoint(path)
        self._kept = []

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "returns": [asdict(r) for r in self.returns],
            "skip": list(self.skip) if self.skip else None,
            "kept": [[s, str(p)] for s, p in self._kept],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave, unless this very run is going back."""
        if self.returns:
            return
        self.returns = [Return(**r) for r in state["returns"]]
        self.skip = tuple(state["skip"]) if state["skip"] else None
        self._kept = [(s, Path(p)) for s, p in state["kept"]]


def fit_with_recovery(
    trainer: Trainer,
    module: LightningModule,
    *,
    ckpt_path: str | Path | None = None,
    on_return: Callable[[Path], None] | None = None,
    **fit: Any,
) -> None:
    """``trainer.fit`` that goes back to the last healthy checkpoint where the monitor says so.

    Needs a :class:`~maskwell.callbacks.loss_health.LossHealth` with ``recovery`` among the callbacks.
    At each return the learning rates are halved and the batches around the fault are skipped; after
    the last one, or at a fault too soon after one, the run ends with its report.

    Args:
        trainer: with the callbacks.
        module: what is trained.
        ckpt_path: where to start from, as in ``fit``.
        on_return: called with the checkpoint before each new start, as to cut a log.
        fit: further arguments of ``fit`` (``train_dataloaders``, ``datamodule``, ``weights_only``, ...).

    Raises:
        UserError: no monitor is among the callbacks, or ``fit`` would spawn or fork its processes: what
            they raise does not come back as it was.
    """
    monitors = [c for c in trainer.callbacks if isinstance(getattr(c, "recovery", None), Recovery)]  # type: ignore[attr-defined]
    if not monitors:
        raise UserError("fit_with_recovery() needs LossHealth(recovery=Recovery()) among the callbacks.")
    if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        raise UserError("fit_with_recovery() cannot go back in processes that are spawned: use strategy=ddp.")
    for monitor in monitors:
        monitor.recovery.armed = True
    start = ckpt_path
    while True:
        try:
            trainer.fit(module, ckpt_path=start, **fit)
            return
        except RecoverySignal as signal:
            if trainer.is_global_zero:
                print(f"health: {signal}")
            start = signal.checkpoint
            if on_return is not None:
                on_return(start)
