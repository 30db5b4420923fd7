from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from maskwell.callbacks.grad_clip import GradClip
from maskwell.callbacks.loss_health import LossHealth
from maskwell.errors import UserError
from maskwell.health.rules import Constant, DeadPart, NonFinite, Normaliser, Rising, Rule, default_rules
from tests.callbacks.modules import Automatic, Manual, Memory, loader, trainer


def _nan_at(*steps: int) -> Any:
    return lambda step, loss: loss * (math.nan if step in steps else 1.0)


def _report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "health.json").read_text())  # type: ignore[no-any-return]


def _rules_of(folder: Path) -> list[str]:
    return [f["rule"] for incident in _report(folder)["incidents"] for f in incident["findings"]]


@pytest.mark.parametrize("module", [Automatic, Manual])
def test_a_healthy_run_is_called_healthy(
    tmp_path: Path, module: type[Automatic], capsys: pytest.CaptureFixture[str]
) -> None:
    trainer(tmp_path, LossHealth(every_n_steps=2), max_epochs=6).fit(module(), loader())
    assert _report(tmp_path)["verdict"] == "healthy" and _report(tmp_path)["incidents"] == []
    assert capsys.readouterr().out == "health: healthy\n"


@pytest.mark.parametrize("module", [Automatic, Manual])
def test_a_single_bad_step_is_told_at_once_and_training_goes_on(
    tmp_path: Path, module: type[Automatic], capsys: pytest.CaptureFixture[str]
) -> None:
    trained = module(spoil=_nan_at(6))
    trainer(tmp_path, GradClip(), LossHealth(every_n_steps=100)).fit(trained, loader())
    report = _report(tmp_path)
    assert trained.iteration == 12 and report["verdict"] == "look at"
    (finding,) = report["incidents"][0]["findings"]
    assert (finding["rule"], finding["step"], finding["severity"]) == ("nonfinite", 6, "warn")
    assert capsys.readouterr().out.count("health: look at, step 6") == 1


@pytest.mark.parametrize("module", [Automatic, Manual])
def test_the_second_bad_step_in_a_row_stops(
    tmp_path: Path, module: type[Automatic], capsys: pytest.CaptureFixture[str]
) -> None:
    health = LossHealth(every_n_steps=100)
    trained = module(spoil=_nan_at(6, 7))
    trainer(tmp_path, GradClip(), health).fit(trained, loader())
    assert trained.iteration == 7 and health.verdict == "broken"
    assert health.stop_reason is not None and "NaN or infinite again" in health.stop_reason
    assert "optim.lr=0.001" in capsys.readouterr().out
    assert _report(tmp_path)["step"] == 7


def test_a_stop_waits_for_the_optimiser_step_of_accumulated_batches(tmp_path: Path) -> None:
    health = LossHealth(every_n_steps=1)
    trained = Automatic(spoil=_nan_at(4, 5))
    trainer(tmp_path, GradClip(), health, accumulate_grad_batches=3).fit(trained, loader())
    # an epoch has four batches: the optimiser steps with 3, 4, 7 and 8
    assert health.stop_reason is not None and trained.iteration == 7


def test_the_action_is_configurable(tmp_path: Path) -> None:
    health = LossHealth({"nonfinite": NonFinite(action="warn")})
    trained = Automatic(spoil=_nan_at(6, 7))
    trainer(tmp_path, GradClip(), health).fit(trained, loader())
    assert trained.iteration == 12 and health.verdict == "broken" and health.stop_reason is None


def test_a_bad_part_beside_a_finite_loss_is_seen(tmp_path: Path) -> None:
    class Poisoned(Automatic):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            outputs = super().training_step(batch, batch_idx)
            value = torch.tensor(math.inf if self.iteration == 3 else 1.0)
            return {**outputs, "parts": {"loss_box": torch.tensor(1.0), "loss_mask": value}}

    trainer(tmp_path, LossHealth()).fit(Poisoned(), loader())
    assert _report(tmp_path)["incidents"][0]["cause"] == "loss_mask is NaN or infinite in a single step"


