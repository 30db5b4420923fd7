"""Losses and gradients that are NaN or infinite, and what they leave behind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from maskwell.health.findings import Action
from maskwell.health.rules.base import Clock, Rule, Symptom, listed, scaled_rate
from maskwell.health.signals import (
    COUNTER,
    INPUT_BAD,
    INPUT_SEEN,
    LOSS,
    MODULE_BAD,
    NONFINITE,
    SCALE,
    STATE_BAD,
    Signals,
)


@dataclass(kw_only=True)
class NonFinite(Rule):
    """One bad step is a warning (its update is skipped); several in a row or close together an error.

    ``in_a_row`` steps with no finite loss between them (a log may hold every 50th), or ``in_window`` within
    the last ``window`` steps.
    """

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "N01"
    depth: ClassVar[int] = 0
    reads: ClassVar[tuple[str, ...]] = (LOSS,)
    supports: ClassVar[dict[str, float]] = {"overflow": 0.5, "bad_sample": 0.4, "lr_high": 0.3}
    denies: ClassVar[dict[str, float]] = {"overflow": 0.6, "bad_sample": 0.5, "bad_weights": 0.6}
    peers: ClassVar[tuple[str, ...]] = (
        "Lightning",
        "Composer",
        "Megatron",
        "Ultralytics",
        "SageMaker Debugger",
        "AutoTrainer",
        "DeepDiagnosis",
        "UMLAUT",
        "TheDeepChecker",
        "MMDetection",
    )
    in_a_row: int = 2
    in_window: int = 3
    window: int = 100
    action: Action = "stop"

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """One symptom for all values, naming those that were bad at the last bad step."""
        steps = sorted({int(s) for _, stream in signals.under(NONFINITE) for s in stream.steps})
        recent = [s for s in steps if s > signals.step - self.window]
        if not recent:
            return
        latest = recent[-1]
        names = [n for n, stream in signals.under(NONFINITE) if stream.latest_step == latest]
        inner = [n for n in names if n != LOSS]
        tail = steps[-self.in_a_row :]
        finite = signals.get(LOSS).steps
        run = len(tail) == self.in_a_row and not ((finite > tail[0]) & (finite < tail[-1])).any()
        broken = run or len(recent) >= self.in_window
        what = ", ".join(inner) if inner else "the loss"
        yield Symptom(
            "error" if broken else "warn",
            f"{what} is NaN or infinite" + (" again and again" if broken else " in a single step"),
            {"last_bad_step": latest, f"bad_steps_in_last_{self.window}": len(recent)},
            (*scaled_rate(signals, 0.1), "trainer.precision=32-true") if broken else (),
        )


@dataclass(kw_only=True)
class NonFiniteState(Rule):
    """Weights, buffers or the optimiser's moments hold NaN or infinity: no later step can mend that."""

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "N03"
    depth: ClassVar[int] = 0
    reads: ClassVar[tuple[str, ...]] = (STATE_BAD,)
    supports: ClassVar[dict[str, float]] = {"bad_weights": 0.95}
    denies: ClassVar[dict[str, float]] = {"bad_weights": 0.7}
    peers: ClassVar[tuple[str, ...]] = ("TheDeepChecker", "Ultralytics")
    action: Action = "recover"

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """One symptom for all of them."""
        bad = {name: s.latest or 0.0 for name, s in signals.under(STATE_BAD) if s.latest}
        if bad:
            text = f"{listed(bad)} hold values that are not finite"
            yield Symptom("error", text, {f"bad_values_in_{k}": v for k, v in bad.items()})


@dataclass(kw_only=True)
class NonFiniteInput(Rule):
    """The batch of a bad step holds NaN or infinity itself."""

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "N04"
    depth: ClassVar[int] = 0
    reads: ClassVar[tuple[str, ...]] = (INPUT_SEEN,)
    supports: ClassVar[dict[str, float]] = {"bad_sample": 0.97}
    denies: ClassVar[dict[str, float]] = {"bad_sample": 0.8}
    peers: ClassVar[tuple[str, ...]] = ("UMLAUT",)
    window: int = 100

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """One symptom; the ids of the samples are in the capture beside ``health.json``."""
        found = {
            name: s for name, s in signals.under(INPUT_BAD) if s.latest_step > signals.step - self.window
        }
        if found:
            text = f"the input of a bad step is not finite itself: {listed(found)}"
            step = max(s.latest_step for s in found.values())
            yield Symptom("error", text, {"step": float(step)})


