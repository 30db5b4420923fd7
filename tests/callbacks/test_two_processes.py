"""Two gloo processes that see different batches decide alike."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from maskwell.callbacks.early_stopping import EarlyStopping
from maskwell.callbacks.grad_clip import GradClip
from maskwell.callbacks.loss_health import LossHealth
from tests.callbacks.modules import Automatic, loader, trainer


class BadOnTheSecondRank(Automatic):
    """From step 3 on the loss is NaN, on rank 1 only; every rank writes down what it ends with."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.spoil = self.nan_on_rank_1

    def nan_on_rank_1(self, step: int, loss: Tensor) -> Tensor:
        return loss * (math.nan if step >= 3 and self.global_rank == 1 else 1.0)

    def on_train_end(self) -> None:
        health = next(c for c in self.trainer.callbacks if isinstance(c, LossHealth))  # type: ignore[attr-defined]
        facts = {
            "iteration": self.iteration,
            "weight": self.net.weight.flatten().tolist(),
            "epoch_loss": health.engine.signals.get("epoch/loss").last(1),
            "stop_reason": health.stop_reason,
        }
        (self.folder / f"rank{self.global_rank}.json").write_text(json.dumps(facts))


@pytest.mark.slow
def test_ranks_skip_and_stop_together(tmp_path: Path) -> None:
    callbacks: list[Any] = [GradClip(), LossHealth(every_n_steps=4), EarlyStopping(every_n_steps=1000)]
    fit = trainer(
        tmp_path, *callbacks, strategy="ddp_spawn", devices=2, max_epochs=5, use_distributed_sampler=False
    )
    fit.fit(BadOnTheSecondRank(tmp_path), loader(64), loader())
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first["iteration"] == second["iteration"] == 4  # rank 0 alone would never have seen a fault
    assert first["weight"] == second["weight"] and all(math.isfinite(w) for w in first["weight"])
    assert first["epoch_loss"] == second["epoch_loss"]
    # numbers are means over ranks: both hear of the part that only one of them saw
    assert first["stop_reason"] == second["stop_reason"]
    assert first["stop_reason"].startswith("health: loss_box is NaN")
