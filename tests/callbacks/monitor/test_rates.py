"""Schedules of all kinds, as foreign modules bring them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as schedules

from maskwell.callbacks.loss_health import LossHealth
from maskwell.callbacks.monitor.rates import FORESEEABLE, Shadow
from maskwell.health.signals import LR, LR_EXPECTED
from tests.callbacks.modules import Automatic, loader, trainer

MADE: dict[str, Callable[[Any], Any]] = {
    "lambda": lambda o: schedules.LambdaLR(o, lambda step: 1 / (1 + step)),
    "multiplicative": lambda o: schedules.MultiplicativeLR(o, lambda _: 0.9),
    "step": lambda o: schedules.StepLR(o, 3),
    "multistep": lambda o: schedules.MultiStepLR(o, [2, 5]),
    "constant": lambda o: schedules.ConstantLR(o, 0.5, 4),
    "linear": lambda o: schedules.LinearLR(o, 0.1, total_iters=6),
    "exponential": lambda o: schedules.ExponentialLR(o, 0.9),
    "polynomial": lambda o: schedules.PolynomialLR(o, 40),
    "cosine": lambda o: schedules.CosineAnnealingLR(o, 40),
    "restarts": lambda o: schedules.CosineAnnealingWarmRestarts(o, 7),
    "one cycle": lambda o: schedules.OneCycleLR(o, 0.1, total_steps=40),
    "cyclic": lambda o: schedules.CyclicLR(o, 0.01, 0.1, step_size_up=5),
    "sequential": lambda o: schedules.SequentialLR(
        o, [schedules.LinearLR(o, 0.1, total_iters=4), schedules.CosineAnnealingLR(o, 30)], [4]
    ),
    "averaged": lambda o: torch.optim.swa_utils.SWALR(o, 0.05, anneal_epochs=3),
    "chained": lambda o: schedules.ChainedScheduler(
        [schedules.ConstantLR(o, 0.5, 4), schedules.ExponentialLR(o, 0.9)]
    ),
}
UNKNOWN = ("averaged", "chained")


def _optimiser() -> Any:
    return torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))], lr=0.02)


def test_every_schedule_that_is_foreseen_is_tried() -> None:
    tried = {type(make(_optimiser())) for make in MADE.values()}
    assert set(FORESEEABLE) <= tried


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
@pytest.mark.parametrize("name", MADE)
def test_a_shadow_says_what_the_schedule_does_and_leaves_it_alone(
    name: str, kind: type[torch.optim.Optimizer]
) -> None:
    momentum = {"momentum": 0.9} if kind is torch.optim.SGD else {}  # cycles move it too
    optimiser: Any = kind([torch.nn.Parameter(torch.ones(2))], lr=0.02, **momentum)
    real = MADE[name](optimiser)
    shadow = Shadow.of(real)
    if name in UNKNOWN:
        assert shadow is None
        return
    assert shadow is not None
    before = (real.last_epoch, optimiser.param_groups[0]["lr"])
    ahead = shadow.ahead(30)
    assert (real.last_epoch, optimiser.param_groups[0]["lr"]) == before
    for expected in ahead:
        assert optimiser.param_groups[0]["lr"] == pytest.approx(expected, rel=1e-9, abs=1e-15)
        assert shadow.rate() == pytest.approx(expected, rel=1e-9, abs=1e-15)
        optimiser.step()
        real.step()


def test_a_schedule_that_holds_another_is_not_stepped_on_a_copy() -> None:
    """The copy would share what it holds, and use up the real one before the training begins."""

    class WarmUp(schedules.LRScheduler):
        def __init__(self, optimizer: Any, after: Any) -> None:
            self.after = after
            super().__init__(optimizer)

        def get_lr(self) -> Any:
            self.after.step()
            return [group["lr"] for group in self.optimizer.param_groups]

    optimiser = _optimiser()
    inner = schedules.CosineAnnealingLR(optimiser, 20)
    assert Shadow.of(WarmUp(optimiser, inner)) is None
    around = schedules.SequentialLR(optimiser, [WarmUp(optimiser, inner), inner], [3])
    assert Shadow.of(around) is None


@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize("name", MADE)
def test_a_training_with_any_schedule_runs(tmp_path: Path, name: str, interval: str) -> None:
    class Scheduled(Automatic):
        def configure_optimizers(self) -> Any:
            optimiser = torch.optim.AdamW(self.parameters(), 0.02)
            return [optimiser], [{"scheduler": MADE[name](optimiser), "interval": interval}]

    health = LossHealth(every_n_steps=2)
    module = Scheduled()
    trainer(tmp_path, health).fit(module, loader())
    found = {f.subject for i in health.engine.incidents for f in i.findings}
    assert module.iteration == 12 and found <= {"schedule_too_long"}  # 40 epochs for a run of three


def test_a_first_group_that_rests_by_its_rate_is_no_stop_of_the_training(tmp_path: Path) -> None:
    class Resting(Automatic):
        def configure_optimizers(self) -> Any:
            groups = [{"params": [self.net.weight]}, {"params": [self.net.bias]}]
            optimiser = torch.optim.SGD(groups, 0.01)
            return [optimiser], [
                schedules.LambdaLR(optimiser, [lambda epoch: float(epoch > 1), lambda _: 1.0])
            ]

    health = LossHealth(every_n_steps=2, probe=False)
    trainer(tmp_path, health).fit(Resting(), loader())
    for stream in (LR, LR_EXPECTED):
        assert all(math.isclose(rate, 0.01) for rate in health.engine.signals.get(stream + "all").values)


def test_a_run_that_is_resumed_without_its_monitor_is_in_step(tmp_path: Path) -> None:
    """Its schedule has made hundreds of steps that the monitor never saw."""

    class Scheduled(Automatic):
        def configure_optimizers(self) -> Any:
            optimiser = torch.optim.SGD(self.parameters(), 0.01)
            schedule = schedules.CosineAnnealingLR(optimiser, 10_000)
            return [optimiser], [{"scheduler": schedule, "interval": "step"}]

    first = trainer(tmp_path / "first", max_epochs=20)
    first.fit(Scheduled(), loader(64))
    first.save_checkpoint(tmp_path / "x.ckpt")
    health = LossHealth(every_n_steps=8, probe=False)
    trainer(tmp_path / "second", health, max_epochs=40).fit(
        Scheduled(), loader(64), ckpt_path=str(tmp_path / "x.ckpt")
    )
    rules = {f.rule for i in health.engine.incidents for f in i.findings if f.severity != "info"}
    assert "schedule_desync" not in rules and health.engine.signals.value("counter/schedule_steps/all") > 300


def test_a_cycle_does_not_keep_the_monitor_deaf(tmp_path: Path) -> None:
    class Cyclic(Automatic):
        def configure_optimizers(self) -> Any:
            optimiser = torch.optim.SGD(self.parameters(), 0.01)
            schedule = schedules.CosineAnnealingWarmRestarts(optimiser, 20)
            return [optimiser], [{"scheduler": schedule, "interval": "step"}]

    health = LossHealth(every_n_steps=8, probe=False)
    trainer(tmp_path, health, max_epochs=40).fit(Cyclic(), loader(64))
    declared = health.engine.signals.get("event/lr_change")
    assert 1 <= declared.seen <= 4


@pytest.mark.parametrize(
    ("make", "interval", "told"),
    [
        (lambda o: schedules.CosineAnnealingLR(o, 640), "epoch", "schedule_too_long"),
        (lambda o: schedules.OneCycleLR(o, 0.1, total_steps=640), "epoch", "schedule_too_long"),
        (lambda o: schedules.StepLR(o, 3), "step", "rate_gone_early"),
        (lambda o: schedules.CosineAnnealingLR(o, 160), "step", None),
        (lambda o: schedules.CosineAnnealingLR(o, 10), "epoch", None),
        (lambda o: schedules.StepLR(o, 60), "step", None),
        (lambda o: schedules.CosineAnnealingWarmRestarts(o, 20), "step", None),
    ],
)
def test_a_schedule_in_the_wrong_unit_is_told_before_the_first_step(
    tmp_path: Path, make: Callable[[Any], Any], interval: str, told: str | None
) -> None:
    class Scheduled(Automatic):
        def configure_optimizers(self) -> Any:
            optimiser = torch.optim.SGD(self.parameters(), 0.01, momentum=0.9)
            return [optimiser], [{"scheduler": make(optimiser), "interval": interval}]

    health = LossHealth(every_n_steps=8)
    trainer(tmp_path, health, max_epochs=10, limit_train_batches=16).fit(Scheduled(), loader(64))
    found = {f.subject for i in health.engine.incidents for f in i.findings if f.rule == "config_lint"}
    assert found - {"warmup_too_long"} == ({told} if told else set())


def test_a_group_that_rests_by_its_rate_is_not_one_that_no_optimiser_steps(tmp_path: Path) -> None:
    class Resting(Automatic):
        def configure_optimizers(self) -> Any:
            groups = [{"params": [self.net.bias]}, {"params": [self.net.weight], "lr": 0.0}]
            return torch.optim.SGD(groups, 0.01)

    health = LossHealth(every_n_steps=8, probe=False)
    trainer(tmp_path, health, max_epochs=16).fit(Resting(), loader(64))
    rules = {f.rule for i in health.engine.incidents for f in i.findings if f.severity != "info"}
    assert "unchanged_parameters" not in rules
