"""Streams: rings, gaps, replays, state."""

from __future__ import annotations

import json

from maskwell.health.signals import Signals


def test_a_ring_forgets_values_but_not_that_it_saw_them() -> None:
    signals = Signals(capacity=4)
    for step in range(10):
        signals.record("loss", step, float(step), "supervised")
    stream = signals.get("loss")
    assert stream.last(9) == [6.0, 7.0, 8.0, 9.0] and stream.seen == 10 and stream.nonzero == 9


def test_replayed_steps_are_dropped_and_gaps_are_fine() -> None:
    signals = Signals()
    for step, value in ((1, 1.0), (5, 2.0), (3, 9.0), (5, 3.0), (6, 4.0)):
        signals.record("loss", step, value, "supervised")
    assert list(signals.get("loss").values) == [1.0, 2.0, 3.0, 4.0]


def test_an_unknown_stream_is_empty_and_is_not_created() -> None:
    signals = Signals()
    assert signals.get("loss").last(3) == [] and signals.learning_rate is None
    assert list(signals.under("")) == []


def test_last_of_nothing_is_nothing() -> None:
    signals = Signals()
    signals.record("loss", 1, 1.0, "supervised")
    assert signals.get("loss").last(0) == []


def test_under_strips_the_prefix() -> None:
    signals = Signals()
    signals.record("part/a", 1, 1.0, "supervised")
    signals.record("fact/b", 1, 1.0, "count")
    assert [name for name, _ in signals.under("part/")] == ["a"]


def test_state_goes_through_json_unchanged() -> None:
    signals = Signals(capacity=4)
    for step in range(6):
        signals.record("part/a", step, step / 3, "adversarial")
    signals.step, signals.epoch = 6, 2
    other = Signals(capacity=4)
    other.load_state_dict(json.loads(json.dumps(signals.state_dict())))
    assert other.state_dict() == signals.state_dict()
    assert other.get("part/a").role == "adversarial" and len(other.get("part/a").values) == 4
