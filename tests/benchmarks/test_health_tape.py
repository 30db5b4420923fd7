"""A tape gives a fresh engine what the first one heard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.health.monitors import ours, printed, remedy
from benchmarks.health.tape import Tape
from maskwell.health.engine import Engine
from maskwell.health.rules import default_rules


def tell(engine: Engine, shift_at: int = 350, steps: int = 500) -> Engine:
    """A loss that jumps to five times its level."""
    random = np.random.default_rng(0)
    for step in range(1, steps + 1):
        level = 5.0 if step > shift_at else 1.0
        engine.signals.step = step
        engine.signals.record("rate/learning_rate", step, 1e-3, "rate")
        engine.signals.record("loss", step, level * float(np.exp(0.1 * random.normal())), "supervised")
        if step == 20:
            engine.signals.declare("unfreeze", step)
        if step % 8 == 0:
            engine.check("step")
    return engine


def test_a_replay_finds_what_the_run_would_have_found(tmp_path: Path) -> None:
    told = tell(Engine(default_rules()))
    assert told.incidents
    tape = Tape()
    recording = Engine(default_rules())
    tape.listen(recording)
    tell(recording)
    assert not recording.incidents  # no rule may act on what is recorded
    tape.save(tmp_path / "a.npz")
    again = Tape.load(tmp_path / "a.npz").replay(Engine(default_rules()))
    assert [i.to_json() for i in again.incidents] == [i.to_json() for i in told.incidents]


def test_alarms_and_the_remedy_in_the_familys_own_key(tmp_path: Path) -> None:
    tape = Tape()
    engine = Engine({})
    tape.listen(engine)
    tell(engine)
    lines = printed(tape, "detr")
    alarms = ours(lines)
    assert alarms and 350 < alarms[0].step <= 450 and alarms[0].causes
    assert str(remedy(lines)).startswith("model.recipe.optim.lr=")
    assert remedy([]) is None
    # each as it was known then: what is found later may rank causes anew
    early = Tape()
    early.listen(shorter := Engine({}))
    tell(shorter, steps=alarms[0].step)
    assert printed(early, "detr") == lines[:1]


def test_series_and_rows() -> None:
    tape = Tape()
    for step, value in ((1, 2.0), (3, 4.0)):
        tape.add("loss", step, value, "supervised")
        tape.add("grad/all", step, value / 2, "norm")
    steps, values = tape.series("loss")
    assert steps.tolist() == [1, 3] and values.tolist() == [2.0, 4.0]
    assert tape.under("grad/") == ["grad/all"] and not len(tape.series("nothing")[0])
    assert list(tape.rows())[1] == ("grad/all", 1, 1.0, "norm") and len(tape) == 4


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e-300])
def test_odd_numbers_survive(tmp_path: Path, value: float) -> None:
    tape = Tape()
    tape.add("x", 0, value, "norm")
    tape.save(tmp_path / "a.npz")
    assert np.array_equal(Tape.load(tmp_path / "a.npz").series("x")[1], [value], equal_nan=True)
