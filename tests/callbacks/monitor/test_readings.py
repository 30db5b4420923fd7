"""What a validation reports, as signals."""

from __future__ import annotations

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
