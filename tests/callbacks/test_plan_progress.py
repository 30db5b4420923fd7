from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lightning import Callback, LightningDataModule
from rich.console import Console

from maskwell.callbacks import progress
from maskwell.callbacks.plan import Plan, duration
from maskwell.callbacks.progress import TrainingProgress
from tests.callbacks.modules import Automatic, Manual, loader, trainer


class Planner(Callback):
    plan: Plan

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.plan = Plan.of(trainer, pl_module)


def test_the_plan_counts_images_iterations_and_parameters(tmp_path: Path) -> None:
    planner, module = Planner(), Automatic()
    module.net.bias.requires_grad_(False)
    fit = trainer(tmp_path, planner, max_epochs=2, accumulate_grad_batches=2)
    fit.fit(module, loader(18), loader(7))
    plan = planner.plan
    assert plan.images == {"train": 18, "val": 7} and plan.batches == 5 and plan.total == 10
    assert plan.per_step == "8 (4 x 2 accumulated)" and (plan.trained, plan.parameters) == (4, 5)
    assert "4 of 5 parameters trained (80.0%)" in plan.text()


@pytest.mark.parametrize(("module", "expected"), [(Automatic, 6), (Manual, 3)])
def test_a_limit_of_steps_counts_every_optimiser_once(
    tmp_path: Path, module: type[Automatic], expected: int
) -> None:
    planner, trained = Planner(), module()
    trainer(tmp_path, planner, max_epochs=50, max_steps=6).fit(trained, loader())
    assert planner.plan.total == trained.iteration == expected


def test_loaders_drawn_from_together_are_summed(tmp_path: Path) -> None:
    class Pair(Automatic):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch["labelled"], batch_idx)

    planner = Planner()
    trainer(tmp_path, planner, max_epochs=1).fit(
        Pair(), {"labelled": loader(8, 2), "unlabelled": loader(12, 3)}
    )
    assert planner.plan.images == {"train": 20} and planner.plan.per_step == "5"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.42, "0.4 s"), (42, "42 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_without_a_terminal_there_are_few_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = TrainingProgress(every_seconds=3600, measure=3)
    trainer(tmp_path, shown, max_epochs=3).fit(Automatic(), loader(64), loader())
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["plan:", "4", "time:", *["iteration"] * 3]
    assert (
        lines[3].startswith("iteration 16/48  epoch 1  loss ")
        and "val/loss" in lines[3]
        and "left" in lines[3]
    )
    assert lines[5].endswith("0.0 s left")
    assert shown.seconds_per_iteration is not None and 0 < shown.seconds_per_iteration < 1


def test_lines_come_no_faster_than_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10**6))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))  # a second per look
    trainer(tmp_path, TrainingProgress(every_seconds=10), max_epochs=1).fit(Automatic(), loader(160))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("iteration")]
    assert len(lines) == 4  # 40 iterations


def test_on_a_terminal_there_is_a_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, color_system=None)
    monkeypatch.setattr(progress, "Console", lambda: console)
    shown = TrainingProgress()
    fit = trainer(tmp_path, shown, max_epochs=2)
    fit.validate(Automatic(), loader(), verbose=False)
    fit.fit(Automatic(), loader(), loader())
    assert "training" in screen.getvalue() and "8/8" in screen.getvalue() and "val/loss" in screen.getvalue()
    assert shown._bar is None


def test_the_bar_goes_when_training_crashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), force_terminal=True)
    monkeypatch.setattr(progress, "Console", lambda: console)
    shown = TrainingProgress()

    def crash(step: int, loss: Any) -> Any:
        raise ValueError("crash")

    with pytest.raises(ValueError, match="crash"):
        trainer(tmp_path, shown).fit(Automatic(spoil=crash), loader())
    assert shown._bar is None


def test_object_counts_of_the_data_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    @dataclass
    class Summary:
        first_samples: tuple[int, ...] = (1, 1, 2)
        first_batches: tuple[int, ...] = (4,)
        rehearsal: int = 0
        labelled: int | None = None
        unlabelled: int | None = None

    class Data(LightningDataModule):
        def train_dataloader(self) -> Any:
            return loader()

        def summary(self) -> Summary:
            return summary

    summary = Summary()
    trainer(tmp_path, TrainingProgress(), max_epochs=1).fit(Automatic(), datamodule=Data())
    assert "objects in the first samples: 1, 1, 2; in the first batches: 4" in capsys.readouterr().out
    summary = Summary(labelled=46, unlabelled=1321)
    trainer(tmp_path, TrainingProgress(), max_epochs=1).fit(Automatic(), datamodule=Data())
    assert "      46 labelled images, 1,321 unlabelled ones" in capsys.readouterr().out


def test_a_resumed_run_counts_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = trainer(tmp_path, max_epochs=1)
    first.fit(Automatic(), loader(), loader())
    first.save_checkpoint(tmp_path / "a.ckpt")
    capsys.readouterr()
    second = trainer(tmp_path, TrainingProgress(), max_epochs=2)
    second.fit(Automatic(), loader(), loader(), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert "iteration 8/8" in capsys.readouterr().out
