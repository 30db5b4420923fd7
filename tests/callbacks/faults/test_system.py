"""Faults of the machine."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from maskwell.callbacks.faults import Desync, MemoryLeak, OutOfMemory, Stall
from maskwell.errors import UserError
from tests.callbacks.modules import Automatic, loader, trainer


def fit(folder: Path, *callbacks: Any) -> None:
    trainer(folder, *callbacks, max_epochs=-1, max_steps=6, limit_val_batches=0).fit(Automatic(), loader())


def test_memory_runs_out_at_its_step(tmp_path: Path) -> None:
    fault = OutOfMemory(1, start=3)
    with pytest.raises(torch.OutOfMemoryError):
        fit(tmp_path, fault)
    assert fault.onset == 4


def test_memory_is_kept_and_given_back_at_the_end(tmp_path: Path) -> None:
    class Count(MemoryLeak):
        most = 0

        def on_train_end(self, *_: Any) -> None:
            self.most = sum(tensor.numel() for tensor in self.kept)

    fault = Count(0.5)
    fit(tmp_path, fault)
    assert fault.most == 6 * 2**19 and not fault.kept


def test_the_clock_jumps_once_and_is_put_right(tmp_path: Path) -> None:
    clock, begun = time.monotonic, time.monotonic()
    fault = Stall(20, start=3)
    seen: list[float] = []

    class Watch(OutOfMemory):
        def batch_starts(self, *_: Any) -> None:
            seen.append(time.monotonic() - begun)

    fit(tmp_path, fault, Watch())
    assert seen[2] < 100 and seen[3] > 800 and seen[5] < 1500
    assert time.monotonic is clock


@pytest.mark.parametrize("rank", [0, 1])
def test_only_the_second_rank_changes(rank: int) -> None:
    module = Automatic()
    before = module.net.weight.detach().clone()
    fault = Desync(0.1, start=2)
    for module.iteration in range(5):
        at: Any = SimpleNamespace(global_rank=rank, callbacks=[])
        fault.on_train_batch_start(at, module, None, 0)
    change = (module.net.weight - before).norm() / before.norm()
    assert 0.01 < float(change) < 0.4 if rank else float(change) == 0


def test_a_start_before_the_run_is_refused() -> None:
    with pytest.raises(UserError, match="start=-1"):
        Stall(20, start=-1)
