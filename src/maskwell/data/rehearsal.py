"""Rehearsal: generated scenes beside each training batch, so that a base keeps what it has learnt on them.

Fine-tuning on one kind of image makes a network forget the others (A. Robins, "Catastrophic forgetting,
rehearsal and pseudorehearsal", 1995); a few examples of the earlier task in every batch prevent most of it.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import Dataset, Sampler

from maskwell.data.dataset import SampleDataset
from maskwell.data.generated import ScenesSource
from maskwell.data.sample import InputSpec, Sample
from maskwell.data.sampler import Key, TrainSampler

AUTO_SCENES = 2
"""Scenes beside each batch where the base was pretrained on them and nothing else is asked for."""

_SERIES = 100_000  # scenes of an epoch; an epoch that needs more meets the first ones again


def rehearsal_scenes(spec: InputSpec, seed: int) -> SampleDataset:
    """Training scenes as those of ``data=scenes`` at the size of the network, two phrases each.

    Args:
        spec: of a network with a fixed input size.
        seed: of the scenes.
    """
    assert spec.size is not None
    source = ScenesSource(
        spec.size,
        min_objects=2,
        max_objects=8,
        epoch_size=_SERIES,
        num_val=0,
        num_test=0,
        num_prompts=2,
        min_diameter=spec.size / 16,
        seed=seed,
    )
    return SampleDataset(source, "train", spec, seed)


class Rehearsed(Dataset[Sample]):
    """Samples of ``own``, and behind them, from index ``len(own)`` on, those of ``scenes``."""

    def __init__(self, own: SampleDataset, scenes: SampleDataset) -> None:
        self.own = own
        self.scenes = scenes
        self.spec = own.spec

    def __len__(self) -> int:
        return len(self.own)

    def __getitem__(self, key: Key) -> Sample:
        epoch, index = key
        if index < len(self.own):
            return self.own[key]
        return self.scenes[epoch, (index - len(self.own)) % _SERIES]


class RehearsalSampler(Sampler[list[Key]]):
    """The batches of ``own``, each with ``count`` keys of scenes that no other batch or rank has."""

    def __init__(self, own: TrainSampler, count: int) -> None:
        self.own = own
        self.count = count

    @property
    def batch_size(self) -> int:
        """The data's own samples of a batch; scenes come on top."""
        return self.own.batch_size

    def __len__(self) -> int:
        return len(self.own)

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, done = self.own.position()
        for number, keys in enumerate(self.own, start=done):
            first = self.own.size + (number * self.own.world_size + self.own.rank) * self.count
            yield keys + [(epoch, first + i) for i in range(self.count)]
