"""Faults of the data as a whole: the order of its samples, and what its splits have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lightning import LightningModule, Trainer
from torch.utils.data import Sampler

from maskwell.callbacks.faults.base import Fault, replace_method
from maskwell.data.sample import IGNORE, Sample


class InOrder(Fault):
    """Training samples come sorted by what they hold, of each pass a ``severity`` share."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put an order of its own between sampler and loader."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        make = data.train_dataloader

        def train_dataloader() -> Any:
            made = make()
            streams = made.iterables if hasattr(made, "iterables") else {"": made}
            content = [amount(data.dataset("train")[i]) for i in range(len(data.dataset("train")))]
            for name, loader in streams.items():
                if name != "unlabelled":
                    inner = Sorted(loader.batch_sampler, content, self.severity)
                    loader.__dict__["batch_sampler"] = inner
            return made

        replace_method(data, "train_dataloader", train_dataloader)


class Sorted(Sampler[list[tuple[int, int]]]):
    """The batches of ``inner``, each pass of it with the first ``share`` of its samples sorted by content."""

    def __init__(self, inner: Any, content: Sequence[float], share: float) -> None:
        self.inner, self.content, self.share = inner, content, share

    def __len__(self) -> int:
        return len(self.inner)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        waiting: list[list[tuple[int, int]]] = []
        for batch in self.inner:
            waiting.append(batch)
            if sum(map(len, waiting)) >= len(self.content):
                yield from self._sorted(waiting)
                waiting = []
        yield from self._sorted(waiting)

    def _sorted(self, batches: list[list[tuple[int, int]]]) -> Iterator[list[tuple[int, int]]]:
        keys = [key for batch in batches for key in batch]
        count = round(self.share * len(keys))
        keys[:count] = sorted(keys[:count], key=lambda key: (self.content[key[1]], key[1]))
        for batch in batches:
            yield [keys.pop(0) for _ in batch]


class Leak(Fault):
    """The first ``severity`` share of the validation images are training images, labels and all."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Redirect what the source says of those images to training images."""
        source: Any = trainer.datamodule.source  # type: ignore[attr-defined]
        count = min(round(self.severity * source.size("val")), source.size("train"))
        for name in ("read", "objects", "image_size"):
            replace_method(source, name, self._redirected(getattr(source, name), count))
        if hasattr(source, "files"):
            files = source.files
            replace_method(
                source,
                "files",
                lambda split: (
                    [*files("train")[:count], *files("val")[count:]] if split == "val" else files(split)
                ),
            )

    @staticmethod
    def _redirected(method: Callable[..., Any], count: int) -> Callable[..., Any]:
        def redirected(split: str, index: int, *more: Any) -> Any:
            leaks = split == "val" and index < count
            return method("train" if leaks else split, index, *more)

        return redirected


def amount(sample: Sample) -> float:
    """How much a sample holds: objects, or labelled pixels that are not background."""
    if sample.semantic is None:
        return float(len(sample.labels))
    return float(((sample.semantic > 0) & (sample.semantic != IGNORE)).sum())
