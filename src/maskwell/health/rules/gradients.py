"""Gradients and the changes that steps make with them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from maskwell.health import statistics
from maskwell.health.findings import Action
from maskwell.health.rules.base import CHANGES, Clock, Rule, Symptom, listed, scaled_rate
from maskwell.health.signals import (
    BAD_GRADIENT,
    GRAD,
    GRAD_CLIPPED,
    GRAD_COSINE,
    GRAD_LIMIT,
    GROUP_GRAD,
    LR,
    NO_GRADIENT,
    NOISE_LARGE,
    NOISE_RATIO,
    NOISE_SMALL,
    NONFINITE,
    UNCHANGED,
    UPDATE,
    Signals,
    Stream,
)
from maskwell.health.statistics import median


@dataclass(kw_only=True)
class NonFiniteGradient(Rule):
    """Gradients are NaN or infinite though the loss is finite."""

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "N02"
    depth: ClassVar[int] = 0
    reads: ClassVar[tuple[str, ...]] = (GRAD,)
    supports: ClassVar[dict[str, float]] = {"overflow": 0.8}
    denies: ClassVar[dict[str, float]] = {"overflow": 0.5}
    peers: ClassVar[tuple[str, ...]] = ("Megatron", "LightlyTrain", "OLMo")
    in_window: int = 3
    window: int = 100
    action: Action = "recover"

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """At most one symptom: an error where it happens again and again."""
        stream = signals.get(BAD_GRADIENT)
        recent = stream.tail(self.in_window, signals.step - self.window)
        if len(recent):
            again = len(recent) >= self.in_window
            text = "gradients are not finite, though the loss is" + (" - again and again" if again else "")
            remedies = (*scaled_rate(signals, 0.1), "trainer.precision=32-true") if again else ()
            evidence = {"step": float(stream.latest_step), f"in_last_{self.window}": float(len(recent))}
            yield Symptom("error" if again else "warn", text, evidence, remedies)

    def informed(self, signals: Signals) -> bool:
        """Not beside a loss that is not finite: what its gradients are like speaks against nothing."""
        bad_losses = any(s.latest_step > signals.step - self.window for _, s in signals.under(NONFINITE))
        return super().informed(signals) and not bad_losses


@dataclass(kw_only=True)
class ExplodingGradient(Rule):
    """The gradient norm has moved far above what it was (a single one is the clipping's business)."""

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "G01"
    every: ClassVar[int] = 8
    reads: ClassVar[tuple[str, ...]] = (GRAD,)
    explained_by: ClassVar[tuple[str, ...]] = CHANGES
    supports: ClassVar[dict[str, float]] = {"lr_high": 0.5, "divergence": 0.5, "no_zero_grad": 0.3}
    denies: ClassVar[dict[str, float]] = {"lr_high": 0.2, "no_zero_grad": 0.3}
    peers: ClassVar[tuple[str, ...]] = ("AutoTrainer", "TheDeepChecker", "DeepDiagnosis", "ZClip")
    z: float = 9.0
    ratio: float = 10.0
    history: int = 256
    recent: int = 16

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """One symptom per optimiser."""
        for name, stream in signals.under(GRAD):
            values = signals.window(stream, self.history + self.recent)
            if len(values) < self.history // 2 + self.recent or not values.any():
                continue
            logs = statistics.log_values(values)
            before, now = logs[: -self.recent], median(logs[-self.recent :])
            z = statistics.robust_z(now, before, 0.05)
            ratio = math.exp(now - median(before))
            if z > self.z and ratio > self.ratio:
                evidence = {"times_median": ratio, "robust_z": z}
                remedies = ("callbacks.grad_clip.max_norm=0.1", *scaled_rate(signals, 0.3))
                what = f"gradients of the {name}" if name != "all" else "gradients"
                text = f"{what} are {ratio:.0f} times what they were: they explode"
                yield Symptom("warn", text, evidence, remedies, name)


@dataclass(kw_only=True)
class VanishingGradient(Rule):
    """A group of parameters gets next to no gradient for its size."""

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "G02"
    every: ClassVar[int] = 64
    reads: ClassVar[tuple[str, ...]] = (GROUP_GRAD,)
    explained_by: ClassVar[tuple[str, ...]] = CHANGES
    supports: ClassVar[dict[str, float]] = {"not_optimised": 0.6, "architecture": 0.4}
    denies: ClassVar[dict[str, float]] = {"architecture": 0.2}
    peers: ClassVar[tuple[str, ...]] = (
        "SageMaker Debugger",
        "AutoTrainer",
        "DeepDiagnosis",
        "TheDeepChecker",
    )
    low: float = 1e-8
    steps: int = 100

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """One symptom for all groups."""
        weak = {}
        for name, stream in signals.under(GROUP_GRAD):
            values = signals.window(stream, self.steps)
            if len(values) == self.steps and (middle := median(values)) < self.low:
                weak[name] = middle
        if weak:
            text = f"gradients of {listed(weak)} have vanished"
            yield Symptom("warn", text, {f"{k}_gradient_over_weight": v for k, v in list(weak.items())[:3]})


@dataclass(kw_only=True)
class ClipSaturated(Rule):
    """Every step is clipped, by a lot: the bound sets the length of the steps. Told, not warned of."""

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "G03"
    depth: ClassVar[int] = 2
    every: ClassVar[int] = 64
    reads: ClassVar[tuple[str, ...]] = (GRAD_LIMIT,)
    supports: ClassVar[dict[str, float]] = {"clip": 0.4, "loss_weight": 0.3, "not_normalised": 0.3}
    share: float = 0.95
    steps: int = 500
    times: float = 10.0

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """One symptom per optimiser."""
        for name, stream in signals.under(GRAD):
            limit = signals.value(GRAD_LIMIT + name)
            values = stream.tail(self.steps)
            if not limit or len(values) < self.steps:
                continue
            clipped, middle = float((values > limit).mean()), median(values)
            if clipped > self.share and middle > self.times * limit:
                evidence = {"clipped_share": clipped, "median_norm": middle, "limit": limit}
                text = "every step is clipped by far: the bound works as the learning rate"
                yield Symptom("info", text, evidence, (f"callbacks.grad_clip.max_norm={middle:.2g}",), name)


@dataclass(kw_only=True)
class ClipInert(Rule):
    """Clipping is configured, and steps are made with gradients above its bound.

    A clipped norm is never above it: one step tells, and no noise has to be waited for.
    """

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "G04"
    depth: ClassVar[int] = 0
    reads: ClassVar[tuple[str, ...]] = (GRAD_CLIPPED,)
    supports: ClassVar[dict[str, float]] = {"clip": 0.97}
    denies: ClassVar[dict[str, float]] = {"clip": 0.7}
    tolerance: float = 0.01
    times: int = 1

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """One symptom per optimiser."""
        for name, stream in signals.under(GRAD_CLIPPED):
            limit = signals.value(GRAD_LIMIT + name)
            last = stream.tail(self.times)
            if limit and len(last) == self.times and last.min() > (1 + self.tolerance) * limit:
                evidence = {"norm_at_the_step": float(last[-1]), "limit": limit}
                text = "clipping is configured but does nothing: it comes before the gradients, or not at all"
                yield Symptom("error", text, evidence, ("callbacks.grad_clip.max_norm=1.0",), name)


@dataclass(kw_only=True)
class UpdateRatio(Rule):
    """Steps change a group of weights by far too much or by next to nothing of their size."""

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "G05"
    every: ClassVar[int] = 32
    reads: ClassVar[tuple[str, ...]] = (UPDATE,)
    explained_by: ClassVar[tuple[str, ...]] = CHANGES
    supports: ClassVar[dict[str, float]] = {"lr_high": 0.6}
    denies: ClassVar[dict[str, float]] = {"lr_high": 0.3, "lr_low": 0.3}
    peers: ClassVar[tuple[str, ...]] = ("SageMaker Debugger", "TheDeepChecker", "Cockpit")
    low: float = 1e-8
    high: float = 0.1
    samples: int = 6
    share: float = 0.5

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """By the medians of the groups; most of them have to agree, and the schedule has to be under way."""
        medians = {
            name: median(values)
            for name, stream in signals.under(UPDATE)
            if len(values := signals.window(stream, self.samples)) == self.samples
        }
        if not medians:
            return
        above = [n for n, m in medians.items() if m > self.high]
        below = [n for n, m in medians.items() if m < self.low]
        if len(above) >= max(1, self.share * len(medians)):
            evidence = {
                "median_change_over_weight": max(medians[n] for n in above),
                "groups": float(len(above)),
            }
            text = f"every step changes {listed(above)} by more than {self.high:.0%} of their size"
            yield Symptom("warn", text, evidence, scaled_rate(signals, 0.1), "high")
        elif len(below) == len(medians) and not _rate_is_low_by_plan(signals):
            evidence = {"median_change_over_weight": max(medians.values()), "groups": float(len(below))}
            text = "steps change next to nothing: the learning rate is far too low"
            yield Symptom("warn", text, evidence, scaled_rate(signals, 1000), "low", {"lr_low": 0.8})


def _rate_is_low_by_plan(signals: Signals) -> bool:
    """At the foot of a warm-up or at the end of a decay."""
    for _, stream in signals.under(LR):
        rates = stream.values
        if len(rates) and signals.learning_rate and rates[-1] < 0.05 * signals.learning_rate:
            return True
    return False


@dataclass(kw_only=True)
class UnchangedParameters(Rule):
    """Parameters that get a gradient are bit for bit the same after many steps.

    One that has moved before may rest where its updates are below its precision, as at the end of a schedule:
    it counts when it rests for long, or when a ``share`` of all tensors does.
    """

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "G06"
    depth: ClassVar[int] = 0
    reads: ClassVar[tuple[str, ...]] = (UNCHANGED,)
    supports: ClassVar[dict[str, float]] = {"not_optimised": 0.9}
    denies: ClassVar[dict[str, float]] = {"not_optimised": 0.5}
    peers: ClassVar[tuple[str, ...]] = ("TrainCheck", "SageMaker Debugger")
    steps: int = 20
    long: int = 512
    share: float = 0.25

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """One symptom for all; rates of 0 are another rule's."""
        resting = {n: s for n, s in signals.under(UNCHANGED) if (s.latest or 0) >= self.steps}
        total = signals.value("preflight/trainable_tensors") or float(len(resting))
        if len(resting) < self.share * total:
            resting = {n: s for n, s in resting.items() if not _has_moved(s) or s.last(1)[0] >= self.long}
        if not resting or all((s.latest or 0.0) == 0 for _, s in signals.under(LR)):
            return
        text = f"{listed(resting)} get gradients but never change: their optimiser does not step them"
        longest = max(stream.last(1)[0] for stream in resting.values())
        yield Symptom("error", text, {"tensors": float(len(resting)), "steps": longest})


def _has_moved(resting: Stream) -> bool:
    """Whether the rest (steps so far, first told behind one look) began later than at the first looks."""
    return resting.latest_step - resting.last(1)[0] > 2 * resting.first[0]


@dataclass(kw_only=True)
class NoGradient(Rule):
    """Trainable parameters get no gradient, or exactly 0, for many steps."""

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "G07"
    depth: ClassVar[int] = 0
    reads: ClassVar[tuple[str, ...]] = (NO_GRADIENT,)
    explained_by: ClassVar[tuple[str, ...]] = CHANGES
    supports: ClassVar[dict[str, float]] = {"not_optimised": 0.8}
    denies: ClassVar[dict[str, float]] = {"not_optimised": 0.5}
    peers: ClassVar[tuple[str, ...]] = ("TrainCheck",)
    steps: int = 20
    share: float = 0.1

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """A warning where a whole group or a tenth of all is idle; a few tensors are information."""
        idle = {n: s.latest or 0.0 for n, s in signals.under(NO_GRADIENT) if (s.latest or 0) >= self.steps}
        if not idle:
            return
        total = signals.value("preflight/trainable_tensors") or float(len(idle))
        many = len(idle) > self.share * total
        evidence = {"tensors": float(len(idle)), "of": total, "steps": max(idle.values())}
        text = f"no gradient reaches {listed(idle)}"
        yield Symptom(
            "warn" if many else "info", text, evidence, (), "", None if many else {"not_optimised": 0.3}
        )


@dataclass(kw_only=True)
class NoiseScale(Rule):
    """How noisy the gradient is for the size of the batch, where micro-batches show it. Information."""

    clock: ClassVar[Clock] = "epoch"
    code: ClassVar[str] = "G08"
    depth: ClassVar[int] = 2
    reads: ClassVar[tuple[str, ...]] = (NOISE_SMALL,)
    supports: ClassVar[dict[str, float]] = {"batch_size": 0.6}
    peers: ClassVar[tuple[str, ...]] = ("Cockpit",)
    steps: int = 50
    small: float = 0.05
    large: float = 20.0

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """At most one symptom."""
        one, all_ = signals.get(NOISE_SMALL).tail(256), signals.get(NOISE_LARGE).tail(256)
        ratio = signals.value(NOISE_RATIO)
        if len(one) < self.steps or len(one) != len(all_) or not ratio or ratio <= 1:
            return
        scale = statistics.noise_scale(float(one.mean()), float(all_.mean()), ratio) / ratio
        evidence = {"noise_over_batch": scale}
        if scale > self.large:
            text = "gradients are mostly noise: a larger batch would make better steps"
            yield Symptom(
                "info", text, evidence, (f"trainer.accumulate_grad_batches={4 * ratio:.0f}",), "noisy"
            )
        elif 0 <= scale < self.small:
            text = "gradients hardly differ between batches: a smaller batch would do as well"
            yield Symptom("info", text, evidence, (), "smooth")


@dataclass(kw_only=True)
class GradientsNotZeroed(Rule):
    """Gradients add up from step to step: nobody sets them to zero."""

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "G09"
    depth: ClassVar[int] = 0
    every: ClassVar[int] = 8
    reads: ClassVar[tuple[str, ...]] = (GRAD_COSINE,)
    supports: ClassVar[dict[str, float]] = {"no_zero_grad": 0.95}
    denies: ClassVar[dict[str, float]] = {"no_zero_grad": 0.6}
    peers: ClassVar[tuple[str, ...]] = ("TrainCheck",)
    cosine: float = 0.9
    steps: int = 16

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """One symptom per optimiser: successive gradients are alike and grow without a break.

        Sums of ever more gradients become ever more alike; in health that needs batches that are all
        the same, whose gradients do not grow.
        """
        for name, stream in signals.under(GRAD_COSINE + "/"):
            cosines = stream.tail(self.steps)
            norms = signals.get(GRAD + name).tail(self.steps)
            together = signals.get(GRAD + name).latest_step == stream.latest_step
            if len(cosines) < self.steps or len(norms) < self.steps or not together:
                continue
            growing = float((np.diff(norms) > 0).mean())
            if median(cosines) > self.cosine and growing > 0.8 and norms[-1] > 1.3 * norms[0]:
                evidence = {
                    "cosine_with_the_step_before": median(cosines),
                    "growing_share": growing,
                }
                text = "gradients add up from step to step: they are never set to zero"
                yield Symptom("error", text, evidence, (), name)
