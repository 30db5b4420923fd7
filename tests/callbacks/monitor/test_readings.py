"""What a validation reports, as signals."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from maskwell.callbacks.monitor.readings import record_validation
from maskwell.health.signals import Signals


@pytest.mark.parametrize("semantic", [True, False])
def test_the_commonest_class_is_counted_in_truth_and_prediction(semantic: bool) -> None:
    confusion = torch.tensor([[60, 20], [20, 0]])  # 80 of 100 pixels are of class 0, as many are predicted
    confusion[1, 0] += 100
    module: Any = SimpleNamespace(semantic=semantic, confusion=confusion)
    trainer: Any = SimpleNamespace(callback_metrics={"val/miou": torch.tensor(0.4)})
    signals = Signals()
    record_validation(trainer, module, signals, 7)
    assert signals.value("metric/val/miou") == pytest.approx(0.4)
    found = [signals.value(f"metric/val/{kind}_share_largest") for kind in ("predicted", "true")]
    assert found == (pytest.approx([0.9, 0.6]) if semantic else [None, None])


def test_figures_of_validation_go_by_many_names() -> None:
    figures = {
        "valid_loss": 0.5,
        "val_acc/dataloader_idx_0": 0.8,
        "val_acc/dataloader_idx_1": 0.7,
        "val/train_miou": 0.6,
        "val/pseudo_share/Car": 0.4,
        "train_loss": 9.0,
        "lr-SGD": 0.1,
    }
    trainer: Any = SimpleNamespace(callback_metrics={k: torch.tensor(v) for k, v in figures.items()})
    signals = Signals()
    record_validation(trainer, SimpleNamespace(), signals, 7)  # type: ignore[arg-type]
    found = {name: stream.latest for name, stream in signals.under("metric/")}
    assert found == pytest.approx(
        {
            "val/loss": 0.5,
            "val/acc": 0.8,
            "val/acc/dataloader_idx_1": 0.7,
            "evaluated_train/miou": 0.6,
            "val/pseudo_share/Car": 0.4,
        }
    )


def test_a_loss_of_validation_that_is_not_finite_is_an_event_and_an_undefined_figure_none() -> None:
    figures = {"val/loss": math.nan, "val/loss_box": math.inf, "val/iou/tram": math.nan}
    trainer: Any = SimpleNamespace(callback_metrics={k: torch.tensor(v) for k, v in figures.items()})
    signals = Signals()
    record_validation(trainer, SimpleNamespace(), signals, 7)  # type: ignore[arg-type]
    assert {name for name, _ in signals.under("bad_metric/")} == {"val/loss", "val/loss_box"}
    assert not list(signals.under("metric/"))
