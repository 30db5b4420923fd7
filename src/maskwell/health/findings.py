"""Findings of the rules, merged into incidents with ranked causes, and the verdict they add up to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, NamedTuple

from maskwell.health.causes import CAUSES

Severity = Literal["info", "warn", "error"]
Verdict = Literal["healthy", "look at", "broken"]
Action = Literal["log", "warn", "skip", "recover", "stop"]
"""What a finding leads to, mildest first: a line in health.json only; the console, W&B and
``health/<rule>``; the gradients of the step are dropped; back to the last healthy checkpoint; the end."""

RANK: dict[Severity, int] = {"info": 0, "warn": 1, "error": 2}
VERDICTS: dict[Severity, Verdict] = {"info": "healthy", "warn": "look at", "error": "broken"}
TRUST: dict[Severity, float] = {"info": 0.5, "warn": 0.9, "error": 1.0}
"""How much a finding's vote for a cause counts, by its severity."""
SYMPTOM = 0.85
"""The vote of a rule counts so much less for every step it is away from the root (``depth``)."""
LEAST = 0.05
"""What is left of a cause, at least, however many rules deny it by their silence."""


@dataclass(frozen=True)
class Finding:
    """One thing that a rule has to say.

    ``step`` when it was first seen; ``cause`` in plain words; ``evidence`` name -> number;
    ``remedies`` as overrides that can be pasted behind the command; ``subject`` what it is about
    where a rule looks at several streams; ``depth`` 0 for root causes, larger for symptoms, so that
    an incident leads with its cause; ``causes`` label of :data:`~maskwell.health.causes.CAUSES` ->
    how strongly this speaks for it.
    """

    rule: str
    severity: Severity
    step: int
    cause: str
    evidence: Mapping[str, float] = field(default_factory=dict)
    remedies: tuple[str, ...] = ()
    subject: str = ""
    depth: int = 1
    causes: Mapping[str, float] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str]:
        """What makes two findings the same one."""
        return self.rule, self.subject

    def vote(self, label: str) -> float:
        """How strongly it speaks for a cause, in [0, 1)."""
        return self.causes.get(label, 0.0) * TRUST[self.severity] * SYMPTOM**self.depth

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
        evidence = {k: float(v) if math.isfinite(v) else str(v) for k, v in self.evidence.items()}
        plain = {"evidence": evidence, "remedies": list(self.remedies), "causes": dict(self.causes)}
        return {**asdict(self), **plain}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Finding:
        """Inverse of :meth:`to_json`."""
        evidence = {k: float(v) for k, v in data["evidence"].items()}
        return cls(**{**data, "evidence": evidence, "remedies": tuple(data["remedies"])})


class Ranked(NamedTuple):
    """A possible cause: its label, and how much speaks for it in [0, 1]."""

    label: str
    score: float


def rank(findings: Iterable[Finding], denied: Mapping[str, float]) -> list[Ranked]:
    """Causes by the evidence for them (noisy-OR of the votes) and against them, likeliest first.

    Args:
        findings: of one incident.
        denied: label -> what is left of it, in (0, 1], for the silence of rules that would have seen it.
    """
    missing: dict[str, float] = {}
    for finding in findings:
        for label in finding.causes:
            missing[label] = missing.get(label, 1.0) * (1 - finding.vote(label))
    scores = {label: (1 - m) * max(denied.get(label, 1.0), LEAST) for label, m in missing.items()}
    return sorted((Ranked(k, v) for k, v in scores.items() if v > 0), key=lambda r: (-r.score, r.label))


@dataclass
class Incident:
    """Findings that came close together, most likely of one cause.

    ``denied`` label -> what silent rules leave of it: see :func:`rank`.
    """

    first_step: int
    last_step: int
    findings: list[Finding] = field(default_factory=list)
    denied: dict[str, float] = field(default_factory=dict)

    @property
    def severity(self) -> Severity:
        """That of its worst finding."""
        return max((f.severity for f in self.findings), key=RANK.__getitem__)

    @property
    def ranked(self) -> list[Ranked]:
        """Its possible causes, likeliest first."""
        return rank(self.findings, self.denied)

    @property
    def cause(self) -> Finding:
        """The finding that speaks most for the likeliest cause; of equals the deepest, then the worst."""
        top = self.ranked[:1]
        return min(
            self.findings,
            key=lambda f: (-f.vote(top[0].label) if top else 0.0, f.depth, -RANK[f.severity]),
        )

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
        first = self.cause
        ordered = sorted(self.findings, key=lambda f: (f is not first, f.depth, -RANK[f.severity], f.step))
        return {
            "first_step": self.first_step,
            "last_step": self.last_step,
            "severity": self.severity,
            "cause": first.cause,
            "causes": [
                {"label": r.label, "score": round(r.score, 4), "words": CAUSES[r.label]}
                for r in self.ranked[:5]
            ],
            "denied": dict(self.denied),
            "findings": [f.to_json() for f in ordered],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Incident:
        """Inverse of :meth:`to_json`."""
        found = [Finding.from_json(f) for f in data["findings"]]
        return cls(data["first_step"], data["last_step"], found, dict(data.get("denied", {})))
