"""Objects and what is predicted of them: none, too many, all the same; and when to stop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from maskwell.health.findings import Action, Severity
from maskwell.health.rules.base import Clock, Rule, Symptom, scaled_rate
from maskwell.health.signals import FACT, METRIC, PREFLIGHT, Signals
from maskwell.health.statistics import median


@dataclass(kw_only=True)
class NoObjects(Rule):
    """The count ``fact`` was 0 in every one of the first ``steps`` steps.

    Batches without objects are normal where objects are rare; never one is not.
    """

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "P01b"
    depth: ClassVar[int] = 0
    reads: ClassVar[tuple[str, ...]] = (FACT + "num_objects",)
    supports: ClassVar[dict[str, float]] = {"no_targets": 0.97}
    denies: ClassVar[dict[str, float]] = {"no_targets": 0.5}
    fact: str = "num_objects"
    steps: int = 64
    action: Action = "stop"

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """At most one symptom."""
        counts = signals.get(FACT + self.fact)
        if counts.seen >= self.steps and not counts.nonzero:
            yield Symptom(
                "error",
                "no batch held a single object: the annotations are not read, or none fits the prompts "
                "and crops; `make data-check` shows which",
                {"steps": counts.seen, self.fact: 0.0},
                ("data.crop=null",),
            )


@dataclass(kw_only=True)
class MatchStarvation(Rule):
    """Most batches have nothing to match, or images hold more objects than the model has queries."""

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "T07"
    depth: ClassVar[int] = 0
    every: ClassVar[int] = 64
    reads: ClassVar[tuple[str, ...]] = (FACT + "num_objects",)
    supports: ClassVar[dict[str, float]] = {"no_targets": 0.7, "no_matches": 0.5}
    denies: ClassVar[dict[str, float]] = {"no_targets": 0.4, "no_matches": 0.3}
    fact: str = "num_objects"
    unmatched: str = "unmatched_objects"
    share: float = 0.5
    steps: int = 200

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """Batches without objects are judged against what the preflight found in the data."""
        counts = signals.get(FACT + self.fact).tail(self.steps)
        if len(counts) == self.steps and counts.any():
            empty = float((counts == 0).mean())
            declared = signals.value(PREFLIGHT + "empty_share")
            if empty > max(self.share, 1.5 * (declared or 0.0)):
                # sparse objects are no fault; far fewer than the data holds are
                severity: Severity = "info" if declared is None else "warn"
                text = f"{empty:.0%} of the batches hold no object"
                yield Symptom(severity, text, {"empty_batches": empty}, ("data.crop=null",), "empty")
        left = signals.get(FACT + self.unmatched).tail(self.steps)
        if len(left) == self.steps and (left > 0).mean() > self.share:
            share = float(left.sum() / max(1.0, counts.sum()))
            if share > 0.05:
                text = "images hold more objects than the model has queries: the rest cannot be learnt"
                evidence = {"unmatched_share": share}
                yield Symptom("warn", text, evidence, ("model.queries=300",), "queries", {"no_matches": 0.8})


@dataclass(kw_only=True)
class NoDetections(Rule):
    """Evaluation after evaluation, nothing is found at all."""

    clock: ClassVar[Clock] = "evaluation"
    code: ClassVar[str] = "E04"
    depth: ClassVar[int] = 2
    reads: ClassVar[tuple[str, ...]] = (METRIC + "val/detections_per_image",)
    supports: ClassVar[dict[str, float]] = {"degenerate": 0.5, "no_matches": 0.4, "lr_low": 0.3}
    denies: ClassVar[dict[str, float]] = {"degenerate": 0.3}
    metric: str = "val/detections_per_image"
    evaluations: int = 5

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """A warning where there were some before; else told: the first ones take their time."""
        stream = signals.get(METRIC + self.metric)
        last = stream.tail(self.evaluations)
        if len(last) == self.evaluations and not last.any():
            before = bool(stream.nonzero)
            text = "nothing is detected any more" if before else "nothing is detected yet"
            evidence = {"evaluations": float(stream.seen)}
            yield Symptom("warn" if before else "info", text, evidence, ("debug=overfit",))


@dataclass(kw_only=True)
class CountBias(Rule):
    """Far more, or far fewer, detections than there are objects."""

    clock: ClassVar[Clock] = "evaluation"
    code: ClassVar[str] = "T08"
    depth: ClassVar[int] = 2
    reads: ClassVar[tuple[str, ...]] = (METRIC + "val/detections_per_image", METRIC + "val/count_ratio")
    supports: ClassVar[dict[str, float]] = {"imbalance": 0.3, "no_matches": 0.3, "degenerate": 0.3}
    low: float = 0.5
    high: float = 2.0
    evaluations: int = 3
    after: int = 6

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """Information: how many are found depends on the threshold of the score first of all."""
        ratios = signals.get(METRIC + "val/count_ratio")
        values, seen = ratios.tail(self.evaluations), ratios.seen
        if not seen:
            stream = signals.get(METRIC + "val/detections_per_image")
            objects = signals.value(PREFLIGHT + "targets_per_sample")
            if not objects:
                return
            values, seen = stream.tail(self.evaluations) / objects, stream.seen
        if seen < self.after or len(values) < self.evaluations:
            return
        ratio = median(values)
        if not self.low <= ratio <= self.high:
            text = f"{ratio:.2g} times as many objects are found as there are"
            yield Symptom("info", text, {"found_over_existing": ratio})


@dataclass(kw_only=True)
class DegenerateMasks(Rule):
    """Nearly all predicted masks are empty, or full, though the objects are neither.

    ``fact`` is the share of the image that a mask covers, mean over a batch; ``wanted`` that of the
    objects, 0 in batches without any. Of tasks that report both.
    """

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "T09"
    depth: ClassVar[int] = 2
    every: ClassVar[int] = 32
    reads: ClassVar[tuple[str, ...]] = (FACT + "mask_fill",)
    supports: ClassVar[dict[str, float]] = {"degenerate": 0.9}
    denies: ClassVar[dict[str, float]] = {"degenerate": 0.4}
    fact: str = "mask_fill"
    wanted: str = "mask_fill_true"
    steps: int = 50
    after: int = 200
    share: float = 0.95
    least: float = 0.01

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """At most one symptom, over the last batches with objects."""
        filled, objects = signals.get(FACT + self.fact), signals.get(FACT + self.wanted)
        if filled.seen < self.after:
            return
        _, at, of = np.intersect1d(filled.steps, objects.steps, return_indices=True)
        values, wanted = filled.values[at], objects.values[of]
        values, wanted = values[wanted > 0][-self.steps :], wanted[wanted > 0][-self.steps :]
        if len(values) < self.steps:
            return
        # objects may be a few pixels, or most of the image
        empty, full = values < self.least * wanted, 1 - values < self.least * (1 - wanted)
        for word, hit in (("empty", empty), ("full", full)):
            if float(hit.mean()) > self.share:
                evidence = {self.fact: median(values), self.wanted: median(wanted)}
                yield Symptom("warn", f"nearly all predicted masks are {word}", evidence, (), word)


@dataclass(kw_only=True)
class DoneBalance(Rule):
    """The answer "no more objects" is hardly ever right, hardly ever wrong, or always the same."""

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "T06"
    depth: ClassVar[int] = 0
    every: ClassVar[int] = 32
    reads: ClassVar[tuple[str, ...]] = (FACT + "done_share",)
    supports: ClassVar[dict[str, float]] = {"done_balance": 0.95}
    denies: ClassVar[dict[str, float]] = {"done_balance": 0.6}
    target: str = "done_share"
    predicted: str = "done_predicted"
    low: float = 0.05
    steps: int = 200
    spread: float = 0.01
    after: int = 300

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """Targets first: a model that always gives the one answer there is, is right."""
        target = signals.get(FACT + self.target).tail(self.steps)
        if len(target) < self.steps:
            return
        share = float(target.mean())
        if not self.low <= share <= 1 - self.low:
            weight = (1 - share) / max(share, 0.01)
            word = "rare" if share < 0.5 else "common"
            text = f"'no more objects' is too {word} an answer ({share:.1%} of the states) to be learnt"
            remedies = (f"model.done_pos_weight={weight:.2g}", "model.sampling=mixed")
            yield Symptom("warn", text, {"share_of_targets": share}, remedies, "targets")
            return
        said = signals.get(FACT + self.predicted)
        values = said.tail(self.steps)
        if said.seen < self.after or len(values) < self.steps:
            return
        stuck = float(values.std()) < self.spread
        one_sided = values.max() < self.low or values.min() > 1 - self.low
        if stuck and one_sided:
            word = "never" if values.max() < 0.5 else "always"
            evidence = {"mean_prediction": float(values.mean()), "share_of_targets": share}
            remedies = (f"model.done_weight={5 if word == 'never' else 0.5}", "model.sampling=mixed")
            yield Symptom(
                "warn", f"the model {word} says that no more objects are left", evidence, remedies, "said"
            )


@dataclass(kw_only=True)
class StopsBadly(Rule):
    """Marking ends too early, or never, in most validation images."""

    clock: ClassVar[Clock] = "evaluation"
    code: ClassVar[str] = "T06b"
    reads: ClassVar[tuple[str, ...]] = (METRIC + "val/early",)
    supports: ClassVar[dict[str, float]] = {"done_balance": 0.4}
    denies: ClassVar[dict[str, float]] = {"done_balance": 0.2}
    share: float = 0.9
    evaluations: int = 4
    after: int = 8

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """Information: a model that is still learning stops badly too."""
        for name, text, weight in (
            ("val/early", "marking ends too early in most images", 0.5),
            ("val/late", "marking goes on too long in most images", 5.0),
        ):
            stream = signals.get(METRIC + name)
            last = stream.tail(self.evaluations)
            if stream.seen >= self.after and len(last) == self.evaluations and last.min() > self.share:
                yield Symptom("info", text, {name: float(last[-1])}, (f"model.done_weight={weight:g}",), name)


@dataclass(kw_only=True)
class StuckPredictions(Rule):
    """Predicted places do not vary: the same region of every image (``fact``: their standard deviation)."""

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "E05"
    every: ClassVar[int] = 32
    reads: ClassVar[tuple[str, ...]] = (FACT + "prediction_spread",)
    supports: ClassVar[dict[str, float]] = {"degenerate": 0.8, "lr_high": 0.3}
    denies: ClassVar[dict[str, float]] = {"degenerate": 0.3}
    fact: str = "prediction_spread"
    spread: float = 0.02
    steps: int = 100
    after: int = 300

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """In shares of the image side."""
        stream = signals.get(FACT + self.fact)
        values = stream.tail(self.steps)
        if stream.seen >= self.after and len(values) == self.steps and values.max() < self.spread:
            text = "all predictions lie in one region of the image"
            remedies = ("model.threshold=0.1", *scaled_rate(signals, 0.3))
            yield Symptom("warn", text, {self.fact: median(values)}, remedies)
