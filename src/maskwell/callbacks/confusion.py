"""The confusion matrix of every validation."""

from __future__ import annotations

from pathlib import Path

from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from maskwell.callbacks.clock import iteration
from maskwell.semantic_results import write_confusion


class Confusion(Callback):
    """Writes ``confusion/iter_<n>.json`` and ``.png`` into the run folder at each validation.

    Acts on tasks that have a ``confusion`` (int64 [C, C], true class by predicted class) and
    ``confusion_names`` alone.
    """

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        matrix = getattr(pl_module, "confusion", None)
        wanted = trainer.state.fn == "fit" and not trainer.sanity_checking and trainer.is_global_zero
        if wanted and isinstance(matrix, Tensor):
            names: tuple[str, ...] = getattr(pl_module, "confusion_names", ())
            unit = "pixels" if getattr(pl_module, "semantic", False) else "objects"
            folder = Path(trainer.default_root_dir) / "confusion"
            write_confusion(matrix, names, folder, f"iter_{iteration(trainer, pl_module):06d}", unit)
