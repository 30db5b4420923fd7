"""From finished cells to the published figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.health.monitors import OURS, all_alarms, case, ours, printed, replayed
from benchmarks.health.peers import PEERS
from benchmarks.health.plan import Cell, reference
from benchmarks.health.record import Training
from benchmarks.health.remedies import as_good
from benchmarks.health.score import Outcome, figures, judge, parted, spread
from benchmarks.health.tape import Tape

CLASSES: dict[str, tuple[str, ...]] = {
    "nonfinite": ("nan_pixel", "nan_step", "fp16_overflow", "inf_gradients", "poisoned_checkpoint"),
    "invariant": ("missing_parameters", "frozen_head", "inert_clip", "no_zero_grad", "rank_desync"),
    "shift": ("level_shift",),
    "divergence": ("slow_divergence",),
}
"""Classes of faults that have a goal of latency of their own."""
SHOWN = ("detection", "top1", "precision", "healthy_flagged", "false_per_1000", "latency.median")
"""Figures by which monitors are compared."""
NOTES = (
    "Miniature trainings of the four families on generated cells, one thread. detection: found within "
    "500 steps or {evaluations} evaluations of the fault's first step. An alarm of ours is a line as it was "
    "printed, with the causes as they were ranked then. top1, top3: the right cause, or one "
    "that says the same, was named first, or among three, of all faulty runs. precision: of all alarms that "
    "named a cause (the same one again within 50 steps counts once), in healthy runs too. healthy_flagged: "
    "healthy runs with any warning. false_per_1000: episodes (alarms more than 50 steps apart) in steps "
    "where nothing is wrong, with bootstrap intervals over runs, or the exact one of rare events where it is "
    "wider; intervals of shares are Wilson's. held_out: faults chosen by a hash of their name before any "
    "rule was written. harmful: faults that cost 5 % of what a healthy run of that length reaches. "
    "latency.<class>: steps. monitors: others' rules, from their documented thresholds, on "
    "the same recordings. remedy: the first override printed, applied to the faulty run, brings 95 % of the "
    "healthy figure; recovery: the same of runs whose weights were displaced once and that went back to a "
    "healthy checkpoint by themselves. "
    "overhead: share of a step of that many milliseconds, processor time, of two runs that take turns every "
    "few steps."
)


@dataclass(frozen=True)
class Finished:
    """A cell, what it gave, and its tape."""

    cell: Cell
    result: dict[str, Any]
    tape: Callable[[], Tape]

    @property
    def judged(self) -> bool:
        """Whether it came to its end, or to a fault that ended it."""
        return not self.result["ended"] or (bool(self.cell.right) and self.result["onset"] is not None)


def outcomes(finished: Sequence[Finished]) -> dict[str, list[Outcome]]:
    """Monitor -> what it made of every run."""
    judged: dict[str, list[Outcome]] = {name: [] for name in (OURS, *PEERS)}
    for entry in finished:
        known = case(entry.cell, entry.result)
        found = all_alarms(entry.tape(), known.family, entry.result["monitor"])
        for name, alarms in found.items():
            judged[name].append(judge(known, alarms))
    return judged


def collect(
    recorded: Sequence[Finished], references: Mapping[Training, Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """All figures that rest on recordings; ``references``: what healthy trainings of all lengths gave.

    A healthy run that came to no end, and one whose fault could not be put in, show nothing of a monitor.
    """
    finished = [f for f in recorded if f.judged]
    if not finished:
        return {}
    judged = outcomes(finished)
    own = judged[OURS]
    hidden = {id(f.result) for f in finished if f.cell.held_out}
    pairs = list(zip(finished, own, strict=True))
    harmful = [o for f, o in pairs if o.case.faulty and hurt(f, references or {})]
    result: dict[str, Any] = {
        "runs.faulty": sum(o.case.faulty for o in own),
        "runs.healthy": sum(not o.case.right for o in own),
        "runs.without_effect": sum(bool(o.case.right) and not o.case.faulty for o in own),
        "runs.not_judged": len(recorded) - len(finished),
        "runs.commits": len({f.result.get("commit") for f in finished}),
        "minutes": sum(f.result["seconds"] for f in finished) / 60,
        **figures(own),
        "harmful": {k: v for k, v in figures(harmful).items() if k.startswith(("detection", "top1"))},
        "held_out": figures([o for f, o in pairs if id(f.result) in hidden]),
        "designed_on": figures([o for f, o in pairs if f.cell.right and id(f.result) not in hidden]),
        "by_family": parted(own, lambda c: c.family),
        "by_group": parted(own, lambda c: c.group),
        "by_fault": parted(own, lambda c: c.name),
        "latency": latencies(own),
        "healthy_flagged_by": flagged(own),
    }
    result["monitors"] = {
        name: {k: v for k, v in figures(found).items() if k in SHOWN} for name, found in judged.items()
    }
    return result


def stories(finished: Sequence[Finished]) -> Iterator[str]:
    """A line for every run of which the monitor missed something or said something wrong."""
    for entry in finished:
        tape, family = entry.tape(), entry.cell.training.family
        engine = replayed(tape, family)
        known = case(entry.cell, entry.result)
        made = judge(known, ours(printed(tape, family)))
        wrong = []
        if known.faulty and not made.found:
            wrong.append("not found")
        if made.found and not made.top1:
            wrong.append(f"wants {' or '.join(known.right)}")
        if made.false_episodes:
            wrong.append(f"{made.false_episodes} false")
        if not wrong:
            continue
        told = [
            f"step {i.first_step} {'+'.join(f.rule for f in i.findings if f.severity != 'info')}: "
            f"{', '.join(f'{label} {score:.2f}' for label, score in i.ranked[:3])}"
            for i in engine.ranked_incidents
        ]
        label = f"{known.family} {known.name} {known.severity:g} (onset {known.onset})"
        yield f"{label}: {', '.join(wrong)}; told {' | '.join(told) or 'nothing'}"


def hurt(entry: Finished, references: Mapping[Training, Mapping[str, Any]]) -> bool:
    """Whether a run ended below 95 % of the healthy one of its length, family and seed."""
    healthy = references.get(reference(entry.cell.training))
    return healthy is None or bool(entry.result["ended"]) or not as_good(entry.result, healthy)


def latencies(own: Sequence[Outcome]) -> dict[str, dict[str, float]]:
    """Class -> median and 90th percentile of the steps until its faults were found, with intervals."""
    result = {}
    for name, kinds in CLASSES.items():
        found = [o.latency for o in own if o.case.name in kinds and o.latency is not None]
        if found:
            result[name] = spread(found)
    return result


def flagged(own: Sequence[Outcome]) -> dict[str, float]:
    """Kind of healthy run -> share with a warning."""
    kinds: dict[str, list[bool]] = {}
    for outcome in own:
        if not outcome.case.right:
            kinds.setdefault(outcome.case.name, []).append(outcome.false_episodes > 0)
    return {name: sum(found) / len(found) for name, found in sorted(kinds.items())}
