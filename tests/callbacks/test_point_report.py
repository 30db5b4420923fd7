from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from maskwell.callbacks.head_gradients import HeadGradients
from maskwell.callbacks.point_report import PointReport
from tests.callbacks.modules import Automatic, loader, trainer

VALUES = {
    "val/loss": [0.9, 0.4, 0.6],
    "val/pixel_error": [80.0, 30.0, 12.0],
    "val/done_highest": [0.1, 0.1, 0.8],
}


class Marking(Automatic):
    """A training that finds points, with scripted validations."""

    pointwise = True

    def gradient_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"net": list(self.net.parameters())}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log_dict({name: torch.tensor(values[self.current_epoch]) for name, values in VALUES.items()})


def _said(folder: Path, capsys: pytest.CaptureFixture[str], module: Automatic, *callbacks: Any) -> list[str]:
    trainer(folder, *callbacks).fit(module, loader(), loader(4))
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("[") and "]" in line[:6]]


def test_the_checklist_of_the_notes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = _said(tmp_path, capsys, Marking(), HeadGradients(high=100.0), PointReport(max_loss=0.3))
    assert said[:5] == [
        "[ok]  Val loss decreasing: 0.900 at first, 0.400 at best, 0.600 at last",
        "[not] Val loss < 0.3: 0.400",
        "[ok]  Done predictions varying (not all < 0.2): highest 0.80",
        "[ok]  Pixel errors decreasing: 80.0 at first, 12.0 at best, 12.0 at last px",
        "[ok]  Predictions close to truth (< 20 px): 12.0 px",
    ]
    assert said[5].startswith("[ok]  No gradient explosions: 0 of 12 steps, highest net ")
    assert said[6:] == ["[not] best.ckpt exists", "[ok]  Training completed without errors"]


def test_what_a_task_does_not_have_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(VALUES, "val/done_highest")
    monkeypatch.delitem(VALUES, "val/pixel_error")
    said = _said(tmp_path, capsys, Marking(), PointReport())
    assert [line[6:].split(":")[0] for line in said] == [
        "Val loss decreasing",
        "best.ckpt exists",
        "Training completed without errors",
    ]


def test_explosions_and_errors_are_on_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(step: int, loss: Tensor) -> Tensor:
        if step == 9:
            raise ArithmeticError
        return loss

    with pytest.raises(ArithmeticError):
        _said(tmp_path, capsys, Marking(spoil=fail), HeadGradients(1e-9, 1e-8), PointReport())
    said = capsys.readouterr().out
    assert "[not] No gradient explosions: 8 of 8 steps" in said
    assert "[not] Training completed without errors: ArithmeticError" in said


def test_a_resumed_run_knows_its_first_validation() -> None:
    report = PointReport()
    report.load_state_dict({"first": {"loss": 2.0}, "last": {"loss": 1.5}, "lowest": {"loss": 1.0}})
    assert report.lines() == [("Val loss decreasing", True, "2.000 at first, 1.000 at best, 1.500 at last")]
    assert report.state_dict()["lowest"] == {"loss": 1.0}


def test_other_tasks_are_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _said(tmp_path, capsys, Automatic(), PointReport()) == []
