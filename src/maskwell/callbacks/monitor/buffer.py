"""Numbers that wait on the device until they are read in one transfer."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from lightning import Trainer
from torch import Tensor

Consumer = Callable[[list[float]], None]


@dataclass(frozen=True)
class _Held:
    values: Tensor
    consume: Consumer
    shared: bool
    key: int


class DeviceBuffer:
    """Vectors on the device, each with what is to be done with its numbers.

    On data-parallel ranks, ``shared`` values (losses, which each rank has of its own batch) are read
    as their means over ranks, so that all ranks hear the same; others (gradients) are equal already.
    """

    def __init__(self) -> None:
        self._held: list[_Held] = []

    def __len__(self) -> int:
        return len(self._held)

    def add(
        self, values: Tensor, consume: Consumer, *, shared: bool = False, names: Sequence[str] = ()
    ) -> None:
        """Hold a vector; ``names`` of shared values tell ranks whether they hold the same ones."""
        key = zlib.crc32("\n".join(names).encode()) if shared else 0
        # a copy in its own precision: float64 is not on every device (mps)
        self._held.append(_Held(values.detach().reshape(-1).clone(), consume, shared, key))

    def read(self, trainer: Trainer) -> None:
        """Give all numbers to their consumers, in the order in which they came."""
        held, self._held = self._held, []
        if trainer.world_size > 1:
            held = _mean_over_ranks(trainer, held)
        if not held:
            return
        device = held[0].values.device
        numbers = torch.cat([h.values.to(device) for h in held]).tolist()
        at = 0
        for entry in held:
            size = entry.values.numel()
            entry.consume(numbers[at : at + size])
            at += size


def _mean_over_ranks(trainer: Trainer, held: list[_Held]) -> list[_Held]:
    """``held`` with the means of what is shared; as it is where ranks hold different things."""
    shared = [h for h in held if h.shared]
    device = trainer.strategy.root_device
    key = zlib.crc32(repr([(h.key, h.values.numel()) for h in shared]).encode())
    keys = torch.tensor([key, -key], dtype=torch.float64, device=device)
    highest = trainer.strategy.reduce(keys, reduce_op="max")
    if float(highest[0]) != -float(highest[1]) or not shared:
        return held
    means = trainer.strategy.reduce(torch.cat([h.values.to(device) for h in shared]), reduce_op="mean")
    parts = iter(means.split([h.values.numel() for h in shared]))
    return [_Held(next(parts), h.consume, True, h.key) if h.shared else h for h in held]
