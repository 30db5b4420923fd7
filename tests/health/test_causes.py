"""Causes are ranked by what speaks for and against them, roots before symptoms; declared changes mute."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from maskwell.health.engine import Engine
from maskwell.health.findings import Finding, rank
from maskwell.health.rules import Clock, Rule, Symptom, default_rules
from maskwell.health.signals import LOSS, Signals


def finding(severity: str, depth: int, **causes: float) -> Finding:
    return Finding("r", severity, 1, "words", depth=depth, causes=causes)  # type: ignore[arg-type]


def test_votes_add_up_as_a_noisy_or() -> None:
    found = rank([finding("error", 0, lr_high=0.5), finding("error", 0, lr_high=0.5, overflow=0.6)], {})
    assert [r.label for r in found] == ["lr_high", "overflow"]
    assert found[0].score == pytest.approx(0.75) and found[1].score == pytest.approx(0.6)


def test_roots_count_more_than_symptoms_and_errors_more_than_information() -> None:
    found = rank([finding("error", 2, lr_high=0.6), finding("error", 0, no_targets=0.5)], {})
    assert found[0].label == "no_targets"
    found = rank([finding("info", 0, lr_high=0.6), finding("error", 0, no_targets=0.5)], {})
    assert found[0].label == "no_targets"


def test_silence_speaks_against_a_cause_and_never_rules_it_out() -> None:
    votes = [finding("error", 0, lr_high=0.6, overflow=0.5)]
    assert rank(votes, {})[0].label == "lr_high"
    assert rank(votes, {"lr_high": 0.3})[0].label == "overflow"
    assert rank(votes, {"lr_high": 0.0})[-1].score == pytest.approx(0.03)


def test_a_nan_with_a_clean_input_is_no_broken_sample() -> None:
    """The whole engine: gradients overflow, inputs are finite, the data was looked at."""
    engine = Engine(default_rules())
    signals = engine.signals
    for step in range(1, 30):
        signals.record(LOSS, step, 1.0, "supervised")
        signals.record("grad/all", step, 1.0, "norm")
    signals.step = 30
    for step in (28, 29, 30):
        signals.record("bad_gradient", step, 1.0, "event")
    engine.check("step")
    (incident,) = engine.ranked_incidents
    assert incident.ranked[0].label == "overflow" and incident.severity == "error"


def test_a_summed_loss_outranks_what_comes_of_it() -> None:
    engine = Engine(default_rules())
    engine.signals.record("doubling/loss_box", 0, 2.0, "norm")
    engine.signals.record("preflight/initial/loss_giou", 0, 900.0, "supervised")
    news = engine.check("start").news
    assert [f.rule for f in news] == ["normaliser"]
    (incident,) = engine.ranked_incidents
    assert {f.rule for f in incident.findings} == {"normaliser", "initial_loss"}
    assert incident.ranked[0].label == "not_normalised" and incident.ranked[0].score > 0.95


def _feed(engine: Engine, values: np.ndarray, begin: int = 1) -> list[str]:  # type: ignore[type-arg]
    told = []
    for step, value in enumerate(values, begin):
        engine.signals.record(LOSS, step, float(value), "supervised")
        engine.signals.step = step
        if step % 8 == 0:
            told += [f.rule for f in engine.check("step").news]
    return told


@pytest.mark.parametrize("event", [None, "self_training", "unfreeze", "ramp"])
def test_a_declared_change_explains_a_jump_for_good(event: str | None) -> None:
    generator = np.random.default_rng(0)
    engine = Engine(default_rules())
    assert _feed(engine, generator.lognormal(0, 0.1, 400)) == []
    if event:
        engine.signals.declare(event, 400)
    told = _feed(engine, generator.lognormal(np.log(4), 0.1, 900), 401)
    assert told[:1] == ([] if event else ["level_shift"])


def test_an_event_of_an_unknown_kind_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="no kind of event"):
        Signals().declare("holiday", 3)


@dataclass(kw_only=True)
class Acts(Rule):
    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "X"
    every: ClassVar[int] = 16
    on: bool = False

    def check(self, signals: Signals) -> Iterator[Symptom]:
        if self.on:
            yield Symptom("error", "bad")


def test_a_rule_is_asked_only_when_it_is_due_and_its_flag_stays() -> None:
    rule = Acts(on=True, action="recover")
    engine = Engine({"a": rule})
    engine.signals.step = 8
    first = engine.check("step")
    assert first.flags == {"a": True} and [f.rule for f in first.recover] == ["a"]
    rule.on = False
    engine.signals.step = 16
    assert engine.check("step").flags == {"a": True}
    engine.signals.step = 24
    assert engine.check("step").flags == {"a": False}


def test_clean_steps_are_counted_from_the_last_acting_finding() -> None:
    rule = Acts(on=True, action="stop")
    engine = Engine({"a": rule, "b": Acts(on=True)})
    engine.signals.step = 40
    engine.check("step")
    rule.on = False
    engine.signals.step = 120
    engine.check("step")
    assert not engine.clean_for(100)
    engine.signals.step = 141
    assert engine.clean_for(100)  # rule b still fires, but acts on nothing


def test_the_same_signals_give_the_same_state_on_every_rank() -> None:
    engines = [Engine(default_rules()) for _ in range(2)]
    values = np.random.default_rng(1).lognormal(0, 0.3, 600) * np.where(np.arange(600) < 400, 1, 6)
    for engine in engines:
        _feed(engine, values)
    first, second = (json.dumps(e.state_dict(), sort_keys=True) for e in engines)
    assert first == second and engines[0].verdict != "healthy"
    resumed = Engine(default_rules())
    resumed.load_state_dict(json.loads(first))
    assert json.dumps(resumed.state_dict(), sort_keys=True) == first
    assert resumed.check("step").news == []
