"""Two gloo processes that see different batches decide alike."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from maskwell.callbacks.early_stopping import EarlyStopping
from maskwell.callbacks.grad_clip import GradClip
from maskwell.callbacks.loss_health import LossHealth
from maskwell.callbacks.monitor.recovery import Recovery, fit_with_recovery
from maskwell.errors import UserError
from maskwell.health.rules import NonFinite, NonFiniteState
from tests import ranks
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


class Recovering(Automatic):
    """Its iterations are in its checkpoints; at steps 34 and 35 something is NaN, on rank 1 only."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.register_buffer("running", torch.zeros(1))
        self.what, self.seen = what, 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        here = self.global_rank == 1 and self.iteration + 1 in (34, 35)
        self.spoil = lambda _, loss: loss * (math.nan if here and self.what == "loss" else 1.0)
        if here and self.what == "buffer":
            self.running.fill_(math.nan)
        self.seen += 1
        return super().training_step(batch, batch_idx)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["iteration"] = self.iteration

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.iteration = checkpoint["iteration"]


def recover(folder: Path, what: str) -> None:
    """Train as one of two ranks, with returns; write down what came of it."""
    recovery = Recovery(every=10, clean=5, cool_down=5, window=2)
    rules = {"nonfinite": NonFinite(), "nonfinite_state": NonFiniteState()}
    health = LossHealth(rules, every_n_steps=4, recovery=recovery)
    module = Recovering(what)
    # ranks keep buffers of their own, as batch norms that are not synchronised do
    strategy = DDPStrategy(broadcast_buffers=False)
    fit = trainer(folder, health, max_epochs=5, devices=2, strategy=strategy, use_distributed_sampler=False)
    fit_with_recovery(fit, module, train_dataloaders=loader(64), weights_only=True)
    facts = {
        "iteration": module.iteration,
        "seen": module.seen,
        "weight": module.net.weight.flatten().tolist(),
        "finite": bool(torch.isfinite(module.running).all()),
        "rate": fit.optimizers[0].param_groups[0]["lr"],
        "returns": [[back.step, back.to_step] for back in recovery.returns],
        "skip": recovery.skip,
    }
    (folder / f"rank{fit.global_rank}.json").write_text(json.dumps(facts))


@pytest.mark.slow
@pytest.mark.parametrize(("what", "found"), [("loss", (35, 20)), ("buffer", (64, 50))])
def test_two_processes_go_back_together(tmp_path: Path, what: str, found: tuple[int, int]) -> None:
    ranks.together(recover, tmp_path, what)
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second and first["iteration"] == 80
    ((step, to_step),) = first["returns"]
    assert (step, to_step) == found and first["seen"] == 80 + step - to_step
    assert first["finite"] and first["rate"] == pytest.approx(0.005)
    assert not list((tmp_path / "health").glob("*.ckpt"))


def test_processes_that_fit_starts_by_spawning_cannot_go_back(tmp_path: Path) -> None:
    fit = trainer(tmp_path, LossHealth(recovery=Recovery()), strategy="ddp_spawn", devices=2)
    with pytest.raises(UserError, match="strategy=ddp"):
        fit_with_recovery(fit, Automatic(), train_dataloaders=loader(64))
