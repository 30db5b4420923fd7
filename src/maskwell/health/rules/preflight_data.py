"""Before the first step: what the data looks like.

The streams lie under ``preflight/``: ``size/<split>`` samples; ``empty_share`` samples without target
among the first; ``input_low``, ``input_high``, ``input_span`` where the images lie on the scale that
the declared normalisation maps [0, 1] to; ``shift/<split>`` and ``shift_noise`` population stability
index of pixel values against training, and between two halves of training; ``label/<problem>`` share
of samples that have it; ``class/<split>/<name>`` counts; ``overlap/<split>`` samples of training
found in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from maskwell.health.findings import Action, Severity
from maskwell.health.rules.base import Clock, Rule, Symptom, listed
from maskwell.health.signals import PREFLIGHT, Signals


@dataclass(kw_only=True)
class EmptyData(Rule):
    """The training set is empty, or (nearly) all samples have no target."""

    clock: ClassVar[Clock] = "start"
    code: ClassVar[str] = "P01"
    depth: ClassVar[int] = 0
    reads: ClassVar[tuple[str, ...]] = (PREFLIGHT + "size/", PREFLIGHT + "empty_share")
    supports: ClassVar[dict[str, float]] = {"no_targets": 0.95}
    denies: ClassVar[dict[str, float]] = {"no_targets": 0.5}
    peers: ClassVar[tuple[str, ...]] = ("Ultralytics",)
    share: float = 0.5
    declared: float = 0.0
    action: Action = "stop"

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """An error where there is nothing at all, a warning above ``share`` and 3 times ``declared``.

        Of a set of which only a part was looked at: where few samples show anything, that part may show
        nothing by chance, and the run goes on.
        """
        size = signals.value(PREFLIGHT + "size/train")
        if size == 0:
            yield Symptom("error", "the training set is empty", {"samples": 0.0}, subject="size")
            return
        empty = signals.value(PREFLIGHT + "empty_share")
        if empty is None:
            return
        evidence = {"share_without_target": empty}
        seen = signals.value(PREFLIGHT + "seen/train")
        if empty >= 1.0:
            evidence |= {} if seen is None else {"samples": seen}
            whole = seen is None or size is None or seen >= size
            text = "not one training sample that was looked at has a target; `make data-check` shows why"
            yield Symptom("error" if whole else "warn", text, evidence, ("data.crop=null",), "targets")
        elif empty > max(self.share, 3 * self.declared):
            text = f"{empty:.0%} of the training samples have no target"
            yield Symptom("warn", text, evidence, ("data.crop=null",), "targets", {"no_targets": 0.7})


@dataclass(kw_only=True)
class InputRange(Rule):
    """Images leave the range that their normalisation allows, or fill next to nothing of it.

    Means and deviations of honest data differ too much to be judged (dark microscopy, bright
    documents); the range is bound by the normalisation itself.
    """

    clock: ClassVar[Clock] = "start"
    code: ClassVar[str] = "P02"
    depth: ClassVar[int] = 0
    reads: ClassVar[tuple[str, ...]] = (PREFLIGHT + "input_",)
    supports: ClassVar[dict[str, float]] = {"input_scale": 0.9}
    denies: ClassVar[dict[str, float]] = {"input_scale": 0.6}
    peers: ClassVar[tuple[str, ...]] = ("SageMaker Debugger", "UMLAUT", "TheDeepChecker", "DeepDiagnosis")
    beyond: float = 0.25
    bytes_from: float = 20.0
    span: float = 0.02

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """Values are in units of the normalised [0, 1]; foreign inputs are judged by their size alone."""
        low, high = signals.value(PREFLIGHT + "input_low"), signals.value(PREFLIGHT + "input_high")
        evidence = {"lowest": low or 0.0, "highest": high or 0.0}
        if low is not None and high is not None:
            if high > self.bytes_from:
                yield Symptom("error", "images come as bytes (0 to 255), not as 0 to 1", evidence)
            elif low < -self.beyond or high > 1 + self.beyond:
                text = "images leave the range of their normalisation: normalised twice, or by another one"
                yield Symptom("warn", text, evidence)
            elif high - low < self.span:
                text = "images are nearly constant: divided by 255 twice, or empty"
                yield Symptom("warn", text, evidence)
        largest = signals.value(PREFLIGHT + "input_largest")
        if low is None and largest is not None and largest > self.bytes_from:
            text = "inputs are large numbers, as of bytes that nobody normalised"
            yield Symptom("warn", text, {"largest": largest}, subject="foreign", causes={"input_scale": 0.6})


@dataclass(kw_only=True)
class SplitShift(Rule):
    """Pixel values of another split, or of the discriminator's predicted pairs, differ from training."""

    clock: ClassVar[Clock] = "start"
    code: ClassVar[str] = "P03"
    depth: ClassVar[int] = 0
    reads: ClassVar[tuple[str, ...]] = (PREFLIGHT + "shift/",)
    supports: ClassVar[dict[str, float]] = {"split_mismatch": 0.85}
    denies: ClassVar[dict[str, float]] = {"split_mismatch": 0.4}
    psi: float = 0.25
    times_noise: float = 4.0

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """One symptom per split; two halves of training say what difference means nothing."""
        noise = signals.value(PREFLIGHT + "shift_noise") or 0.0
        for split, stream in signals.under(PREFLIGHT + "shift/"):
            index = stream.last(1)[0]
            if index > max(self.psi, self.times_noise * noise):
                yield Symptom(
                    "warn",
                    f"images of {split} have other pixel values than those of training",
                    {"stability_index": index, "between_halves_of_training": noise},
                    subject=split,
                )


