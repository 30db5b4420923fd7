"""Before the first step, or once after warm-up: what network, loss and optimiser look like.

Under ``preflight/``: ``initial/<part>`` mean of a part of the loss over the first batches,
``classes`` their number, ``one_batch_share`` of the first loss after learning one batch,
``mixing/<output>`` change of a sample's output by the others of its batch, ``uncovered/<parameter>``
trainable parameters in no optimiser, ``foreign_parameters`` of the optimiser that are not the
module's, ``frozen/<parameter>`` frozen ones in an optimiser.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from maskwell.health.findings import Severity
from maskwell.health.rules.base import Clock, Rule, Symptom, listed, scaled_rate
from maskwell.health.signals import LINT, PREFLIGHT, PROBE, Signals


@dataclass(kw_only=True)
class InitialLoss(Rule):
    """Before any step, a loss that has an analytic range lies far outside of it.

    ``highest`` upper end of parts that are bounded by their formula; ``entropies`` parts that start
    near ln C of C classes. Others (focal, weighted, summed over layers) have no honest band.
    """

    clock: ClassVar[Clock] = "start"
    code: ClassVar[str] = "P07"
    depth: ClassVar[int] = 0
    reads: ClassVar[tuple[str, ...]] = (PREFLIGHT + "initial/",)
    supports: ClassVar[dict[str, float]] = {"not_normalised": 0.7, "input_scale": 0.3}
    peers: ClassVar[tuple[str, ...]] = ("TheDeepChecker", "Karpathy's recipe")
    highest: Mapping[str, float] = field(
        default_factory=lambda: {"loss_giou": 2.0, "loss_dice": 1.0, "loss_box": 4.0, "loss_done": 2.08}
    )
    entropies: tuple[str, ...] = ("loss_ce",)
    above: float = 5.0
    below: float = 0.2
    error_above: float = 50.0

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """One symptom per part."""
        classes = signals.value(PREFLIGHT + "classes") or 0.0
        for name, stream in signals.under(PREFLIGHT + "initial/"):
            value, entropy = stream.last(1)[0], name in self.entropies and classes > 1
            upper = math.log(classes) if entropy else self.highest.get(name)
            if upper is None:
                continue
            evidence = {name: value, "expected_at_most": upper}
            if value > self.above * upper:
                severity: Severity = "error" if value > self.error_above * upper else "warn"
                text = f"{name} begins {value / upper:.0f} times above what its formula allows"
                remedy = ("model.loss.normalisation=global",)
                yield Symptom(severity, text, evidence, remedy, name)
            elif entropy and value < self.below * upper:
                text = f"{name} begins far below ln(classes): trained already, or the answer is in the input"
                yield Symptom("info", text, evidence, (), name, {"leakage": 0.3})


@dataclass(kw_only=True)
class OneBatch(Rule):
    """One batch cannot be learnt by heart: network, loss or labels do not fit together.

    Measured where it is asked for (``health.preflight.one_batch_steps``, ``debug=overfit``).
    """

    clock: ClassVar[Clock] = "start"
    code: ClassVar[str] = "P09"
    depth: ClassVar[int] = 0
    reads: ClassVar[tuple[str, ...]] = (PREFLIGHT + "one_batch_share",)
    supports: ClassVar[dict[str, float]] = {"architecture": 0.6, "label_error": 0.4, "not_optimised": 0.4}
    denies: ClassVar[dict[str, float]] = {"architecture": 0.6, "not_optimised": 0.6}
    peers: ClassVar[tuple[str, ...]] = ("TheDeepChecker", "Karpathy's recipe")
    share: float = 0.5

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """At most one symptom."""
        share = signals.value(PREFLIGHT + "one_batch_share")
        if share is not None and not share <= self.share:
            text = "a single batch cannot be learnt: the loss hardly falls on it"
            yield Symptom("error", text, {"share_of_first_loss": share}, ("debug=overfit",))


@dataclass(kw_only=True)
class BatchMixing(Rule):
    """In evaluation mode, what the network says of one sample depends on the others in its batch."""

    clock: ClassVar[Clock] = "start"
    code: ClassVar[str] = "P10"
    depth: ClassVar[int] = 0
    reads: ClassVar[tuple[str, ...]] = (PREFLIGHT + "mixing",)
    supports: ClassVar[dict[str, float]] = {"architecture": 0.8}
    denies: ClassVar[dict[str, float]] = {"architecture": 0.3}
    peers: ClassVar[tuple[str, ...]] = ("Bolts", "TheDeepChecker")
    tolerance: float = 0.02

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """At most one symptom."""
        change = signals.value(PREFLIGHT + "mixing")
        if change is not None and change > self.tolerance:
            text = "what the network answers for one image depends on the others in the batch"
            yield Symptom("warn", text, {"relative_change": change})


@dataclass(kw_only=True)
class ParameterCoverage(Rule):
    """Trainable parameters that no optimiser holds, or an optimiser's that are not the model's."""

    clock: ClassVar[Clock] = "start"
    code: ClassVar[str] = "P11"
    depth: ClassVar[int] = 0
    reads: ClassVar[tuple[str, ...]] = (PREFLIGHT + "covered",)
    supports: ClassVar[dict[str, float]] = {"not_optimised": 0.95}
    denies: ClassVar[dict[str, float]] = {"not_optimised": 0.3}
    peers: ClassVar[tuple[str, ...]] = ("TrainCheck",)

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """At most three symptoms."""
        missing = {name: s.last(1)[0] for name, s in signals.under(PREFLIGHT + "uncovered/")}
        if missing:
            evidence = {"tensors": float(len(missing)), "values": sum(missing.values())}
            yield Symptom("error", f"no optimiser trains {listed(missing)}", evidence, (), "uncovered")
        if foreign := signals.value(PREFLIGHT + "foreign_parameters"):
            text = "an optimiser trains parameters that are not the model's (replaced after it was made?)"
            yield Symptom("error", text, {"tensors": foreign}, (), "foreign")
        frozen = [name for name, _ in signals.under(PREFLIGHT + "frozen/")]
        if frozen:
            text = f"frozen parameters lie in an optimiser: {listed(frozen)}"
            yield Symptom("info", text, {"tensors": float(len(frozen))}, (), "frozen", {"not_optimised": 0.2})


@dataclass(kw_only=True)
class InputIndependence(Rule):
    """After warm-up, an empty image gets the same answer as a real one."""

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "P12"
    reads: ClassVar[tuple[str, ...]] = (PROBE + "input_effect",)
    supports: ClassVar[dict[str, float]] = {"architecture": 0.6, "degenerate": 0.5, "lr_high": 0.3}
    denies: ClassVar[dict[str, float]] = {"degenerate": 0.3}
    peers: ClassVar[tuple[str, ...]] = ("TheDeepChecker", "Karpathy's recipe")
    change: float = 0.01

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """At most one symptom."""
        effect = signals.value(PROBE + "input_effect")
        if effect is not None and effect < self.change:
            text = "the network gives an empty image the same answer as a real one"
            yield Symptom("warn", text, {"relative_change": effect}, scaled_rate(signals, 0.3))


@dataclass(kw_only=True)
class TrainEvalGap(Rule):
    """After warm-up, the loss of the same batch is quite another in evaluation mode than in training mode."""

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "P13"
    reads: ClassVar[tuple[str, ...]] = (PROBE + "train_eval",)
    supports: ClassVar[dict[str, float]] = {"evaluation": 0.6, "batch_size": 0.4}
    denies: ClassVar[dict[str, float]] = {"evaluation": 0.3}
    peers: ClassVar[tuple[str, ...]] = ("TheDeepChecker",)
    factor: float = 2.0

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """Evaluation far above training only: dropout makes the opposite normal."""
        ratio = signals.value(PROBE + "train_eval")
        if ratio is not None and ratio > self.factor:
            text = "the same batch costs far more in evaluation than in training: statistics of BatchNorm?"
            remedies = ("model.generator.norm=group",)
            yield Symptom("warn", text, {"evaluation_over_training": ratio}, remedies)


@dataclass(kw_only=True)
class ConfigLint(Rule):
    """The configuration contradicts itself."""

    clock: ClassVar[Clock] = "start"
    code: ClassVar[str] = "P14"
    depth: ClassVar[int] = 0
    reads: ClassVar[tuple[str, ...]] = (PREFLIGHT + "covered",)
    supports: ClassVar[dict[str, float]] = {"config": 0.9}
    peers: ClassVar[tuple[str, ...]] = ("NeuraLint",)

    TEXTS: ClassVar[dict[str, tuple[str, str]]] = {
        "warmup_too_long": ("the warm-up is as long as the run: the full rate is never reached", ""),
        "rate_gone_early": (
            "the schedule leaves next to no rate for half of the run: does it take steps for epochs?",
            "",
        ),
        "schedule_too_long": (
            "the schedule is many times as long as the run: it counts epochs, and seems meant in steps",
            "",
        ),
        "never_validates": ("a callback watches a validation figure, and validation never runs", ""),
        "monitor_unknown": (
            "a callback watches a figure that is never logged",
            "callbacks.early_stopping.monitor=null",
        ),
        "patience_too_long": (
            "early stopping waits longer than the run lasts",
            "callbacks.early_stopping.patience=null",
        ),
        "batchnorm_of_one": ("BatchNorm is trained with one image per batch", "data.batch_size=4"),
        "no_step": ("more batches are accumulated than an epoch has", "trainer.accumulate_grad_batches=1"),
    }

    TOLERABLE: ClassVar[tuple[str, ...]] = ("batchnorm_of_one",)
    """Information alone: over the places of a map, statistics of one image serve, if badly."""

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """One symptom per contradiction."""
        for code, stream in signals.under(LINT):
            text, remedy = self.TEXTS[code]
            severity: Severity = "info" if code in self.TOLERABLE else "warn"
            yield Symptom(severity, text, {code: stream.last(1)[0]}, (remedy,) if remedy else (), code)
