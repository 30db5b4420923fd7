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


class IterationSampler(Sampler[list[Key]]):
    """Batches of a run that is counted in iterations, for one rank: a stream without ends of epochs.

    The samples come in whole passes, each in an order of its own, so that all come equally often; a
    batch may hold the end of one pass and the beginning of the next. A key is (pass, index). Batches
    have the same size throughout, and those of all ranks at one iteration are together the batch that
    one process with the sum of the batch sizes would see.

    Args:
        size: samples in a pass, over all ranks.
        batch_size: samples of a batch on one rank.
        iterations: batches in an epoch of the trainer; another epoch goes on with the stream.
        seed: order is a function of it, of ``stream`` and of the pass.
        stream: number of the stream, so that two of them differ in order.
        rank: this process; ``world_size``: number of processes.
        shuffle: False keeps the order of the files.
        position: returns (epoch, batches of it that are already done); asked whenever an iteration
            starts.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        iterations: int,
        seed: int,
        *,
        stream: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        position: Callable[[], tuple[int, int]] = lambda: (0, 0),
    ) -> None:
        self.size = size
        self.batch_size = batch_size
        self.iterations = iterations
        self.seed = seed
        self.stream = stream
        self.rank = rank
        self.world_size = world_size
        self.shuffle = shuffle
        self.position = position

    def __len__(self) -> int:
        """Batches in a whole epoch, also where the iteration starts in its middle."""
        return self.iterations

    def order(self, number: int) -> list[int]:
        """Indices in the order of pass ``number``, of all ranks."""
        if not self.shuffle:
            return list(range(self.size))
        order = np.random.default_rng([self.seed, self.stream, number]).permutation(self.size)
        return [int(i) for i in order]

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, done = self.position()
        number, order = -1, list[int]()
        for iteration in range(epoch * self.iterations + done, (epoch + 1) * self.iterations):
            first = iteration * self.batch_size * self.world_size + self.rank
            batch = []
            for place in range(first, first + self.batch_size * self.world_size, self.world_size):
                if place // self.size != number:
                    number = place // self.size
                    order = self.order(number)
                batch.append((number, order[place % self.size]))
            yield batch


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
