from __future__ import annotations

import math
from pathlib import Path

import pytest

from maskwell.callbacks.early_stopping import EarlyStopping
from maskwell.callbacks.grad_clip import GradClip
from maskwell.errors import UserError
from tests.callbacks.modules import Automatic, loader, trainer

PLATEAU = [3.0, 2.0, 2.5, 2.4, 2.3, 2.2, 2.1, 2.05, 2.04, 2.03]


def _run(folder: Path, stop: EarlyStopping, losses: list[float], **more: object) -> Automatic:
    module = Automatic()
    module.val_losses = losses
    trainer(folder, stop, max_epochs=len(losses), **more).fit(module, loader(), loader())
    return module


def test_stops_after_its_patience_on_the_tasks_own_metric(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stop = EarlyStopping(patience=3)
    module = _run(tmp_path, stop, PLATEAU)
    assert module.iteration == 5 * 4 and stop.monitor == "val/loss"
    assert "val/loss has not improved on 2 for 3 validations" in capsys.readouterr().out
    assert stop.stop_reason is not None


def test_runs_on_while_it_improves(tmp_path: Path) -> None:
    stop = EarlyStopping(patience=2)
    assert _run(tmp_path, stop, [3.0, 2.9, 2.8, 2.7, 2.6]).iteration == 20
    assert stop.stop_reason is None


def test_an_improvement_below_min_delta_is_none(tmp_path: Path) -> None:
    assert _run(tmp_path, EarlyStopping(patience=2, min_delta=0.5), [3.0, 2.9, 2.8, 2.7, 2.6]).iteration == 12


def test_mode_max_is_obeyed(tmp_path: Path) -> None:
    stop = EarlyStopping("val/loss", mode="max", patience=2, min_delta=0.05)
    assert _run(tmp_path, stop, [1.0, 2.0, 3.0, 3.01, 3.02, 9.0]).iteration == 20


def test_patience_in_iterations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # best at iteration 8, validations every 4: the first one with 10 or more behind it is at 20
    assert _run(tmp_path, EarlyStopping(patience=10, unit="iterations"), PLATEAU).iteration == 20
    assert "for 12 iterations" in capsys.readouterr().out


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_metric_that_is_not_finite_stops(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: float
) -> None:
    assert _run(tmp_path, EarlyStopping(), [3.0, value, 1.0]).iteration == 8
    assert f"val/loss is {value}" in capsys.readouterr().out


def test_losses_in_a_row_that_are_not_finite_stop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = Automatic(spoil=lambda step, loss: loss * (math.nan if step in (6, 7) else 1.0))
    stop = EarlyStopping(every_n_steps=8)
    trainer(tmp_path, GradClip(), stop, max_epochs=4).fit(module, loader(64), loader())
    assert module.iteration == 8
    assert (
        capsys.readouterr().out.count("stopping early: the training loss was not finite 2 times in a row")
        == 1
    )


def test_losses_do_not_pile_up_where_the_run_goes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maskwell.callbacks.early_stopping._goes_back", lambda _: True)
    stop = EarlyStopping(every_n_steps=4)
    trainer(tmp_path, stop, max_epochs=2).fit(Automatic(), loader(64), loader())
    assert len(stop._losses) < 4


def test_no_stop_comes_between_two_optimiser_steps(tmp_path: Path) -> None:
    module = Automatic(spoil=lambda step, loss: loss * (math.nan if step in (6, 7) else 1.0))
    stop = EarlyStopping(every_n_steps=8)
    fit = trainer(tmp_path, GradClip(), stop, max_epochs=4, accumulate_grad_batches=3)
    fit.fit(module, loader(160), loader())
    assert module.iteration == 24


def test_single_losses_that_are_not_finite_do_not(tmp_path: Path) -> None:
    module = Automatic(spoil=lambda step, loss: loss * (math.nan if step % 2 else 1.0))
    module.val_losses = [1.0, 0.9]
    stop = EarlyStopping(every_n_steps=1)
    trainer(tmp_path, GradClip(), stop, max_epochs=2).fit(module, loader(), loader())
    assert module.iteration == 8 and stop.stop_reason is None


def test_state_goes_on_and_a_longer_patience_counts(tmp_path: Path) -> None:
    first = EarlyStopping("val/loss", mode="min", patience=3)
    _run(tmp_path, first, PLATEAU)
    second = EarlyStopping("val/loss", mode="min", patience=5)
    second.load_state_dict(first.state_dict())
    assert (second.wait_count, second.best_score.item(), second.patience) == (3, 2.0, 5)
    assert second.stop_reason is None


def test_a_metric_that_nobody_logs_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'val/los', which nothing logs .* Did you mean 'val/loss'"):
        _run(tmp_path, EarlyStopping("val/los"), [1.0])


@pytest.mark.parametrize("bad", [{"patience": 0}, {"unit": "hours"}, {"mode": "best"}])
def test_bad_settings_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(UserError, match=f"callbacks.early_stopping.{next(iter(bad))}"):
        EarlyStopping(**bad)  # type: ignore[arg-type]
