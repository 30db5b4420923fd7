from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from maskwell.callbacks.lr_monitor import LRMonitor
from tests.callbacks.modules import Automatic, Manual, Memory, loader, trainer


class Halving(Automatic):
    def configure_optimizers(self) -> Any:
        optimiser = torch.optim.SGD(self.parameters(), 0.8)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 0.5**step)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Grouped(Automatic):
    def configure_optimizers(self) -> Any:
        groups = [
            {"params": [self.net.weight], "name": "backbone", "lr": 0.1},
            {"params": [self.net.bias], "name": "head", "lr": 0.2},
        ]
        return torch.optim.SGD(groups)


def test_the_rate_of_each_step_is_the_one_it_used(tmp_path: Path) -> None:
    memory = Memory()
    trainer(tmp_path, LRMonitor(), logger=memory, max_epochs=1).fit(Halving(), loader())
    assert memory.series("train/learning_rate") == pytest.approx([0.8, 0.4, 0.2, 0.1])
    assert memory.series("learning_rate") == pytest.approx([0.05])


def test_several_optimisers_are_told_apart_by_name(tmp_path: Path) -> None:
    memory = Memory()
    trainer(tmp_path, LRMonitor(), logger=memory, max_epochs=1).fit(Manual(lr=0.01), loader())
    assert memory.series("train/learning_rate_generator") == pytest.approx([0.01] * 4)
    assert memory.series("train/learning_rate_discriminator") == pytest.approx([0.1] * 4)
    assert memory.series("learning_rate_generator") == pytest.approx([0.01])
    assert memory.series("train/learning_rate") == []


def test_a_group_with_a_rate_of_its_own_is_logged(tmp_path: Path) -> None:
    memory = Memory()
    trainer(tmp_path, LRMonitor(), logger=memory, max_epochs=1).fit(Grouped(), loader())
    assert memory.series("train/learning_rate") == pytest.approx([0.1] * 4)
    assert memory.series("train/learning_rate/head") == pytest.approx([0.2] * 4)
