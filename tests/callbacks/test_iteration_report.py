from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from maskwell.callbacks.checklist import checklist
from maskwell.callbacks.early_stopping import EarlyStopping
from maskwell.callbacks.iteration_report import IterationReport, evaluation, line
from maskwell.callbacks.run_checkpoint import RunCheckpoint
from tests.callbacks.modules import Manual, loader, trainer

TRAIN, VAL = [0.30, 0.45, 0.50, 0.70], [0.28, 0.40, 0.38, 0.41]


class Counted(Manual):
    """A training with two optimisers that is counted in iterations, with scripted mIoUs."""

    monitor = "val/miou"
    mode = "max"
    iterations: int | None = 16

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        super().training_step(batch, batch_idx)
        losses = {name: torch.tensor(value) for name, value in (("loss_ce", 2.47), ("loss_d", 0.184))}
        return {"loss": torch.tensor(1.0), "parts": losses, "facts": {"st_count": torch.tensor(2)}}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        at = self.iteration // 4 - 1
        self.log_dict({"val/train_miou": torch.tensor(TRAIN[at]), "val/miou": torch.tensor(VAL[at])})


def _fit(folder: Path, *callbacks: Any, module: Counted | None = None, **more: Any) -> Counted:
    module = module or Counted()
    settings = {
        "max_epochs": 1,
        "val_check_interval": 4,
        "check_val_every_n_epoch": None,
        "enable_checkpointing": any(isinstance(c, RunCheckpoint) for c in callbacks),
    }
    trainer(folder, *callbacks, **settings).fit(module, loader(64), loader(), **more)
    return module


def test_the_line_of_the_notes() -> None:
    parts = {"loss_ce": 2.47, "loss_fm": 0.0374, "loss_st": 0.0, "loss_d": 0.184, "loss_g": 2.5}
    facts = {"st_count": torch.tensor(2.0), "st_of": torch.tensor(4.0)}
    said = line(500, 50000, {name: torch.tensor(value) for name, value in parts.items()}, facts)
    assert said == (
        "Iter 500/50000 | Loss_CE: 2.470 | Loss_FM: 0.037 | Loss_ST: 0.000 | Loss_D: 0.184 | ST_Count: 2/4"
    )
    assert line(1, 9, {"loss_ce": torch.tensor(1.0)}, {}) == "Iter 1/9 | Loss_CE: 1.000"


def test_the_evaluation_of_the_notes() -> None:
    assert evaluation(0.62339, 0.58761, 0.56541) == [
        "Training mIoU: 0.6234",
        "Validation mIoU: 0.5876",
        "✓ New best validation mIoU: 0.5876 (previous: 0.5654)",
    ]
    assert evaluation(None, 0.3, None) == ["Validation mIoU: 0.3000", "✓ New best validation mIoU: 0.3000"]
    assert evaluation(0.3, 0.3, 0.4)[-1] == "Best validation mIoU so far: 0.4000"
    assert "not defined" in evaluation(0.3, None, None)[-1]


def test_a_checklist_says_of_each_line_whether_it_holds() -> None:
    assert checklist([("best.ckpt exists", True, "x"), ("gap", False, "")]).splitlines() == [
        "",
        "Checklist",
        "[ok]  best.ckpt exists: x",
        "[not] gap",
    ]


def test_a_whole_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = IterationReport(every=5)
    _fit(tmp_path, report, RunCheckpoint(str(tmp_path / "checkpoints"), every_iterations=8))
    said = capsys.readouterr().out
    assert [row for row in said.splitlines() if row.startswith("Iter ")] == [
        f"Iter {n}/16 | Loss_CE: 2.470 | Loss_D: 0.184 | ST_Count: 2" for n in (5, 10, 15)
    ]
    assert "Evaluating at iteration 8...\n" + "=" * 60 + "\nTraining mIoU: 0.4500\n" in said
    assert "✓ New best validation mIoU: 0.4000 (previous: 0.2800)" in said
    assert "Best validation mIoU so far: 0.4000" in said
    best = tmp_path / "checkpoints" / "best.ckpt"
    assert said.splitlines()[-5:] == [
        "Checklist",
        "[ok]  Best validation mIoU recorded: 0.4100",
        f"[ok]  best.ckpt exists: {best}",
        "[ok]  Training completed without errors",
        "[not] Final train/val gap < 0.15: 0.2900",
    ]
    names = sorted(path.name for path in best.parent.iterdir())
    assert names == ["best.ckpt", "iter_000008.ckpt", "iter_000016.ckpt", "last.ckpt"]


def test_a_run_resumed_from_a_periodic_checkpoint_knows_its_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _fit(tmp_path, IterationReport(), RunCheckpoint(str(tmp_path / "checkpoints"), every_iterations=8))
    capsys.readouterr()
    path = tmp_path / "checkpoints" / "iter_000008.ckpt"
    module = Counted()
    module.iteration = 8
    kept = RunCheckpoint(str(tmp_path / "checkpoints"), every_iterations=8)
    _fit(tmp_path, IterationReport(), kept, module=module, ckpt_path=str(path), weights_only=True)
    said = capsys.readouterr().out
    assert "iteration 8..." not in said and "Evaluating at iteration 12..." in said
    assert "New best validation mIoU: 0.4100 (previous: 0.4000)" in said
    assert kept.best_model_score == pytest.approx(0.41)


def test_an_error_is_on_the_checklist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(step: int, loss: Any) -> Any:
        if step == 6:
            raise ArithmeticError
        return loss

    with pytest.raises(ArithmeticError):
        _fit(tmp_path, IterationReport(), module=Counted(spoil=fail))
    said = capsys.readouterr().out
    assert "[not] Training completed without errors: ArithmeticError" in said
    assert "[not] best.ckpt exists" in said and "[ok]  Final train/val gap < 0.15: 0.0200" in said


def test_other_tasks_are_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Uncounted(Counted):
        iterations = None

    kept = RunCheckpoint(str(tmp_path / "checkpoints"), every_iterations=4)
    _fit(tmp_path, IterationReport(every=1), kept, module=Uncounted())
    assert capsys.readouterr().out == ""
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]


def test_patience_is_in_iterations_of_such_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stop = EarlyStopping(min_delta=0.2)
    module = _fit(tmp_path, stop)
    assert (stop.iterations, module.iteration) == (10_000, 16)
    stop = EarlyStopping(patience=8, min_delta=0.2)
    assert _fit(tmp_path, stop).iteration == 12  # best at 4; twice as many steps of the two optimisers
    assert "has not improved on 0.28 for 8 iterations" in capsys.readouterr().out


def test_a_target_ends_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _fit(tmp_path, EarlyStopping(target=0.4)).iteration == 8
    assert "val/miou is 0.4, the target is 0.4" in capsys.readouterr().out
