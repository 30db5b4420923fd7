"""The checklist at the end of a run: each line holds or not."""

from __future__ import annotations

from pathlib import Path

from lightning import Trainer
from lightning.pytorch.loggers import WandbLogger

Line = tuple[str, bool, str]
"""What is asked, whether it holds, a detail or nothing."""


def concludes(trainer: Trainer, error: BaseException | None) -> bool:
    """Whether this rank prints a checklist now: not where a run is stopped by hand and goes on some day."""
    stopped = isinstance(error, KeyboardInterrupt)
    return trainer.is_global_zero and not trainer.sanity_checking and not stopped


def checklist(lines: list[Line]) -> str:
    """Lines that begin with ``[ok]`` or ``[not]``."""
    drawn = [
        f"{'[ok] ' if holds else '[not]'} {what}{f': {detail}' if detail else ''}"
        for what, holds, detail in lines
    ]
    return "\n".join(["", "Checklist", *drawn])


def ending(trainer: Trainer, error: BaseException | None) -> list[Line]:
    """Whether the best checkpoint is there and the run came to its end."""
    best = Path(getattr(trainer.checkpoint_callback, "best_model_path", "") or "best.ckpt")
    return [
        ("best.ckpt exists", best.is_file(), str(best) if best.is_file() else ""),
        ("Training completed without errors", error is None, type(error).__name__ if error else ""),
    ]


def uploads(trainer: Trainer, error: BaseException | None) -> list[Line]:
    """Whether the W&B run is complete, where there is one."""
    if not any(isinstance(logger, WandbLogger) for logger in trainer.loggers):
        return []
    return [("W&B run complete", error is None, "closed when the program ends")]