@pytest.mark.parametrize(("spoil", "rule"), [(1.2, "rising"), (0.0, "constant")])
def test_epoch_rules_hear_the_mean_loss(tmp_path: Path, spoil: float, rule: str) -> None:
    def shaped(step: int, loss: Tensor) -> Tensor:
        return loss * 0 + 5 + (spoil ** ((step - 1) // 4) if spoil else 0.0)

    trainer(tmp_path, LossHealth(), max_epochs=10).fit(Automatic(spoil=shaped), loader())
    assert rule in _rules_of(tmp_path)


def test_the_mean_of_an_epoch_and_its_error(tmp_path: Path) -> None:
    health = LossHealth(every_n_steps=3)
    trained = Automatic(spoil=lambda step, loss: loss * 0 + step)
    trainer(tmp_path, health, max_epochs=2).fit(trained, loader())
    assert health.engine.signals.get("epoch/loss").last(2) == [2.5, 6.5]
    expected = torch.tensor([1.0, 2.0, 3.0, 4.0]).std().item() / 2
    assert health.engine.signals.get("epoch/loss_error").last(2) == pytest.approx([expected] * 2)


def test_a_dead_part_is_seen_and_roles_excuse_it(tmp_path: Path) -> None:
    class Dead(Automatic):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return {**super().training_step(batch, batch_idx), "parts": {"loss_edge": torch.zeros(())}}

    rules: dict[str, Rule | None] = {"dead_part": DeadPart(steps=8)}
    trainer(tmp_path / "a", LossHealth(rules, every_n_steps=4)).fit(Dead(), loader())
    assert _rules_of(tmp_path / "a") == ["dead_part"]
    excused = LossHealth(
        {"dead_part": DeadPart(steps=8)}, every_n_steps=4, roles={"loss_edge": "consistency"}
    )
    trainer(tmp_path / "b", excused).fit(Dead(), loader())
    assert _rules_of(tmp_path / "b") == []


def test_no_objects_stop_the_run(tmp_path: Path) -> None:
    class Empty(Automatic):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return {**super().training_step(batch, batch_idx), "facts": {"num_objects": torch.tensor(0)}}

    trained = Empty()
    untimed = LossHealth({**default_rules(), "data_bound": None})  # steps as short as their loading
    trainer(tmp_path, untimed, max_epochs=20).fit(trained, loader())
    assert trained.iteration == 64 and _rules_of(tmp_path) == ["no_objects"]


def test_a_summed_loss_is_found_before_the_first_step(tmp_path: Path) -> None:
    class Summed(Automatic):
        def loss_on(self, batch: Any) -> Tensor:
            return (self.net(batch[0]) - batch[1]).pow(2).sum()

    trained = Summed(lr=1e-3)
    memory = Memory()
    trainer(tmp_path, LossHealth(), max_epochs=1, logger=memory).fit(trained, loader())
    (finding,) = _report(tmp_path)["incidents"][0]["findings"]
    assert finding["rule"] == "normaliser" and finding["step"] == 0
    assert finding["evidence"]["loss_doubled_over_single"] == pytest.approx(2.0, abs=1e-4)
    assert memory.series("health/normaliser") == [1.0]


def test_the_probe_changes_no_training(tmp_path: Path) -> None:
    weights = []
    for probe in (True, False):
        module = Automatic()
        torch.manual_seed(5)
        trainer(tmp_path, LossHealth(probe=probe)).fit(module, loader())
        weights.append((module.net.weight.clone(), torch.get_rng_state()))
    assert torch.equal(weights[0][0], weights[1][0]) and torch.equal(weights[0][1], weights[1][1])


def test_a_probe_that_cannot_run_is_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Picky(Automatic):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().loss_on(batch)

        def loss_on(self, batch: Any) -> Tensor:
            raise RuntimeError("needs exactly four")

    trainer(tmp_path, LossHealth(), max_epochs=1).fit(Picky(), loader())
    assert "could not run (RuntimeError: needs exactly four)" in capsys.readouterr().out


class Silent(Manual):
    """As Lightning's own example of a GAN: two losses, logged under names of its own, none returned."""

    def log(self, name: str, *args: Any, **kwargs: Any) -> None:
        super().log({"train/loss": "g_loss"}.get(name, name), *args, **kwargs)


def test_a_module_that_returns_no_loss_is_heard_by_what_goes_backward(tmp_path: Path) -> None:
    health = LossHealth(every_n_steps=2)
    trainer(tmp_path / "well", GradClip(), health).fit(Silent(), loader())
    loss = health.engine.signals.get("loss")
    assert health.verdict == "healthy" and (loss.seen, loss.role, loss.latest_step) == (12, "adversarial", 12)
    ill = LossHealth(every_n_steps=100)
    trainer(tmp_path / "ill", GradClip(), ill).fit(Silent(spoil=_nan_at(6)), loader())
    assert ill.verdict == "look at" and _rules_of(tmp_path / "ill") == ["nonfinite"]


def test_a_batch_that_is_not_learnt_from_does_not_repeat_the_loss_before(tmp_path: Path) -> None:
    class Skipping(Automatic):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if self.iteration % 3 == 2:
                self.iteration += 1
                return None
            loss = self.loss_on(batch)
            self.iteration += 1
            self.log("train/loss", loss)
            return loss

    health = LossHealth(every_n_steps=2)
    trainer(tmp_path, health).fit(Skipping(), loader())
    signals = health.engine.signals
    assert signals.step == 12 and signals.get("loss").seen == 8 and health.steps.skipped == 4


def test_flags_are_logged_at_each_check(tmp_path: Path) -> None:
    memory = Memory()
    health = LossHealth({"nonfinite": NonFinite(window=4), "rising": Rising()}, every_n_steps=4)
    trainer(tmp_path, GradClip(), health, logger=memory).fit(Automatic(spoil=_nan_at(4)), loader())
    # at steps 4, 8 and 12, and at the end of each of the three epochs
    assert memory.series("health/nonfinite") == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    assert memory.series("health/rising") == [0.0, 0.0, 0.0]


def test_logged_steps_never_go_back(tmp_path: Path) -> None:
    memory = Memory()
    trainer(tmp_path, LossHealth(every_n_steps=3), logger=memory).fit(Automatic(), loader(), loader())
    steps = [step for step, _ in memory.rows if step is not None]
    assert steps == sorted(steps)  # W&B drops what comes late


def test_a_resumed_run_keeps_its_memory_and_fires_nothing_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(epochs: int, checkpoint: str | None) -> LossHealth:
        health = LossHealth(every_n_steps=4)
        fit = trainer(tmp_path, GradClip(), health, max_epochs=epochs)
        fit.fit(Automatic(spoil=_nan_at(2)), loader(), ckpt_path=checkpoint, weights_only=True)
        fit.save_checkpoint(tmp_path / "a.ckpt")
        return health

    first = run(2, None)
    assert capsys.readouterr().out.count("look at, step 2:") == 1
    second = run(4, str(tmp_path / "a.ckpt"))
    assert "step 2:" not in capsys.readouterr().out
    assert second.verdict == "look at" and len(second.engine.incidents) == 1
    assert second.engine.signals.get("epoch/loss").seen == 4
    assert second.engine.signals.get("loss").last(9)[:7] == first.engine.signals.get("loss").last(9)


def test_a_checkpoint_between_validation_and_the_end_of_its_epoch_loses_no_epoch(tmp_path: Path) -> None:
    class SaveAtValidation(GradClip):
        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            trainer.save_checkpoint(tmp_path / "v.ckpt")

    trainer(tmp_path, SaveAtValidation(), LossHealth(), max_epochs=1).fit(Automatic(), loader(), loader())
    resumed = LossHealth()
    fit = trainer(tmp_path, SaveAtValidation(), resumed, max_epochs=3)
    fit.fit(Automatic(), loader(), loader(), ckpt_path=tmp_path / "v.ckpt", weights_only=True)
    assert list(resumed.engine.signals.get("epoch/loss").steps) == [1, 2, 3]


def test_validation_figures_reach_the_rules(tmp_path: Path) -> None:
    health = LossHealth()
    module = Automatic()
    module.val_losses = [3.0, 2.0, 1.0]
    trainer(tmp_path, health).fit(module, loader(), loader())
    assert health.engine.signals.get("metric/val/loss").last(3) == [3.0, 2.0, 1.0]


def test_an_exception_leaves_a_report(tmp_path: Path) -> None:
    def crash(step: int, loss: Tensor) -> Tensor:
        if step == 5:
            raise ValueError("crash")
        return loss

    with pytest.raises(ValueError, match="crash"):
        trainer(tmp_path, LossHealth(every_n_steps=100)).fit(Automatic(spoil=crash), loader())
    assert _report(tmp_path)["step"] == 4


def test_rules_set_to_null_are_left_out() -> None:
    health = LossHealth({"rising": None, "constant": Constant(), "normaliser": Normaliser()})
    assert sorted(health.engine.rules) == ["constant", "normaliser"]


@pytest.mark.parametrize("bad", [{"every_n_steps": 0}, {"roles": {"loss_d": "enemy"}}])
def test_bad_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"health.{next(iter(bad))}"):
        LossHealth(**bad)
