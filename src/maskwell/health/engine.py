"""The engine: runs rules over signals and merges what they find into incidents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from maskwell.health.findings import RANK, VERDICTS, Finding, Incident, Severity, Verdict
from maskwell.health.rules.base import Clock, Rule
from maskwell.health.signals import Signals


@dataclass(frozen=True)
class Check:
    """What one check brought.

    ``flags`` rule -> whether it fires now; ``news`` one finding per incident that began (its cause)
    or grew (what is new in it); ``stop`` the findings for whose sake the run should end.
    """

    flags: dict[str, bool] = field(default_factory=dict)
    news: list[Finding] = field(default_factory=list)
    stop: list[Finding] = field(default_factory=list)


class Engine:
    """Rules by name over one :class:`Signals`.

    A finding is news once: again only if it became worse, or after it was silent for ``rearm`` steps.

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

    @property
    def verdict(self) -> Verdict:
        """That of the worst incident so far."""
        worst: Severity = max((i.severity for i in self.incidents), key=RANK.__getitem__, default="info")
        return VERDICTS[worst]

    def check(self, clock: Clock) -> Check:
        """Run the rules of ``clock`` over the signals as they are now."""
        result = Check()
        touched: dict[int, Incident] = {}
        for name, rule in self.rules.items():
            if rule.clock != clock:
                continue
            found = [rule.finding(name, self.signals.step, symptom) for symptom in rule.check(self.signals)]
            result.flags[name] = any(f.severity != "info" for f in found)
            for finding in found:
                if self._is_news(finding):
                    group = self._take(finding)
                    touched.setdefault(id(group), Incident(finding.step, finding.step)).add(finding)
                    if finding.severity == "error" and rule.action == "stop":
                        result.stop.append(finding)
                else:
                    self._update(finding)
        result.news.extend(news.cause for news in touched.values())
        return result

    def _is_news(self, finding: Finding) -> bool:
        before = self._fired.get(finding.key)
        worst = finding.severity
        if before is not None and RANK[before[0]] > RANK[worst]:
            worst = before[0]
        self._fired[finding.key] = (worst, finding.step)
        if before is None:
            return True
        return RANK[finding.severity] > RANK[before[0]] or finding.step - before[1] > self.rearm

    def _take(self, finding: Finding) -> Incident:
        """Into the incident that holds it or is still open, else into a new one."""
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
        """The content of ``health.json``."""
        return {
            "format": 1,
            "verdict": self.verdict,
            "step": self.signals.step,
            "epoch": self.signals.epoch,
            "rules": sorted(self.rules),
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
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave; what had fired does not fire again."""
        self.signals.load_state_dict(state["signals"])
        self.incidents = [Incident.from_json(i) for i in state["incidents"]]
        self._fired = {(rule, subject): (severity, step) for rule, subject, severity, step in state["fired"]}
