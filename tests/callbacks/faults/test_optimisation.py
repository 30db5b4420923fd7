"""Faults between gradients and weights, in trainings of a few steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from maskwell.callbacks.faults import (
    CyclicRate,
    Fault,
    FrozenHead,
    InertClip,
    InfiniteGradients,
    KeptGradients,
    LostOptimizerState,
    MissingParameters,
    PoisonedCheckpoint,
    Slowed,
    Unfreezing,
    WrongScheduleUnit,
)
from maskwell.callbacks.grad_clip import GradClip
from tests.callbacks.modules import Automatic, Manual, loader, trainer


class Scheduled(Automatic):
    """With a rate that falls by a tenth a step, and Adam, which has a state."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), self.lr)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["iteration"] = self.iteration

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.iteration = checkpoint["iteration"]


class Watch(Callback):
    """Weights and gradient norms as each step leaves them, and rates as it is made."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []
        self.norms: list[float] = []
        self.rates: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for optimizer in trainer.optimizers:
            optimizer.register_step_post_hook(self._note)

    def _note(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        parameters = [p for g in optimizer.param_groups for p in g["params"]]
        self.weights.append(torch.cat([p.detach().flatten().clone() for p in parameters]))
        found = [p.grad for p in parameters if p.grad is not None]
        self.norms.append(float(torch.nn.utils.get_total_norm(found)) if found else 0.0)
        self.rates.append(optimizer.param_groups[0]["lr"])


def fit(module: Automatic, folder: Path, *callbacks: Callback, steps: int = 8, **more: Any) -> Watch:
    watch = Watch()
    made = trainer(folder, *callbacks, watch, max_epochs=-1, max_steps=steps, limit_val_batches=0)
    made.fit(module, loader(), **more)
    return watch


@pytest.mark.parametrize(("pace", "share"), [(10.0, 0.9**10), (0.1, 1.0)])
def test_schedules_run_fast_or_slow(tmp_path: Path, pace: float, share: float) -> None:
    rates = fit(Scheduled(), tmp_path, WrongScheduleUnit(pace)).rates
    assert rates[1] / rates[0] == pytest.approx(share)


def test_a_slow_schedule_moves_once_in_ten_steps(tmp_path: Path) -> None:
    rates = fit(Scheduled(), tmp_path, WrongScheduleUnit(0.1), steps=12).rates
    assert rates[9] == rates[0] and rates[10] == pytest.approx(0.9 * rates[0])


@pytest.mark.parametrize("kind", [Automatic, Manual])
def test_gradients_add_up(tmp_path: Path, kind: type[Automatic]) -> None:
    each = 1 if kind is Automatic else 2  # steps of a batch; the first is that of the network "net"
    clean = fit(kind(lr=0.0), tmp_path, steps=8 * each).norms[::each]
    kept = fit(kind(lr=0.0), tmp_path, KeptGradients(), steps=8 * each).norms[::each]
    assert kept[-1] > 3 * clean[-1] and kept[0] == pytest.approx(clean[0])


def test_a_share_of_the_tensors_is_in_no_optimiser(tmp_path: Path) -> None:
    module = Automatic()
    fit(module, tmp_path, MissingParameters(0.5, seed=2))
    held = {id(p) for o in [module.trainer.optimizers[0]] for g in o.param_groups for p in g["params"]}
    assert 0 < len(held) < len(list(module.parameters()))


def test_the_head_stays_frozen(tmp_path: Path) -> None:
    module = Automatic()
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    fit(module, tmp_path, FrozenHead(1.0))
    same = {name for name, p in module.named_parameters() if torch.equal(p, before[name])}
    assert same == {"net.bias"}


def test_clipping_changes_nothing(tmp_path: Path) -> None:
    fault, clip = InertClip(3.0, start=4), GradClip(0.5)
    norms = fit(Automatic(), tmp_path, fault, clip).norms
    assert max(norms[:4]) <= 0.5 + 1e-6
    assert norms[4:] == pytest.approx([1.5] * 4) and fault.onset == 5


def test_one_gradient_is_infinite(tmp_path: Path) -> None:
    norms = fit(Automatic(), tmp_path, InfiniteGradients(2, start=3)).norms
    assert [norm == float("inf") for norm in norms[:4]] == [False, False, False, True]


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_updates_are_shortened(tmp_path: Path, share: float) -> None:
    def change(weights: list[Tensor]) -> Tensor:
        return weights[4] - weights[3]

    clean = change(fit(Automatic(), tmp_path).weights)
    slowed = change(fit(Automatic(), tmp_path, Slowed(share, start=4)).weights)
    assert torch.allclose(slowed, share * clean, atol=1e-7)


def _resumed(folder: Path, fault: Fault) -> tuple[Scheduled, Trainer]:
    first = Scheduled()
    before = trainer(folder, max_epochs=-1, max_steps=4, limit_val_batches=0)
    before.fit(first, loader())
    before.save_checkpoint(folder / "a.ckpt")
    module = Scheduled()
    after = trainer(folder, fault, max_epochs=-1, max_steps=4, limit_val_batches=0)
    after.fit(module, loader(), ckpt_path=str(folder / "a.ckpt"), weights_only=True)
    return module, after


def test_a_resume_loses_the_state_of_the_optimiser(tmp_path: Path) -> None:
    fault = LostOptimizerState(start=4)
    _, after = _resumed(tmp_path, fault)
    assert not after.optimizers[0].state and fault.onset == 5


def test_a_checkpoint_brings_nan(tmp_path: Path) -> None:
    module, _ = _resumed(tmp_path, PoisonedCheckpoint(1, start=4))
    assert sum(int(p.isnan().sum()) for p in module.parameters()) == 1


def test_a_cyclic_rate_restarts_and_is_the_schedules_own(tmp_path: Path) -> None:
    rates = fit(Scheduled(), tmp_path, CyclicRate(4)).rates
    assert rates[4] / rates[0] == pytest.approx(0.9**4) and rates[3] < rates[4]


def test_half_of_the_network_is_trained_later(tmp_path: Path) -> None:
    for steps, same in ((4, True), (6, False)):
        module = Automatic()
        weight = module.net.weight.detach().clone()
        fit(module, tmp_path, Unfreezing(start=4), steps=steps)
        assert torch.equal(module.net.weight, weight) is same
