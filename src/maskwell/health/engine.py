"""The engine: runs rules over signals, merges what they find into incidents and ranks their causes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from maskwell.health.findings import RANK, VERDICTS, Finding, Incident, Severity, Verdict
from maskwell.health.rules.base import Clock, Rule, Symptom
from maskwell.health.signals import Signals

FORMAT = 2
"""Version of ``health.json``."""
ACTING = ("skip", "recover", "stop")
"""Actions of rules whose findings mean that weights are no longer to be trusted."""


@dataclass(frozen=True)
class Check:
    """What one check brought.

    ``flags`` rule -> whether it fires now; ``news`` one finding per incident that began (its cause)
    or grew (what is new in it), of those that are to be told; ``stop`` and ``recover`` the findings
    for whose sake the run should end or go back.
    """

    flags: dict[str, bool] = field(default_factory=dict)
    news: list[Finding] = field(default_factory=list)
    stop: list[Finding] = field(default_factory=list)
    recover: list[Finding] = field(default_factory=list)


class Engine:
    """Rules by name over one :class:`Signals`.

    A finding is news once: again only if it became worse, or after it was silent for ``rearm`` steps.
    The same signals give the same findings: data-parallel ranks with reduced signals agree.

    Args:
        rules: name (as logged under ``health/``) -> rule.
        window: findings so many steps apart belong to one incident.
        rearm: see above.
    """

    def __init__(self, rules: Mapping[str, Rule], window: int = 50, rearm: int = 1000) -> None:
        self.rules = dict(rules)
        self.window = window
        self.rearm = rearm
        self.signals = Signals()
        self.incidents: list[Incident] = []
        self._fired: dict[tuple[str, str], tuple[Severity, int]] = {}
        self._asked: dict[str, int] = {}
        self._flags: dict[str, bool] = {}
        self._silent: dict[str, bool] = {}

    @property
    def verdict(self) -> Verdict:
        """That of the worst incident so far."""
        worst: Severity = max((i.severity for i in self.incidents), key=RANK.__getitem__, default="info")
        return VERDICTS[worst]

    @property
    def ranked_incidents(self) -> list[Incident]:
        """Those that are more than information, worst first."""
        serious = [i for i in self.incidents if i.severity != "info"]
        return sorted(serious, key=lambda i: (-RANK[i.severity], i.first_step))

    def check(self, clock: Clock) -> Check:
        """Run the rules of ``clock`` that are due over the signals as they are now."""
        result = Check()
        touched: dict[int, tuple[Incident, Incident]] = {}
        for name, rule in self.rules.items():
            if rule.clock != clock:
                continue
            if not self._is_due(name, rule):
                result.flags[name] = self._flags.get(name, False)
                continue
            found = [rule.finding(name, self.signals.step, symptom) for symptom in self._ask(name, rule)]
            self._flags[name] = any(_action(rule, f) != "log" for f in found)
            result.flags[name] = self._flags[name]
            for finding in found:
                if not self._is_news(finding, again=clock != "start"):
                    self._update(finding)
                    continue
                group = self._take(finding)
                self._decide(rule, finding, result)
                if _action(rule, finding) != "log":
                    news = touched.setdefault(
                        id(group), (group, Incident(finding.step, finding.step, denied=group.denied))
                    )
                    news[1].add(finding)
        for incident, _ in touched.values():
            incident.denied.clear()
            incident.denied.update(self._denied(incident))
        result.news.extend(new.cause for _, new in touched.values())
        return result

    def clean_for(self, steps: int) -> bool:
        """Whether no rule that would skip, go back or stop has found anything for so many steps."""
        acting = {name for name, rule in self.rules.items() if rule.action in ACTING}
        since = self.signals.step - steps
        return not any(
            finding.severity != "info" and self._fired.get(finding.key, ("info", -1))[1] > since
            for incident in self.incidents
            for finding in incident.findings
            if finding.rule in acting
        )

    def _is_due(self, name: str, rule: Rule) -> bool:
        if rule.clock == "step" and rule.every:
            before = self._asked.get(name)
            if before is not None and 0 <= self.signals.step - before < rule.every:
                return False
            self._asked[name] = self.signals.step
        return True

    def _ask(self, name: str, rule: Rule) -> list[Symptom]:
        """What a rule says, unless a declared change explains what it would see."""
        signals = self.signals
        changed = signals.last_event(rule.explained_by) if rule.explained_by else -1
        signals.calm_after = changed + rule.settle if changed >= 0 else -1
        try:
            if changed >= 0 and signals.step <= signals.calm_after:
                return []
            symptoms = list(rule.check(signals))
        finally:
            signals.calm_after = -1
        self._silent[name] = not symptoms and rule.informed(signals)
        return symptoms

    def _decide(self, rule: Rule, finding: Finding, result: Check) -> None:
        action = _action(rule, finding)
        if action == "stop":
            result.stop.append(finding)
        elif action == "recover":
            result.recover.append(finding)

    def _denied(self, incident: Incident) -> dict[str, float]:
        """Cause -> what is left of it for the silence of rules that have data and would have seen it."""
        left: dict[str, float] = {}
        speaking = {finding.rule for finding in incident.findings}
        for name, silent in self._silent.items():
            if silent and name not in speaking:
                for label, weight in self.rules[name].denies.items():
                    left[label] = round(left.get(label, 1.0) * (1 - weight), 6)
        return left

    def _is_news(self, finding: Finding, again: bool) -> bool:
        """``again``: it may come anew; what is there before the first step is told once."""
        before = self._fired.get(finding.key)
        worst = finding.severity
        if before is not None and RANK[before[0]] > RANK[worst]:
            worst = before[0]
        self._fired[finding.key] = (worst, finding.step)
        if before is None:
            return True
        return RANK[finding.severity] > RANK[before[0]] or (again and finding.step - before[1] > self.rearm)

    def _take(self, finding: Finding) -> Incident:
        """Into the incident that holds it or is still open, else into a new one."""
        for incident in reversed(self.incidents):
            if finding.step - incident.last_step <= self.rearm and finding.key in {
                f.key for f in incident.findings
            }:
                incident.add(finding)
                incident.last_step = finding.step
                return incident
        for incident in reversed(self.incidents):
            # a finding that goes on and on does not hold its incident open for others
            if finding.step - max(f.step for f in incident.findings) <= self.window:
                break
        else:
            incident = Incident(finding.step, finding.step)
            self.incidents.append(incident)
        incident.add(finding)
        incident.last_step = finding.step
        return incident

    def _update(self, finding: Finding) -> None:
        """Newer evidence for a finding that is known."""
        for incident in reversed(self.incidents):
            if any(f.key == finding.key for f in incident.findings):
                incident.add(finding)
                incident.last_step = finding.step
                return

    def report(self) -> dict[str, Any]:
        """The content of ``health.json``; its form is :class:`maskwell.health.report.Report`."""
        return {
            "format": FORMAT,
            "verdict": self.verdict,
            "step": self.signals.step,
            "epoch": self.signals.epoch,
            "rules": sorted(self.rules),
            "top": [incident.cause.line() for incident in self.ranked_incidents[:3]],
            "incidents": [incident.to_json() for incident in self.incidents],
        }

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dicts."""
        return {
            "signals": self.signals.state_dict(),
            "incidents": [incident.to_json() for incident in self.incidents],
            "fired": [
                [rule, subject, severity, step] for (rule, subject), (severity, step) in self._fired.items()
            ],
            "asked": dict(self._asked),
            "flags": dict(self._flags),
            "silent": dict(self._silent),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave; what had fired does not fire again."""
        self.signals.load_state_dict(state["signals"])
        self.incidents = [Incident.from_json(i) for i in state["incidents"]]
        self._fired = {(rule, subject): (severity, step) for rule, subject, severity, step in state["fired"]}
        # rules may have been added or taken away since
        self._asked = {k: v for k, v in state["asked"].items() if k in self.rules}
        self._flags = {k: v for k, v in state["flags"].items() if k in self.rules}
        self._silent = {k: v for k, v in state["silent"].items() if k in self.rules}


def _action(rule: Rule, finding: Finding) -> str:
    return {"info": rule.on_info, "warn": rule.on_warn, "error": rule.action}[finding.severity]
