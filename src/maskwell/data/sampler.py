"""Order of the samples, a function of (seed, epoch, rank): a resumed run equals an unbroken one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from torch.utils.data import Sampler

Key = tuple[int, int]
"""(epoch, index): all that a sample is made from, beside the seed."""


class TrainSampler(Sampler[list[Key]]):
    """Batches of (epoch, index) keys for one rank.

    All ranks take the same number of samples (the first ones are repeated where it does not come
    out even), and the batches of all ranks at one step are together the batch that one process
    with the sum of the batch sizes would see. The last batch of an epoch may be smaller.

    Args:
        size: samples in an epoch, over all ranks.
        batch_size: samples of a batch on one rank.
        seed: order is a function of it and of the epoch.
        rank: this process; ``world_size``: number of processes.
        shuffle: False keeps the order of the files.
        position: returns (epoch, batches of it that are already done); asked whenever an
            iteration starts, which is how a resumed run goes on where it stopped.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        position: Callable[[], tuple[int, int]] = lambda: (0, 0),
    ) -> None:
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.shuffle = shuffle
        self.position = position

    def __len__(self) -> int:
        """Batches in a whole epoch, also where the iteration starts in its middle."""
        return math.ceil(math.ceil(self.size / self.world_size) / self.batch_size)

    def order(self, epoch: int) -> list[int]:
        """Indices of this rank in ``epoch``."""
        order = np.arange(self.size)
        if self.shuffle:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.size)
        padded = np.resize(order, math.ceil(self.size / self.world_size) * self.world_size)
        return [int(i) for i in padded[self.rank :: self.world_size]]

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, done = self.position()
        order = self.order(epoch)
        for start in range(done * self.batch_size, len(order), self.batch_size):
            yield [(epoch, index) for index in order[start : start + self.batch_size]]


class EvalSampler(Sampler[list[Key]]):
    """Every sample exactly once over all ranks, in order; counts per rank may differ by one."""

    def __init__(self, size: int, batch_size: int, *, rank: int = 0, world_size: int = 1) -> None:
        self.indices = range(rank, size, world_size)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.indices) / self.batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        for start in range(0, len(self.indices), self.batch_size):
            yield [(0, index) for index in self.indices[start : start + self.batch_size]]
