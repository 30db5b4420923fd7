"""The console of runs that are counted in iterations: losses, evaluations, and a checklist at the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from maskwell.callbacks.checklist import Line, checklist, concludes, ending, uploads
from maskwell.callbacks.clock import iteration

RULE = "=" * 60
LOSSES = {"loss_ce": "Loss_CE", "loss_fm": "Loss_FM", "loss_st": "Loss_ST", "loss_d": "Loss_D"}
"""Terms of the line, in its order; a task that has none of a kind leaves it out."""


class IterationReport(Callback):
    """Prints the losses now and then, both mIoUs at each evaluation, and a checklist at the end.

    Acts on tasks whose run is counted in iterations (``task.iterations`` is set) alone. Losses are
    the raw terms, before the weights by which the total takes them.

    Args:
        every: iterations between two lines of losses.
        max_gap: largest training mIoU minus validation mIoU that the checklist lets pass.
    """

    def __init__(self, every: int = 100, max_gap: float = 0.15) -> None:
        super().__init__()
        self.every = every
        self.max_gap = max_gap
        self._best: float | None = None
        self._gap: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if _counted(trainer, pl_module):
            print(f"losses every {self.every} iterations are raw terms, before their weights")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        total, now = _counted(trainer, pl_module), iteration(trainer, pl_module)
        if total and now % self.every == 0 and isinstance(outputs, Mapping):
            print(line(now, total, outputs["parts"], outputs["facts"]))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if _evaluates(trainer, pl_module):
            print(f"\n{RULE}\nEvaluating at iteration {iteration(trainer, pl_module)}...\n{RULE}")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not _evaluates(trainer, pl_module):
            return
        logged = trainer.callback_metrics
        training, validation = (
            float(logged[name]) if name in logged else None for name in ("val/train_miou", "val/miou")
        )
        print("\n".join([*evaluation(training, validation, self._best), RULE]))
        if validation is not None:
            self._best = validation if self._best is None else max(self._best, validation)
            self._gap = None if training is None else training - validation

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._conclude(trainer, pl_module, None)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._conclude(trainer, pl_module, exception)

    def _conclude(self, trainer: Trainer, module: LightningModule, error: BaseException | None) -> None:
        if not _counted(trainer, module) or not concludes(trainer, error):
            return
        lines: list[Line] = [
            ("Best validation mIoU recorded", self._best is not None, _figure(self._best)),
            *ending(trainer, error),
            (
                f"Final train/val gap < {self.max_gap:g}",
                self._gap is not None and self._gap < self.max_gap,
                _figure(self._gap),
            ),
            *uploads(trainer, error),
        ]
        print(checklist(lines))

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "gap": self._gap}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._best, self._gap = state_dict["best"], state_dict["gap"]


def line(now: int, total: int, parts: Mapping[str, Tensor], facts: Mapping[str, Tensor]) -> str:
    """``Iter 500/50000 | Loss_CE: 2.470 | ... | ST_Count: 2/4``; what the task does not have is left out.

    Args:
        now: this iteration, counted from 1; ``total`` of the run.
        parts: raw loss terms, scalars.
        facts: ``st_count`` images whose pseudo-labels count, of ``st_of``.
    """
    entries = [f"Iter {now}/{total}"]
    entries += [f"{label}: {float(parts[name]):.3f}" for name, label in LOSSES.items() if name in parts]
    if "st_count" in facts:
        of = f"/{int(facts['st_of'])}" if "st_of" in facts else ""
        entries.append(f"ST_Count: {int(facts['st_count'])}{of}")
    return " | ".join(entries)


def evaluation(training: float | None, validation: float | None, best: float | None) -> list[str]:
    """Lines on one evaluation: both mIoUs where they are known, and the best so far beside a new best."""
    lines = [] if training is None else [f"Training mIoU: {training:.4f}"]
    if validation is None:
        return [*lines, "Validation mIoU: not defined, no labelled pixel was evaluated"]
    lines.append(f"Validation mIoU: {validation:.4f}")
    if best is None:
        lines.append(f"✓ New best validation mIoU: {validation:.4f}")
    elif validation > best:
        lines.append(f"✓ New best validation mIoU: {validation:.4f} (previous: {best:.4f})")
    else:
        lines.append(f"Best validation mIoU so far: {best:.4f}")
    return lines


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _counted(trainer: Trainer, module: LightningModule) -> int:
    """Iterations of the run, where this rank has to speak about it; else 0."""
    total = getattr(module, "iterations", None)
    return int(total) if total and trainer.is_global_zero else 0


def _evaluates(trainer: Trainer, module: LightningModule) -> bool:
    fits = trainer.state.fn == "fit" and not trainer.sanity_checking
    return fits and _counted(trainer, module) > 0
