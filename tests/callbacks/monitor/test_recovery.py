"""Back to a healthy checkpoint: rates halved, the window skipped, three times at most."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from maskwell.callbacks.early_stopping import EarlyStopping
from maskwell.callbacks.loss_health import LossHealth
from maskwell.callbacks.monitor.recovery import Recovery, fit_with_recovery
from maskwell.errors import UserError
from maskwell.health.rules import NonFinite
from tests.callbacks.modules import Automatic, loader, trainer


class Scheduled(Automatic):
    """With momentum and a schedule, so that there are states to lose; notes the rate of each step."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.rates: list[tuple[int, float]] = []

    def configure_optimizers(self) -> Any:
        optimiser = torch.optim.SGD(self.parameters(), self.lr, momentum=0.5)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda n: 1.0)
        return [optimiser], [{"scheduler": schedule, "interval": "step"}]

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.rates.append((self.iteration, optimizer.param_groups[0]["lr"]))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["iteration"] = self.iteration

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.iteration = checkpoint["iteration"]


def bad(steps: set[int], below: float = math.inf) -> Any:
    return lambda step, loss: loss * (math.nan if step in steps else 1.0)


def run(folder: Path, module: Automatic, together: int = 1, **settings: Any) -> tuple[LossHealth, Any]:
    recovery = Recovery(**{"every": 10, "clean": 5, "cool_down": 5, "window": 2, **settings})
    health = LossHealth({"nonfinite": NonFinite()}, every_n_steps=5, recovery=recovery)
    early = EarlyStopping("val/loss", every_n_steps=1)
    fit = trainer(folder, health, early, max_epochs=4, limit_val_batches=0, accumulate_grad_batches=together)
    fit_with_recovery(fit, module, train_dataloaders=loader(64), weights_only=True)
    return health, fit


def test_a_run_goes_back_with_half_the_rate_and_skips_the_window(tmp_path: Path) -> None:
    module = Scheduled(spoil=bad({34, 35}))
    health, _ = run(tmp_path, module)
    assert module.iteration == 64 and health.recovery is not None
    (back,) = health.recovery.returns
    assert (back.step, back.to_step, back.factor) == (35, 20, 0.5)
    assert health.recovery.skip == (32, 35)
    after = dict(module.rates[35:])
    assert after[21] == pytest.approx(0.005) and after[64] == pytest.approx(0.005)
    assert torch.isfinite(module.net.weight).all()
    report = json.loads((tmp_path / "health.json").read_text())
    assert report["recoveries"][0]["to_step"] == 20
    # the batches of the window come again, and are not learnt from: their NaN is no new fault
    assert len(report["incidents"]) >= 1 and not list((tmp_path / "health").glob("*.ckpt"))


def test_where_gradients_are_accumulated_whole_steps_are_kept_and_skipped(tmp_path: Path) -> None:
    """Batches 29 to 31 make a step; the fault is seen at 30, and the step would still hold its gradient."""
    learnt: dict[int, bool] = {}
    seen: set[int] = set()

    def spoil(step: int, loss: torch.Tensor) -> torch.Tensor:
        """Finite where it comes again."""
        before = step in seen
        seen.add(step)
        return bad(set() if before else {29, 30})(step, loss)

    class Watched(Scheduled):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            learnt[self.iteration] = self.net.weight.grad is not None

    module = Watched(spoil=spoil)
    health, _ = run(tmp_path, module, together=3)
    assert health.recovery is not None
    assert [(r.step, r.to_step) for r in health.recovery.returns] == [(30, 22)]
    assert health.recovery.skip == (28, 30) and module.iteration == 64
    assert [learnt[step] for step in (25, 28, 31, 32, 35)] == [True, False, False, True, True]


def test_batches_that_are_left_out_do_not_enter_running_statistics(tmp_path: Path) -> None:
    """They come again as they were, with a NaN: neither it nor their mean may be left in BatchNorm."""

    class Normalised(Scheduled):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(4)

        def loss_on(self, batch: Any) -> torch.Tensor:
            inputs = batch[0].clone()
            inputs[0, 0] = math.nan if self.iteration in (34, 35) else inputs[0, 0]
            return (self.net(self.norm(inputs)) - batch[1]).pow(2).mean()

    module = Normalised()
    health, _ = run(tmp_path, module)
    assert health.recovery is not None and health.recovery.skip == (32, 35)
    assert all(torch.isfinite(buffer).all() for buffer in module.norm.buffers())
    assert int(module.norm.num_batches_tracked) == 64 - 4  # type: ignore[arg-type]


def test_after_three_returns_the_run_stops_with_its_report(tmp_path: Path) -> None:
    def spoil(step: int, loss: torch.Tensor) -> torch.Tensor:
        return loss * (math.nan if step >= 30 and step % 3 else 1.0)

    module = Scheduled(spoil=spoil)
    health, _ = run(tmp_path, module, window=0, cool_down=0)
    assert health.recovery is not None and len(health.recovery.returns) == 3
    assert health.stop_reason is not None and module.iteration < 64
    assert health.recovery.rate_factor == 0.125


def test_a_fault_before_any_healthy_checkpoint_goes_back_to_the_start(tmp_path: Path) -> None:
    module = Scheduled(spoil=bad({3, 4}))
    health, _ = run(tmp_path, module)
    assert health.recovery is not None
    assert [r.to_step for r in health.recovery.returns] == [0] and module.iteration == 64


def test_without_the_function_a_fault_stops_the_run_as_before(tmp_path: Path) -> None:
    module = Scheduled(spoil=bad({6, 7}))
    health = LossHealth({"nonfinite": NonFinite()}, recovery=Recovery())
    trainer(tmp_path, health).fit(module, loader(64))
    assert module.iteration == 7 and health.stop_reason is not None
    assert not (tmp_path / "health").exists()


def test_it_needs_a_monitor_that_can(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs LossHealth"):
        fit_with_recovery(trainer(tmp_path, LossHealth()), Automatic())


@pytest.mark.parametrize("wrong", [{"most": -1}, {"factor": 0.0}, {"every": 0}])
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"health\.recovery:"):
        Recovery(**wrong)
