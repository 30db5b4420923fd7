"""Each peer's rule fires where its documentation says, and where it does not it is silent."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.health.peers import PEERS, Log, listen
from benchmarks.health.tape import Tape


def log(losses: list[float] | np.ndarray, norms: list[float] | None = None, **more: object) -> Log:
    """A run with an evaluation every 20 steps."""
    values = np.asarray(losses, float)
    steps = np.arange(1, len(values) + 1)
    val_steps = steps[19::20]
    given = {
        "steps": steps,
        "losses": values,
        "norm_steps": steps,
        "norms": np.asarray(norms if norms is not None else np.ones(len(values))),
        "val_steps": val_steps,
        "val_loss": values[19::20],
        "train_loss": values[19::20],
        "metric": np.linspace(0.7, 0.9, len(val_steps)),
        "rate": 1e-3,
        "largest_input": 1.0,
        "updates": [],
        "unchanged": [],
    }
    return Log(**{**given, **more})  # type: ignore[arg-type]


def steps(peer: str, run: Log) -> list[int]:
    return [alarm.step for alarm in listen(peer, run)]


NOISE = np.random.default_rng(0).normal(size=400)
FLAT = 1 + 0.01 * NOISE
FALLING = np.linspace(2, 1, 400)


@pytest.mark.parametrize("peer", ["lightning_spike", "kill_loss_spike", "olmo", "megatron", "zclip", "null"])
def test_spike_rules_are_silent_on_a_quiet_run(peer: str) -> None:
    norms = (1 + 0.001 * np.sin(np.arange(400))).tolist()
    assert steps(peer, log(FLAT, norms)) == []


def test_a_factor_of_three_is_a_spike_for_lightning_and_not_for_megatron() -> None:
    run = log([*FLAT[:100], 3.1, *FLAT[101:]])
    assert steps("lightning_spike", run) == [101]
    assert steps("olmo", run) == [101]
    assert steps("megatron", run) == []
    assert steps("megatron", log([*FLAT[:100], 11.0, *FLAT[101:]])) == [101]


def test_kill_loss_spike_wants_five_steps_or_a_high_level() -> None:
    high = FLAT.copy()
    high[300:304] = 3
    assert steps("kill_loss_spike", log(high)) == []
    high[304] = 3
    assert steps("kill_loss_spike", log(high)) == [305]
    assert steps("kill_loss_spike", log(20 * FLAT))[0] == 201


@pytest.mark.parametrize(
    "peer", ["lightning_spike", "lightning_early_stopping", "megatron", "sagemaker", "autotrainer", "umlaut"]
)
def test_nan_is_seen(peer: str) -> None:
    losses = FALLING.copy()
    losses[139] = math.nan
    assert 140 in steps(peer, log(losses))


def test_lightning_takes_no_loss_that_is_better_for_a_spike() -> None:
    falls = np.array([*np.linspace(0.2, 0.1, 50), -0.5, -0.6, -0.7])
    assert steps("lightning_spike", log(falls)) == []


def test_olmo_looks_upwards_alone() -> None:
    fall = FLAT.copy()
    fall[300:] -= 0.5
    assert 301 not in steps("olmo", log(fall))


def test_kill_loss_spike_begins_with_its_first_full_window() -> None:
    high = FLAT.copy()
    high[120:125] = 3
    assert steps("kill_loss_spike", log(high)) == [125]


@pytest.mark.parametrize("peer", ["megatron", "olmo", "sagemaker"])
def test_a_gradient_that_is_not_finite_is_seen(peer: str) -> None:
    norms = np.ones(400)
    norms[200] = math.nan
    assert 201 in steps(peer, log(FALLING, norms.tolist()))


def test_early_stopping_waits_for_three_evaluations() -> None:
    val = np.array([2.0, 1.0, 1.1, 1.2, 1.3] + [0.5] * 15)
    assert steps("lightning_early_stopping", log(FALLING, val_loss=val)) == [100]


def test_zclip_looks_at_norms() -> None:
    norms = (1 + 0.01 * NOISE).tolist()
    norms[200] = 5.0
    assert 201 in steps("zclip", log(FLAT, norms))


def test_sagemaker_wants_a_fall_every_ten_steps_and_no_gap() -> None:
    assert steps("sagemaker", log(FALLING)) == []
    assert steps("sagemaker", log(FALLING[::-1].copy()))[:2] == [11, 21]
    gap = log(FALLING, val_loss=1.2 * FALLING[19::20])
    assert steps("sagemaker", gap)[0] == 20
    assert steps("sagemaker", log(FALLING, unchanged=[(8, 8.0)], updates=[(16, 11.0)])) == [8, 16]


def test_autotrainer_and_umlaut() -> None:
    assert listen("autotrainer", log(FALLING, metric=np.full(20, 0.5)))[0].causes == ("lr_low",)
    swings = np.array([0.9, 0.7] * 10)
    assert ("lr_high",) in {a.causes for a in listen("autotrainer", log(FALLING, metric=swings))}
    assert steps("autotrainer", log(FALLING)) == [] == steps("umlaut", log(FALLING))
    assert [a.causes for a in listen("umlaut", log(FALLING, largest_input=2.6, rate=0.03))] == [
        ("input_scale",),
        ("lr_high",),
    ]


def test_a_log_of_a_tape() -> None:
    tape = Tape()
    for step in (1, 2, 4):
        tape.add("loss", step, float(step), "supervised")
        tape.add("grad/all", step, 1.0, "norm")
    tape.add("nonfinite/loss", 3, 1.0, "event")
    tape.add("metric/val/loss", 2, 5.0, "metric")
    tape.add("metric/val/loss", 4, 4.0, "metric")
    tape.add("metric/val/map", 2, 0.1, "metric")
    tape.add("metric/val/map", 4, 0.2, "metric")
    tape.add("bad_gradient", 5, 1.0, "event")
    tape.add("bad_metric/val/loss", 6, 1.0, "event")
    made = Log.of(tape, "val/map")
    assert made.steps.tolist() == [1, 2, 3, 4] and math.isnan(made.losses[2])
    assert made.train_loss.tolist()[:2] == [1.5, 4.0] and made.metric.tolist()[:2] == [0.1, 0.2]
    assert made.norm_steps.tolist() == [1, 2, 4, 5] and math.isnan(made.norms[3])
    assert (
        made.val_steps.tolist() == [2, 4, 6] and math.isnan(made.val_loss[2]) and math.isnan(made.metric[2])
    )


def test_the_controls_say_nothing_or_always_something() -> None:
    assert steps("null", log(FLAT)) == []
    assert len(steps("always", log(FLAT))) == 8
    assert set(PEERS) >= {"null", "always"}
