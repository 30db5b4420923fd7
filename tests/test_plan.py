"""plan=true: what is measured, and the batch that fits."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskwell import app, plan
from support import TINY, composed


@pytest.mark.parametrize(
    ("peaks", "budget", "fitting"),
    [
        ({2: 300, 4: 500}, 1100, 10),  # 100 fixed, 100 an image
        ({4: 500, 2: 300}, 1199, 10),
        ({2: 300, 4: 500}, 150, 0),
        ({2: 300, 4: 300}, 1000, None),  # nothing grew
    ],
)
def test_fitting_batch(peaks: dict[int, int], budget: int, fitting: int | None) -> None:
    assert plan.fitting_batch(peaks, budget) == fitting


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        (["trainer.max_epochs=4"], 12),
        (["trainer.max_epochs=4", "trainer.max_steps=5"], 5),
        (["trainer.max_epochs=4", "trainer.max_steps=5", "trainer.accumulate_grad_batches=2"], 10),
        (["trainer.max_epochs=-1"], 0),
    ],
)
def test_measures_and_writes_nothing(
    small_family: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str], steps: int
) -> None:
    monkeypatch.chdir(tmp_path)
    cfg, _ = composed(*TINY, *overrides)
    forecast = plan.measure(cfg)
    assert (forecast.batch_size, forecast.steps, forecast.device) == (2, steps, "cpu")
    assert forecast.seconds_per_step > 0
    assert forecast.total_seconds == steps * forecast.seconds_per_step
    assert 0 < forecast.peak_memory < forecast.total_memory
    assert list(tmp_path.iterdir()) == []


def test_plan_true_prints_the_table(
    small_family: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    cfg, origin = composed(*TINY, "plan=true")
    assert app.train(cfg, origin) is None
    shown = capsys.readouterr().out
    for line in ("seconds per step", "peak memory", "total time", "batch size that fits"):
        assert line in shown
    assert list(tmp_path.iterdir()) == []