@dataclass(kw_only=True)
class LabelValidity(Rule):
    """Labels that cannot be: class numbers out of range, all ignored, boxes inside out or outside, twice."""

    clock: ClassVar[Clock] = "start"
    code: ClassVar[str] = "P04"
    depth: ClassVar[int] = 0
    reads: ClassVar[tuple[str, ...]] = (PREFLIGHT + "label/",)
    supports: ClassVar[dict[str, float]] = {"label_error": 0.85}
    denies: ClassVar[dict[str, float]] = {"label_error": 0.3, "box_format": 0.4}
    peers: ClassVar[tuple[str, ...]] = ("Ultralytics",)
    tolerated: float = 0.01

    TEXTS: ClassVar[dict[str, tuple[str, dict[str, float]]]] = {
        "class_out_of_range": ("have a class number that does not exist", {"label_error": 0.95}),
        "all_ignored": ("are ignored as a whole", {"no_targets": 0.8, "label_error": 0.4}),
        "box_inside_out": ("have boxes whose corners are swapped (cxcywh for xyxy?)", {"box_format": 0.9}),
        "box_outside": ("have boxes outside [0, 1] (pixels for shares?)", {"box_format": 0.95}),
        "point_outside": ("have points outside the image", {"box_format": 0.6, "label_error": 0.6}),
        "duplicate_box": ("have the same box twice", {"label_error": 0.5}),
    }

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """Wrong class numbers always, the rest above the share ``tolerated``."""
        for problem, stream in signals.under(PREFLIGHT + "label/"):
            share = stream.last(1)[0]
            strict = problem == "class_out_of_range"
            if share > (0.0 if strict else self.tolerated):
                text, causes = self.TEXTS[problem]
                mild = problem in ("duplicate_box", "all_ignored") and share < 1
                severity: Severity = "warn" if mild else "error"
                evidence = {"share": share}
                yield Symptom(severity, f"{share:.0%} of the samples {text}", evidence, (), problem, causes)


@dataclass(kw_only=True)
class ClassImbalance(Rule):
    """Classes far rarer than others are told; a class of validation that training never shows is an error."""

    clock: ClassVar[Clock] = "start"
    code: ClassVar[str] = "P05"
    depth: ClassVar[int] = 0
    reads: ClassVar[tuple[str, ...]] = (PREFLIGHT + "class/train/",)
    supports: ClassVar[dict[str, float]] = {"imbalance": 0.7}
    denies: ClassVar[dict[str, float]] = {"imbalance": 0.3}
    peers: ClassVar[tuple[str, ...]] = ("SageMaker Debugger",)
    ratio: float = 10.0
    chance: float = 1e-3

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """At most two symptoms."""
        train = {name: s.last(1)[0] for name, s in signals.under(PREFLIGHT + "class/train/")}
        val = {name: s.last(1)[0] for name, s in signals.under(PREFLIGHT + "class/val/")}
        absent = [name for name, count in val.items() if count and not train.get(name, 0.0)]
        absent = [name for name in absent if self._missed(signals, name) * len(val) < self.chance]
        if train and absent:
            evidence = {f"in_validation_{name}": val[name] for name in absent[:3]}
            text = f"training shows no {listed(absent)}, which validation asks for"
            yield Symptom("error", text, evidence, (), "absent", {"imbalance": 0.8, "split_mismatch": 0.6})
        present = {name: count for name, count in train.items() if count}
        if present and max(present.values()) > self.ratio * min(present.values()):
            rare = min(present, key=present.__getitem__)
            common = max(present, key=present.__getitem__)
            evidence = {rare: present[rare], common: present[common]}
            yield Symptom("info", f"{rare} is far rarer than {common}", evidence, (), "ratio")

    @staticmethod
    def _missed(signals: Signals, name: str) -> float:
        """Chance that training samples that were looked at show none of a class as common as in val."""
        seen, size = signals.value(PREFLIGHT + "seen/train"), signals.value(PREFLIGHT + "size/train")
        if seen is None or size is None or seen >= size:
            return 0.0
        shown = signals.value(f"{PREFLIGHT}shown/val/{name}") or 0.0
        looked_at = signals.value(PREFLIGHT + "seen/val") or 1.0
        return float((1 - min(1.0, shown / looked_at)) ** seen)


@dataclass(kw_only=True)
class Leakage(Rule):
    """The same samples in training and in an evaluated split."""

    clock: ClassVar[Clock] = "start"
    code: ClassVar[str] = "P06"
    depth: ClassVar[int] = 0
    reads: ClassVar[tuple[str, ...]] = (PREFLIGHT + "overlap/",)
    supports: ClassVar[dict[str, float]] = {"leakage": 0.97}
    denies: ClassVar[dict[str, float]] = {"leakage": 0.8}
    peers: ClassVar[tuple[str, ...]] = ("UMLAUT",)

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """One symptom per split."""
        for split, stream in signals.under(PREFLIGHT + "overlap/"):
            if (count := stream.last(1)[0]) > 0:
                text = f"{count:.0f} images of {split} are training images too"
                yield Symptom("error", text, {"same_images": count}, ("data.val_split=0.2",), split)
