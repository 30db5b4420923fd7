"""Which iteration a training is at: one answer for every callback and any LightningModule."""

from __future__ import annotations

from lightning import LightningModule, Trainer


def iteration(trainer: Trainer, module: LightningModule) -> int:
    """The task's own count of iterations, or the batches seen where a module keeps no count.

    Lightning's ``global_step`` counts the steps of all optimisers together, twice per batch in a GAN.
    """
    own = getattr(module, "iteration", None)
    return own if isinstance(own, int) else trainer.fit_loop.epoch_loop.total_batch_idx + 1


def log_step(trainer: Trainer) -> int:
    """The step under which Lightning writes what a module logs in this batch."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def has_stepped(trainer: Trainer) -> bool:
    """Whether the optimiser has stepped with the batch that just ended."""
    return not trainer.fit_loop.epoch_loop._should_accumulate()


def batches_before(trainer: Trainer) -> int:
    """Batches of the epoch before the one that is being trained on."""
    return int(trainer.fit_loop.epoch_loop.batch_progress.current.ready) - 1


def optimiser_suffixes(trainer: Trainer, module: LightningModule) -> list[str]:
    """What to append to a log name for each optimiser: nothing where there is one.

    Several are told apart by the module's ``optimizer_names``, else by their number.
    """
    count = len(trainer.optimizers)
    if count == 1:
        return [""]
    names = getattr(module, "optimizer_names", None) or range(count)
    return [f"_{name}" for name in names]
