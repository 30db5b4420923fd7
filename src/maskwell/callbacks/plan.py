"""What a training is going to do, read off the trainer before its first step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lightning import LightningModule, Trainer


@dataclass(frozen=True)
class Plan:
    """Images, iterations and parameters of a training.

    ``images`` split -> number; ``batches`` per epoch and process (infinite where a loader has no
    length); ``epochs`` and ``total`` batches of the whole run, None where nothing bounds them;
    ``per_step`` images of one optimiser step over all devices, in words; ``trained`` and
    ``parameters`` are counts.
    """

    images: dict[str, int]
    batches: float
    epochs: int | None
    total: int | None
    per_step: str
    trained: int
    parameters: int

    @classmethod
    def of(cls, trainer: Trainer, module: LightningModule) -> Plan:
        """Read off a trainer whose data loaders are set up (in ``on_train_start`` or later)."""
        loaders = {"train": trainer.train_dataloader, "val": trainer.val_dataloaders}
        counts = {split: _images(loader) for split, loader in loaders.items() if loader is not None}
        sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
        epochs = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else None
        return cls(
            images={split: count for split, count in counts.items() if count},
            batches=trainer.num_training_batches,
            epochs=epochs,
            total=_total(trainer, module, epochs),
            per_step=_per_step(trainer),
            trained=sum(n for n, wanted in sizes if wanted),
            parameters=sum(n for n, _ in sizes),
        )

    def text(self) -> str:
        """Two lines for people."""
        images = " / ".join(f"{n:,} {split}" for split, n in self.images.items()) or "unknown"
        length = f"{self.epochs} epochs" if self.epochs else "no limit of epochs"
        total = f", {self.total:,} iterations in all" if self.total is not None else ""
        share = self.trained / max(1, self.parameters)
        return (
            f"plan: {images} images, {self.batches:,} iterations per epoch, {length}{total}\n"
            f"      {self.per_step} images per step, "
            f"{self.trained:,} of {self.parameters:,} parameters trained ({share:.1%})"
        )


def _total(trainer: Trainer, module: LightningModule, epochs: int | None) -> int | None:
    bounds = []
    if epochs is not None and trainer.num_training_batches < math.inf:
        bounds.append(epochs * int(trainer.num_training_batches))
    if trainer.max_steps > 0:
        # Lightning counts the steps of every optimiser that a manual training takes in one batch
        per_batch = 1 if module.automatic_optimization else max(1, len(trainer.optimizers))
        bounds.append(-(-trainer.max_steps // per_batch) * trainer.accumulate_grad_batches)
    return min(bounds) if bounds else None


def _per_step(trainer: Trainer) -> str:
    size = _batch_size(trainer.train_dataloader)
    if size is None:
        return "an unknown number of"
    factors = [f"{size}"]
    factors += (
        [f"{trainer.accumulate_grad_batches} accumulated"] if trainer.accumulate_grad_batches > 1 else []
    )
    factors += [f"{trainer.world_size} devices"] if trainer.world_size > 1 else []
    product = size * trainer.accumulate_grad_batches * trainer.world_size
    return f"{product} ({' x '.join(factors)})" if len(factors) > 1 else f"{product}"


def _leaves(loader: Any) -> Iterator[Any]:
    """The loaders inside a loader, a list or dict of loaders, or a CombinedLoader."""
    inner = getattr(loader, "flattened", None)
    if inner is None and isinstance(loader, dict):
        inner = loader.values()
    elif inner is None and isinstance(loader, list | tuple):
        inner = loader
    if inner is None:
        yield loader
    else:
        for one in inner:
            yield from _leaves(one)


def _images(loader: Any) -> int:
    datasets: list[Any] = [getattr(one, "dataset", None) for one in _leaves(loader)]
    return sum(len(dataset) for dataset in datasets if hasattr(dataset, "__len__"))


def _batch_size(loader: Any) -> int | None:
    """Images per batch, summed over loaders that are drawn from together."""
    sizes = [
        getattr(one, "batch_size", None) or getattr(getattr(one, "batch_sampler", None), "batch_size", None)
        for one in _leaves(loader)
    ]
    known = [size for size in sizes if size]
    return sum(known) if known and len(known) == len(sizes) else None


def duration(seconds: float) -> str:
    """``0.4 s``, ``42 s``, ``3 min 05 s`` or ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 10:
        return f"{seconds:.1f} s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