@dataclass(kw_only=True)
class LossScale(Rule):
    """The loss scale of float16 was halved again and again, or is below 1."""

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "N05"
    reads: ClassVar[tuple[str, ...]] = (SCALE,)
    supports: ClassVar[dict[str, float]] = {"overflow": 0.8}
    denies: ClassVar[dict[str, float]] = {"overflow": 0.4}
    peers: ClassVar[tuple[str, ...]] = ("DeepSpeed",)
    halvings: int = 4
    window: int = 100

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """At most one symptom; a scale that finds its level at the start halves too."""
        scale = signals.get(SCALE)
        values = scale.tail(self.window, signals.step - self.window)
        if len(values) < 2 or scale.latest is None:
            return
        halved = int((values[1:] < values[:-1]).sum())
        evidence = {"scale": scale.latest, "halvings": float(halved)}
        remedies = ("trainer.precision=bf16-mixed", "trainer.precision=32-true")
        if scale.latest < 1:
            yield Symptom("error", "float16 overflows: the loss scale is below 1", evidence, remedies)
        elif halved >= self.halvings and signals.step > 2 * self.window:
            yield Symptom("warn", "float16 overflows again and again", evidence, remedies)


@dataclass(kw_only=True)
class WrongSign(Rule):
    """A loss that cannot be negative is, or a metric that is a share lies outside [0, 1].

    ``losses`` and ``shares`` are parts of names; a loss counts as non-negative by what it is called.
    """

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "N06"
    depth: ClassVar[int] = 0
    reads: ClassVar[tuple[str, ...]] = (LOSS,)
    supports: ClassVar[dict[str, float]] = {"wrong_sign": 0.95}
    denies: ClassVar[dict[str, float]] = {"wrong_sign": 0.5}
    peers: ClassVar[tuple[str, ...]] = ("AutoTrainer",)
    losses: tuple[str, ...] = (
        *("ce", "bce", "cls", "giou", "dice", "box", "mask", "mse", "l1"),
        *("done", "spatial", "st", "presence"),
    )
    shares: tuple[str, ...] = ("iou", "miou", "map", "f1", "accuracy", "precision", "recall", "share")
    steps: int = 4

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """One symptom per stream."""
        for name, stream in signals.losses(("supervised", "consistency", "adversarial")):
            known = name.rpartition("loss_")[2] in self.losses
            last = stream.last(self.steps)
            if known and len(last) == self.steps and max(last) < 0:
                text = f"{name} is negative, which its formula does not allow: a wrong sign"
                yield Symptom("error", text, {name: last[-1]}, (), name)
        for name, stream in signals.under("metric/"):
            word = name.rpartition("/")[2].removeprefix("val_")
            value = stream.latest
            percent = 2 < float(stream.values.max(initial=0.0)) <= 100
            if word in self.shares and value is not None and not -1.0 <= value <= 1 + 1e-6 and not percent:
                causes = {"evaluation": 0.9}
                text = f"{name} lies outside [0, 1]"
                yield Symptom("error", text, {name: value}, (), name, causes)


@dataclass(kw_only=True)
class FirstBadModule(Rule):
    """A replay of the first bad step has named the module whose output was not finite first."""

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "N07"
    depth: ClassVar[int] = 0
    reads: ClassVar[tuple[str, ...]] = (MODULE_BAD,)
    supports: ClassVar[dict[str, float]] = {"overflow": 0.8}
    peers: ClassVar[tuple[str, ...]] = ("LightlyTrain", "TensorBoard Debugger V2", "Lightning")

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """At most one symptom."""
        for name, stream in signals.under(MODULE_BAD):
            text = f"{name} was the first module to give values that are not finite"
            yield Symptom(
                "error", text, {"step": float(stream.latest_step)}, ("trainer.precision=32-true",), name
            )


@dataclass(kw_only=True)
class HiddenSkips(Rule):
    """A growing share of steps does nothing without anybody saying so."""

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "N08"
    depth: ClassVar[int] = 2
    every: ClassVar[int] = 64
    reads: ClassVar[tuple[str, ...]] = (COUNTER + "batches",)
    supports: ClassVar[dict[str, float]] = {"overflow": 0.5, "bad_sample": 0.4}
    share: float = 0.01
    at_least: int = 5

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """At most one symptom."""
        batches = signals.value(COUNTER + "batches") or 0.0
        skipped = signals.value(COUNTER + "skipped") or 0.0
        if skipped >= self.at_least and skipped > self.share * batches:
            evidence = {"skipped": skipped, "batches": batches}
            text = f"{skipped / batches:.1%} of all steps were skipped: their batches are not learnt from"
            yield Symptom("warn", text, evidence, scaled_rate(signals, 0.3))
