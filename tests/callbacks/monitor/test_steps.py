"""What is measured around optimiser steps, and which faults the rules make of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from maskwell.callbacks.faults import Fault, Overflow
from maskwell.callbacks.grad_clip import GradClip
from maskwell.callbacks.loss_health import LossHealth
from tests.callbacks.modules import Automatic, Manual, loader, trainer


def rules_of(health: LossHealth) -> set[str]:
    """Without the one that is right about the test's data: it comes in the same order each epoch."""
    found = {f.rule for i in health.engine.incidents for f in i.findings if f.severity != "info"}
    return found - {"sawtooth"}


def train(folder: Path, module: Any, steps: int = 64, *more: Any, **settings: Any) -> LossHealth:
    health = LossHealth(every_n_steps=8)
    fit = trainer(folder, health, *more, max_epochs=steps // 16, **settings)
    fit.fit(module, loader(64))
    return health


class GradientsBad(Automatic):
    """The gradient of step 5 is infinite though the loss is finite."""

    def on_after_backward(self) -> None:
        if self.iteration == 5:
            self.net.weight.grad.fill_(math.inf)  # type: ignore[union-attr]


@pytest.mark.parametrize("clip", [True, False])
def test_a_bad_gradient_beside_a_finite_loss_is_skipped_and_named(tmp_path: Path, clip: bool) -> None:
    module = GradientsBad()
    seen: list[Tensor] = []

    class Keep(GradClip):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            if pl_module.iteration in (4, 5):
                seen.append(pl_module.net.weight.detach().clone())

    health = train(tmp_path, module, 16, *([Keep()] if clip else []))
    assert torch.isfinite(module.net.weight).all()
    assert rules_of(health) == {"nonfinite_gradient"} and health.steps.skipped == 1
    if clip:
        assert torch.equal(*seen)


class Poisoned(Automatic):
    """A weight is NaN from step 5 on, as one of a damaged checkpoint."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.iteration == 4:
            with torch.no_grad():
                self.net.weight[0, 0] = math.nan


def first_cause(folder: Path, module: Automatic, *faults: Fault) -> tuple[str, str]:
    """Label and rule of the first incident; the faults stand before the monitor."""
    health = LossHealth(every_n_steps=8)
    trainer(folder, *faults, health, max_epochs=1).fit(module, loader(64))
    incident: Any = health.engine.ranked_incidents[0]
    return incident.ranked[0].label, incident.cause.rule


@pytest.mark.parametrize("norm", [False, True])
def test_an_overflow_inside_the_network_is_told_from_a_broken_sample(tmp_path: Path, norm: bool) -> None:
    """Input and weights are finite; running statistics, which the bad pass has written, are none."""
    module = Automatic()
    if norm:
        module.net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))  # type: ignore[assignment]
    assert first_cause(tmp_path, module, Overflow(1e9, start=4)) == ("overflow", "nonfinite")


def test_weights_that_were_bad_before_the_step_are_the_cause(tmp_path: Path) -> None:
    assert first_cause(tmp_path, Poisoned()) == ("bad_weights", "nonfinite_state")


class Normalised(Automatic):
    """With BatchNorm; ``broken`` batches, counted from 1, hold a NaN."""

    def __init__(self, *broken: int) -> None:
        super().__init__()
        self.broken = broken
        self.norm = nn.BatchNorm1d(4)

    def loss_on(self, batch: Any) -> Tensor:
        inputs = batch[0].clone()
        inputs[0, 0] = math.nan if self.iteration in self.broken else inputs[0, 0]
        return (self.net(self.norm(inputs)) - batch[1]).pow(2).mean()


@pytest.mark.parametrize("together", [1, 2])
def test_a_dropped_step_leaves_no_trace_in_running_statistics(tmp_path: Path, together: int) -> None:
    """Neither the NaN, nor what the sound batches of the same step gave: the weights know them not either."""
    module, sound = Normalised(3), Normalised()
    train(tmp_path, module, 16, accumulate_grad_batches=together)
    assert all(torch.isfinite(buffer).all() for buffer in module.norm.buffers())
    assert int(module.norm.num_batches_tracked) == 16 - together  # type: ignore[arg-type]
    train(tmp_path, sound, 16, accumulate_grad_batches=together)
    assert int(sound.norm.num_batches_tracked) == 16  # type: ignore[arg-type]
    assert not torch.equal(module.norm.running_mean, torch.zeros(4))  # type: ignore[arg-type]


def test_several_optimisers_are_each_skipped_by_their_own_gradients(tmp_path: Path) -> None:
    class Half(Manual):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            self.iteration += 1
            poison = math.nan if self.iteration == 3 else 1.0
            for optimiser, value in zip(
                self.optimizers(),
                (self.loss_on(batch) * poison, self.other(batch[0]).pow(2).mean()),
                strict=True,
            ):
                optimiser.zero_grad()
                self.manual_backward(value)
                optimiser.step()
            self.log("train/loss", value)

    module = Half()
    health = train(tmp_path, module, 16)
    assert torch.isfinite(module.net.weight).all() and torch.isfinite(module.other.weight).all()
    signals = health.engine.signals
    assert signals.value("counter/optimizer_steps/generator") == 16
    assert len(signals.get("grad/discriminator")) == 16 and len(signals.get("grad/generator")) == 15


def test_gradients_that_are_never_zeroed_are_named(tmp_path: Path) -> None:
    class Adding(Manual):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            self.iteration += 1
            loss = self.loss_on(batch)
            optimiser, _ = self.optimizers()
            self.manual_backward(loss)
            optimiser.step()
            self.log("train/loss", loss)

    health = train(tmp_path, Adding(lr=1e-4), 64)
    assert "gradients_not_zeroed" in rules_of(health)


def test_healthy_gradients_raise_nothing(tmp_path: Path) -> None:
    health = train(tmp_path, Automatic(lr=0.02), 64, GradClip(1.0))
    assert rules_of(health) == set()
    signals = health.engine.signals
    assert signals.get("update/net").latest is not None and len(signals.get("grad/all")) == 64
    assert signals.get("grad_clipped/all").values.max() <= 1.0 + 1e-5
    assert signals.value("state_bad/weights") == 0 and signals.value("system/allocated_mib") > 1


def test_clipping_that_does_nothing_is_named(tmp_path: Path) -> None:
    class Inert(GradClip):
        def on_before_optimizer_step(self, *_: Any) -> None:
            """Configured, and never called in time."""

    health = train(tmp_path, Automatic(lr=1e-5), 16, Inert(max_norm=0.01))
    assert "clip_inert" in rules_of(health)
    incident = health.engine.ranked_incidents[0]
    assert incident.ranked[0].label == "clip" and incident.first_step == 8  # the first that is measured


class Forgotten(Automatic):
    """A second layer that no optimiser holds."""

    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Linear(1, 1)

    def loss_on(self, batch: Any) -> Tensor:
        return (self.extra(self.net(batch[0])) - batch[1]).pow(2).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.net.parameters(), 0.01)


def test_parameters_outside_the_optimiser_are_named_before_the_first_step(tmp_path: Path) -> None:
    health = train(tmp_path, Forgotten(), 16)
    (incident,) = [i for i in health.engine.ranked_incidents if i.cause.rule == "parameter_coverage"]
    assert "extra.weight" in incident.cause.cause and incident.first_step == 0
    assert incident.ranked[0].label == "not_optimised"


def test_a_layer_without_gradient_and_one_that_is_put_back_are_named(tmp_path: Path) -> None:
    class Frozen(Automatic):
        def __init__(self) -> None:
            super().__init__(lr=0.01)
            self.unused = nn.Linear(4, 1)

        def on_train_batch_end(self, *_: Any) -> None:
            with torch.no_grad():
                self.net.weight.copy_(self.kept)

        def on_train_start(self) -> None:
            self.kept = self.net.weight.detach().clone()

    health = train(tmp_path, Frozen(), 144)
    found = {f.rule: f for i in health.engine.incidents for f in i.findings}
    assert "unused" in found["no_gradient"].cause
    assert "net.weight" in found["unchanged_parameters"].cause


def test_a_rate_changed_behind_the_schedules_back_is_named(tmp_path: Path) -> None:
    class Scheduled(Automatic):
        def configure_optimizers(self) -> Any:
            optimiser = torch.optim.SGD(self.parameters(), 0.01)
            schedule = torch.optim.lr_scheduler.SequentialLR(
                optimiser,
                [
                    torch.optim.lr_scheduler.LinearLR(optimiser, 0.1, total_iters=8),
                    torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 60),
                ],
                milestones=[8],
            )
            return [optimiser], [{"scheduler": schedule, "interval": "step"}]

    health = train(tmp_path / "a", Scheduled(), 48)
    signals = health.engine.signals
    assert rules_of(health) == set()
    assert signals.get("lr/all").last(40) == pytest.approx(signals.get("lr_expected/all").last(40))

    class Meddled(Scheduled):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            if self.iteration > 10:
                optimizer.param_groups[0]["lr"] = 0.05

    health = train(tmp_path / "b", Meddled(), 48)
    assert "rate_off_plan" in rules_of(health)


def test_unfreezing_is_seen_and_excuses(tmp_path: Path) -> None:
    class Later(Automatic):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(1, 1).requires_grad_(False)

        def loss_on(self, batch: Any) -> Tensor:
            return (self.head(self.net(batch[0])) - batch[1]).pow(2).mean()

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            if self.iteration == 20:
                self.head.requires_grad_(True)

    health = train(tmp_path, Later(), 32)
    assert health.engine.signals.get("event/unfreeze").latest_step == 24


def test_noise_of_accumulated_batches_is_measured(tmp_path: Path) -> None:
    health = train(tmp_path, Automatic(lr=1e-4), 64, accumulate_grad_batches=4)
    small, large = health.engine.signals.get("noise/small"), health.engine.signals.get("noise/large")
    assert len(small) == len(large) > 0 and small.values.mean() > large.values.mean() > 0
    assert health.engine.signals.value("noise/ratio") == 4


@pytest.mark.parametrize("bad", [None, 25])
def test_noise_is_measured_of_the_first_batch_of_a_whole_step(tmp_path: Path, bad: int | None) -> None:
    """All batches have the same gradient: one alone is as large as their mean. Epochs end with 1 of 3."""

    class Same(Automatic):
        def loss_on(self, batch: Any) -> Tensor:
            return self.net.weight.sum() * (math.nan if self.iteration == bad else 1.0)

    health = train(tmp_path, Same(lr=1e-6), 64, accumulate_grad_batches=3)
    small, large = health.engine.signals.get("noise/small"), health.engine.signals.get("noise/large")
    assert len(large) > 0 and small.values.tolist() == pytest.approx(large.values.tolist())
    assert large.values.tolist() == pytest.approx([4.0] * len(large))


def test_planned_changes_are_declared(tmp_path: Path) -> None:
    class Planned(Automatic):
        planned_changes: ClassVar[dict[int, str]] = {7: "ramp"}

    health = train(tmp_path, Planned(), 16)
    assert health.engine.signals.get("event/ramp").latest_step == 7


def test_running_out_of_memory_leaves_advice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Hungry(Automatic):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if self.iteration == 3:
                raise torch.OutOfMemoryError("no")
            return super().training_step(batch, batch_idx)

    with pytest.raises(torch.OutOfMemoryError):
        train(tmp_path, Hungry(), 16)
    assert "data.batch_size=2 trainer.accumulate_grad_batches=2" in capsys.readouterr().out


def test_buffers_that_are_infinite_by_design_are_no_fault(tmp_path: Path) -> None:
    class Masked(Automatic):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", torch.full((3, 3), -math.inf).triu(1))
            self.register_buffer("running", torch.zeros(2))

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            if self.iteration == self.poisoned_at:
                self.running.fill_(math.nan)

        poisoned_at = -1

    module = Masked()
    health = train(tmp_path / "well", module, 96)
    assert rules_of(health) == set() and health.steps.state_is_finite(module)
    module = Masked()
    module.poisoned_at = 40
    health = train(tmp_path / "ill", module, 96)
    assert rules_of(health) == {"nonfinite_state"} and not health.steps.state_is_finite(module)


def test_an_optimiser_whose_weights_are_all_frozen_is_left_alone(tmp_path: Path) -> None:
    class Frozen(Manual):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Linear(4, 4).requires_grad_(False)

        def configure_optimizers(self) -> Any:
            return [*super().configure_optimizers(), torch.optim.SGD(self.backbone.parameters(), 0.1)]

        def training_step(self, batch: Any, batch_idx: int) -> None:
            self.iteration += 1
            loss = self.loss_on(batch) + self.other(batch[0]).pow(2).mean()
            optimisers: Any = self.optimizers()
            for optimiser in optimisers:
                optimiser.zero_grad()
            self.manual_backward(loss)
            for optimiser in optimisers:
                optimiser.step()

    module = Frozen()
    module.optimizer_names = ("first", "second", "frozen")  # type: ignore[assignment]
    assert train(tmp_path, module).verdict != "broken"


def test_of_accumulated_batches_the_bad_one_is_told_from_the_last(tmp_path: Path) -> None:
    """The last one is not to blame: neither its input nor its gradients, and it is not what is replayed."""
    health = LossHealth(every_n_steps=8)
    module = Automatic(spoil=lambda step, loss: loss * (math.nan if step == 6 else 1.0))
    trainer(tmp_path, health, max_epochs=1, accumulate_grad_batches=4).fit(module, loader(64))
    assert rules_of(health) == {"nonfinite"} and torch.isfinite(module.net.weight).all()
    signals = health.engine.signals
    assert signals.get("nonfinite/loss").latest_step == 6 and not signals.get("bad_gradient").seen
    assert not signals.get("input_seen").seen and not (tmp_path / "first_bad.ckpt").exists()
    own = Automatic(spoil=lambda step, loss: loss * (math.nan if step == 8 else 1.0))
    trainer(tmp_path, LossHealth(), max_epochs=1, accumulate_grad_batches=4).fit(own, loader(64))
    content = torch.load(tmp_path / "first_bad.ckpt", weights_only=True)["health_capture"]
    assert (content["step"], content["why"]) == (8, "the loss is not finite")
