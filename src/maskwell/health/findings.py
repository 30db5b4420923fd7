"""Findings of the rules, merged into incidents, and the verdict they add up to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

Severity = Literal["info", "warn", "error"]
Verdict = Literal["healthy", "look at", "broken"]
Action = Literal["log", "warn", "stop"]

RANK: dict[Severity, int] = {"info": 0, "warn": 1, "error": 2}
VERDICTS: dict[Severity, Verdict] = {"info": "healthy", "warn": "look at", "error": "broken"}


@dataclass(frozen=True)
class Finding:
    """One thing that a rule has to say.

    ``step`` when it was first seen; ``cause`` in plain words; ``evidence`` name -> number;
    ``remedies`` as overrides that can be pasted behind the command; ``subject`` what it is about
    where a rule looks at several streams; ``depth`` 0 for root causes, larger for symptoms, so that
    an incident leads with its cause.
    """

    rule: str
    severity: Severity
    step: int
    cause: str
    evidence: Mapping[str, float] = field(default_factory=dict)
    remedies: tuple[str, ...] = ()
    subject: str = ""
    depth: int = 1

    @property
    def key(self) -> tuple[str, str]:
        """What makes two findings the same one."""
        return self.rule, self.subject

    def line(self) -> str:
        """Cause, evidence and remedies on one line."""
        text = self.cause
        if self.evidence:
            text += " (" + ", ".join(f"{name} {value:.4g}" for name, value in self.evidence.items()) + ")"
        if self.remedies:
            text += "; try " + " or ".join(self.remedies)
        return text

    def to_json(self) -> dict[str, Any]:
        """A mapping that JSON can hold: numbers that are not finite become strings."""
        evidence = {k: v if math.isfinite(v) else str(v) for k, v in self.evidence.items()}
        return {**asdict(self), "evidence": evidence, "remedies": list(self.remedies)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Finding:
        """Inverse of :meth:`to_json`."""
        evidence = {k: float(v) for k, v in data["evidence"].items()}
        return cls(**{**data, "evidence": evidence, "remedies": tuple(data["remedies"])})


@dataclass
class Incident:
    """Findings that came close together, most likely of one cause."""

    first_step: int
    last_step: int
    findings: list[Finding] = field(default_factory=list)

    @property
    def severity(self) -> Severity:
        """That of its worst finding."""
        return max((f.severity for f in self.findings), key=RANK.__getitem__)

    @property
    def cause(self) -> Finding:
        """The finding that lies deepest; of equals, the worst."""
        return min(self.findings, key=lambda f: (f.depth, -RANK[f.severity]))

    def add(self, finding: Finding) -> None:
        """Take a finding in; newer evidence of a known one replaces the older, unless it is milder."""
        for index, known in enumerate(self.findings):
            if known.key == finding.key:
                if RANK[finding.severity] >= RANK[known.severity]:
                    self.findings[index] = replace(finding, step=known.step)
                return
        self.findings.append(finding)

    def to_json(self) -> dict[str, Any]:
        """Led by the cause."""
        ordered = sorted(self.findings, key=lambda f: (f.depth, -RANK[f.severity], f.step))
        return {
            "first_step": self.first_step,
            "last_step": self.last_step,
            "severity": self.severity,
            "cause": self.cause.cause,
            "findings": [f.to_json() for f in ordered],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Incident:
        """Inverse of :meth:`to_json`."""
        found = [Finding.from_json(f) for f in data["findings"]]
        return cls(data["first_step"], data["last_step"], found)
