"""The engine: news once, incidents merged, causes first, state through JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from maskwell.health.engine import Engine
from maskwell.health.findings import Severity
from maskwell.health.rules import Clock, Leakage, Rule, Symptom
from maskwell.health.signals import Signals


@dataclass(kw_only=True)
class Switch(Rule):
    """Fires while it is on."""

    clock: ClassVar[Clock] = "step"
    severity: Severity | None = None
    depth_: int = 1

    def check(self, signals: Signals) -> Iterator[Symptom]:
        if self.severity is not None:
            yield Symptom(self.severity, f"cause of depth {self.depth_}", {"x": float(signals.step)})


@dataclass(kw_only=True)
class Root(Switch):
    depth: ClassVar[int] = 0


def _at(engine: Engine, step: int) -> list[str]:
    engine.signals.step = step
    return [finding.rule for finding in engine.check("step").news]


def test_a_finding_is_news_once_and_flags_while_it_lasts() -> None:
    engine = Engine({"a": Switch(severity="warn")})
    assert _at(engine, 1) == ["a"]
    engine.signals.step = 2
    again = engine.check("step")
    assert again.news == [] and again.flags == {"a": True}


def test_a_worse_finding_is_news_and_a_lesser_one_is_not() -> None:
    rule = Switch(severity="warn")
    engine = Engine({"a": rule})
    _at(engine, 1)
    rule.severity = "error"
    assert _at(engine, 2) == ["a"]
    rule.severity = "warn"
    assert _at(engine, 3) == []
    assert engine.verdict == "broken"


def test_a_finding_that_gets_worse_later_stays_in_its_incident() -> None:
    rule = Switch(severity="warn")
    engine = Engine({"a": rule}, window=50)
    _at(engine, 1)
    rule.severity = "error"
    assert _at(engine, 300) == ["a"]
    (incident,) = engine.incidents
    assert incident.severity == "error" and incident.findings[0].step == 1


def test_a_finding_that_returns_after_a_long_silence_is_news() -> None:
    rule = Switch(severity="warn")
    engine = Engine({"a": rule}, rearm=100)
    _at(engine, 1)
    rule.severity = None
    assert _at(engine, 50) == []
    rule.severity = "warn"
    assert _at(engine, 60) == []
    rule.severity = None
    _at(engine, 100)
    rule.severity = "warn"
    assert _at(engine, 161) == ["a"]
    assert len(engine.incidents) == 2


def test_close_findings_are_one_incident_led_by_the_cause() -> None:
    symptom, root = Switch(severity="error"), Root(depth_=0)
    engine = Engine({"symptom": symptom, "root": root})
    assert _at(engine, 10) == ["symptom"]
    root.severity = "warn"
    assert _at(engine, 40) == ["root"]
    (incident,) = engine.incidents
    assert incident.cause.rule == "root" and incident.severity == "error"
    assert (incident.first_step, incident.last_step) == (10, 40)
    assert [f["rule"] for f in incident.to_json()["findings"]] == ["root", "symptom"]


def test_two_findings_of_one_check_bring_one_line_of_news() -> None:
    engine = Engine({"symptom": Switch(severity="error"), "root": Root(severity="warn")})
    assert _at(engine, 10) == ["root"]


def test_a_lasting_finding_does_not_draw_later_ones_into_its_incident() -> None:
    late = Switch()
    engine = Engine({"a": Switch(severity="warn"), "late": late}, window=50)
    for step in range(0, 300, 10):
        _at(engine, step)
    late.severity = "warn"
    _at(engine, 300)
    assert [[f.rule for f in i.findings] for i in engine.incidents] == [["a"], ["late"]]


def test_new_evidence_replaces_old_but_the_first_step_stays() -> None:
    engine = Engine({"a": Switch(severity="warn")})
    _at(engine, 3)
    _at(engine, 9)
    (finding,) = engine.incidents[0].findings
    assert finding.step == 3 and finding.evidence == {"x": 9.0}


def test_only_errors_of_stopping_rules_stop() -> None:
    rule = Switch(severity="warn", action="stop")
    engine = Engine({"a": rule, "b": Switch(severity="error", action="warn")})
    assert engine.check("step").stop == []
    rule.severity = "error"
    assert [f.rule for f in engine.check("step").stop] == ["a"]


def test_rules_are_asked_on_their_own_clock_only() -> None:
    engine = Engine({"a": Switch(severity="warn")})
    assert engine.check("epoch").flags == {} and engine.check("start").news == []


def test_information_leaves_the_verdict_healthy() -> None:
    engine = Engine({"a": Switch(severity="info")})
    engine.signals.step = 1
    check = engine.check("step")
    # it is written down and not told
    assert check.flags == {"a": False} and check.news == [] and engine.verdict == "healthy"
    assert engine.report()["incidents"][0]["severity"] == "info"


def test_after_a_resume_nothing_fires_again() -> None:
    first = Engine({"a": Switch(severity="error")})
    _at(first, 5)
    state = json.loads(json.dumps(first.state_dict()))
    second = Engine({"a": Switch(severity="error")})
    second.load_state_dict(state)
    assert _at(second, 6) == [] and second.verdict == "broken"
    assert second.report()["incidents"][0]["findings"][0]["step"] == 5


def test_the_report_is_json_also_with_evidence_that_is_not_finite() -> None:
    engine = Engine({"a": Switch(severity="warn")})
    engine.signals.step = 1
    engine.check("step")
    finding = engine.incidents[0].findings[0]
    engine.incidents[0].findings[0] = type(finding)(**{**vars(finding), "evidence": {"x": float("nan")}})
    text = json.dumps(engine.report(), allow_nan=False)
    assert json.loads(text)["incidents"][0]["findings"][0]["evidence"] == {"x": "nan"}


def test_a_line_holds_cause_evidence_and_remedy() -> None:
    engine = Engine({"a": Switch(severity="warn")})
    _at(engine, 7)
    assert engine.incidents[0].cause.line() == "cause of depth 1 (x 7)"


def test_what_is_there_before_the_first_step_is_told_once() -> None:
    """Its rules are asked once more behind the first validation, however late that comes."""
    engine = Engine({"leakage": Leakage()})
    engine.signals.record("preflight/overlap/val", 0, 3.0, "count")
    assert [f.rule for f in engine.check("start").news] == ["leakage"]
    engine.signals.step = 5000
    assert engine.check("start").news == [] and len(engine.incidents) == 1
