"""Ordinary logs of other frameworks: what is wrong in them is found, what only looks strange is not."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pytest

from maskwell.health.engine import Engine
from maskwell.health.rules import default_rules
from maskwell.logs.feed import Feeder
from maskwell.logs.rows import Row


def fed(rows: Iterable[Row]) -> Engine:
    return Feeder(default_rules()).run(rows)


def told(engine: Engine) -> dict[str, str]:
    """Rule -> severity of all that is more than information."""
    findings = (f for incident in engine.incidents for f in incident.findings)
    return {f.rule: f.severity for f in findings if f.severity != "info"}


def falling(steps: int, seed: int = 0, sigma: float = 0.04) -> np.ndarray:
    noise = 1 + sigma * np.random.default_rng(seed).normal(size=steps)
    return (np.exp(-np.arange(steps) / (steps / 20)) + 0.3) * noise


def steps_of(count: int = 1500, every: int = 1, **more: Iterable[float]) -> list[Row]:
    columns = {"train_loss": falling(count), **{name: list(values) for name, values in more.items()}}
    return [
        Row({name: float(values[i]) for name, values in columns.items()}, step=i * every)
        for i in range(count)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_one_noisy_row_an_epoch_is_no_rise(seed: int) -> None:
    rows = [Row({"loss": float(loss)}, epoch=i) for i, loss in enumerate(falling(150, seed))]
    assert told(fed(rows)) == {}


def test_a_rise_of_rows_of_epochs_is_one() -> None:
    losses = [*falling(60), *(0.33 * 1.3**i for i in range(1, 8))]
    assert "rising" in told(fed(Row({"loss": float(loss)}, epoch=i) for i, loss in enumerate(losses)))


@pytest.mark.parametrize("every", [1, 50, 500])
def test_a_loss_that_stays_nan_is_an_error_however_seldom_it_is_logged(every: int) -> None:
    rows = [Row({"train_loss": float(loss)}, step=i * every) for i, loss in enumerate(falling(60))]
    rows += [Row({"train_loss": math.nan}, step=(60 + i) * every) for i in range(20)]
    assert told(fed(rows))["nonfinite"] == "error"


def test_a_single_bad_row_is_a_warning() -> None:
    rows = steps_of(200, 50)
    rows[120] = Row({"train_loss": math.nan}, step=120 * 50)
    assert told(fed(rows)) == {"nonfinite": "warn"}


def test_a_validation_loss_that_is_nan_is_told_and_an_undefined_metric_is_not() -> None:
    rows = steps_of(400)
    for i in range(50, 400, 50):
        rows[i] = Row({**rows[i].values, "val_loss": math.nan, "val/iou/tram": math.nan}, step=i)
    assert told(fed(rows)) == {"nonfinite_validation": "error"}


@pytest.mark.parametrize(
    "column",
    [
        {"train_loss_scale": [65536.0] * 700 + [131072.0] * 800},
        {"val_accuracy": np.linspace(20, 91, 1500)},
        {"train/loss_D": -np.abs(falling(1500, 3)) - 2},
        {"train/loss_D": 1.3 + 0.08 * falling(1500, 2, 0.01)},
        {"train/best_loss": np.repeat(0.31, 1500)},
    ],
    ids=["loss scale", "percent", "critic", "sum of two cross-entropies", "best value"],
)
def test_ordinary_columns_are_no_fault(column: dict[str, Iterable[float]]) -> None:
    assert told(fed(steps_of(1500, 1, **column))) == {}


def test_a_share_beyond_one_is_a_fault() -> None:
    assert told(fed(steps_of(600, 1, val_accuracy=np.linspace(0.4, 1.3, 600)))) == {"wrong_sign": "error"}


@pytest.mark.parametrize("taken", [[0.0] * 4000, [6.0] * 3000 + [0.0] * 1000], ids=["never", "no longer"])
def test_the_field_notes_count_of_pseudo_labels_is_judged_without_what_was_offered(
    taken: list[float],
) -> None:
    assert "pseudo_count" in told(fed(steps_of(4000, 1, st_count=taken)))
    assert "pseudo_count" not in told(fed(steps_of(4000, 1, st_count=[5.0, 6.0, 8.0, 7.0] * 1000)))
