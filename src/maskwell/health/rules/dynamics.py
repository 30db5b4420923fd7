"""The course of the losses over steps: outliers, jumps, trends, cycles."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from maskwell.health import statistics
from maskwell.health.findings import Action, Severity
from maskwell.health.rules.base import CHANGES, GUIDED, Clock, Rule, Symptom, scaled_rate
from maskwell.health.signals import LOSS, LR, METRIC, STEPS_PER_EPOCH, UPDATE, Signals
from maskwell.health.statistics import median


def _names(symptom_of: str, total: bool) -> str:
    return "the loss" if total else symptom_of


@dataclass(kw_only=True)
class BatchOutlier(Rule):
    """One batch whose loss is far above those around it. Told, not warned of: a batch may be hard."""

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "L01"
    reads: ClassVar[tuple[str, ...]] = (LOSS,)
    explained_by: ClassVar[tuple[str, ...]] = CHANGES
    settle: ClassVar[int] = 8
    supports: ClassVar[dict[str, float]] = {"bad_batch": 0.6}
    peers: ClassVar[tuple[str, ...]] = ("Lightning", "OLMo", "Megatron", "PaLM")
    z: float = 12.0
    ratio: float = 20.0
    history: int = 256
    newest: int = 32

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """The newest outlier of the total loss among the last steps."""
        stream = signals.get(LOSS)
        values = signals.window(stream, self.history)
        if len(values) < self.history // 2:
            return
        if float(values[-self.newest :].max()) <= self.ratio * max(median(values), 0.0):
            return
        logs = statistics.log_values(values)
        middle, sigma = median(logs), max(statistics.robust_sigma(logs), 0.05)
        limit = middle + max(self.z * sigma, math.log(self.ratio))
        far = np.flatnonzero(logs[-self.newest :] > limit)
        # several in a row are a level, which another rule judges
        if len(far) == 0 or len(far) > 3:
            return
        at = len(values) - min(self.newest, len(values)) + int(far[-1])
        step = int(stream.steps[len(stream) - len(values) + at])
        evidence = {"loss": float(values[at]), "median": math.exp(middle), "step": float(step)}
        yield Symptom("info", "a single batch costs far more than those around it", evidence)


@dataclass(kw_only=True)
class LevelShift(Rule):
    """The loss has moved to a level far above that of the steps before (median of 32 against 256)."""

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "L02"
    every: ClassVar[int] = 8
    reads: ClassVar[tuple[str, ...]] = (LOSS,)
    explained_by: ClassVar[tuple[str, ...]] = CHANGES
    supports: ClassVar[dict[str, float]] = {"shift": 0.7, "divergence": 0.4, "lr_high": 0.4}
    denies: ClassVar[dict[str, float]] = {"shift": 0.6}
    peers: ClassVar[tuple[str, ...]] = ("KillLossSpike",)
    recent: int = 32
    baseline: int = 256
    ratio: float = 1.6
    errors: float = 6.0
    mean_errors: float = 5.0
    back_within: int = 200
    action: Action = "recover"

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """The total, and supervised parts that jump alone; an error where it does not come back."""
        for name, stream in signals.losses(("supervised",)):
            values = signals.window(stream, self.baseline + self.back_within)
            if len(values) < self.baseline + self.recent or values.min() < 0:
                continue
            found = self._shift(signals, values[-self.baseline - self.recent :])
            lasting = found is None and self._lasting(values)
            if lasting:
                found = self._shift(signals, values[: self.baseline + self.recent])
            if found is None:
                continue
            yield Symptom(
                "error" if lasting else "warn",
                f"{_names(name, name == LOSS)} jumped to {found.ratio:.1f} times its level"
                + (" and stays there" if lasting else ""),
                {"ratio": found.ratio, "standard_errors": found.errors},
                (*scaled_rate(signals, 0.3), "callbacks.grad_clip.max_norm=0.1"),
                subject="" if name == LOSS else name,
            )

    def _shift(self, signals: Signals, values: statistics.Values) -> statistics.Shift | None:
        """The change of level at the end of ``values``, where it is one."""
        if not self._above(values[-self.recent :], values[: -self.recent]):
            return None
        shift = statistics.level_shift(statistics.log_values(values), self.recent, self.baseline)
        if shift is None or shift.ratio <= self.ratio or shift.errors <= self.errors:
            return None
        # where batches are of two kinds (with objects, without), the median jumps from one to the other
        if shift.mean_errors <= self.mean_errors:
            return None
        planned = _planned_rise(signals, self.recent, self.baseline)
        return shift if shift.ratio > self.ratio * planned else None

    def _above(self, now: statistics.Values, before: statistics.Values) -> bool:
        """By the medians alone: what the rest of the test need not be asked for."""
        return median(now) > self.ratio * median(before)

    def _lasting(self, values: statistics.Values) -> bool:
        """Whether all of the last ``back_within`` steps lie above the level of those before them."""
        before, after = values[: self.baseline], values[self.baseline :]
        if len(after) < self.back_within or not self._above(after[-self.recent :], before):
            return False
        blocks = statistics.block_medians(after, self.recent)
        return bool((blocks > self.ratio * median(before)).all())


@dataclass(kw_only=True)
class Divergence(Rule):
    """The loss rises steadily: a significant trend upwards over 12 blocks, far above the best of them.

    It has to hold at the last ``checks`` ends of a block: a cycle is over by then. A learning rate that
    rises by plan explains a loss that rises with it.
    """

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "L03"
    every: ClassVar[int] = 32
    reads: ClassVar[tuple[str, ...]] = (LOSS,)
    explained_by: ClassVar[tuple[str, ...]] = CHANGES
    supports: ClassVar[dict[str, float]] = {"divergence": 0.7, "lr_high": 0.6}
    denies: ClassVar[dict[str, float]] = {"divergence": 0.6, "lr_high": 0.3}
    peers: ClassVar[tuple[str, ...]] = ("TheDeepChecker", "Lightning")
    block: int = 32
    blocks: int = 12
    z: float = 2.58
    rise: float = 0.25
    checks: int = 3
    action: Action = "recover"

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """The total loss alone: its parts may trade against each other."""
        stream = signals.get(LOSS)
        count = self.blocks + self.checks - 1
        values = signals.window(stream, self.block * count)
        if stream.role not in GUIDED or len(values) < self.block * count or values.min() < 0:
            return
        planned = math.log(_planned_rise(signals, len(values) // 2, len(values) - len(values) // 2))
        medians = statistics.block_medians(statistics.log_values(values), self.block, count)
        needed = math.log1p(self.rise) + planned
        for last in range(self.blocks, count + 1):
            part = medians[last - self.blocks : last]
            found = statistics.trend(part)
            high = float(part[-3:].min()) - float(part.min())
            if found.z <= self.z or found.change <= needed or high <= needed:
                return
        evidence = {"z": found.z, "rise": math.expm1(min(found.change, 50.0)), "blocks": float(self.blocks)}
        text = f"the loss has been rising for {self.block * self.blocks} steps: the training diverges"
        yield Symptom("error", text, evidence, scaled_rate(signals, 0.3))


@dataclass(kw_only=True)
class LossPlateau(Rule):
    """The loss does not change any more, while the learning rate still stands where it was."""

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "L04"
    depth: ClassVar[int] = 2
    every: ClassVar[int] = 128
    reads: ClassVar[tuple[str, ...]] = (LOSS,)
    explained_by: ClassVar[tuple[str, ...]] = CHANGES
    supports: ClassVar[dict[str, float]] = {"plateau": 0.7, "lr_low": 0.3}
    peers: ClassVar[tuple[str, ...]] = ("SageMaker Debugger", "TheDeepChecker", "AutoTrainer")
    steps: int = 512
    change: float = 0.02
    z: float = 1.64

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """Information: a floor looks the same."""
        stream = signals.get(LOSS)
        epoch = int(signals.value(STEPS_PER_EPOCH) or 0)
        values = signals.window(stream, min(max(self.steps, epoch), stream.capacity))
        if len(values) < max(self.steps, min(epoch, stream.capacity)) or _rate_fell(signals, len(values)):
            return
        medians = statistics.block_medians(statistics.log_values(values), 32, len(values) // 32)
        found = statistics.trend(medians)
        if abs(found.change) < self.change and abs(found.z) < self.z:
            evidence = {"relative_change": found.change, "steps": float(len(values))}
            yield Symptom("info", f"the loss lies on a plateau since {len(values)} steps", evidence)


def _planned_rise(signals: Signals, recent: int, before: int) -> float:
    """Factor by which any optimiser's rate rose gradually, from the steps before to the recent ones.

    A loss that rises no more than its rate, in a cycle, does as planned; a jump of the rate is no plan.
    """
    factor = 1.0
    for _, stream in signals.under(LR):
        rates = stream.tail(stream.capacity, signals.step - recent - before)
        rates = rates[rates > 0]
        if len(rates) < 8 or (rates[1:] > 1.5 * rates[:-1]).any():
            continue
        split = max(1, len(rates) * before // (recent + before))
        factor = max(factor, float(rates[split:].max(initial=0.0) / np.median(rates[:split])))
    return factor


def _rate_fell(signals: Signals, steps: int) -> bool:
    """Whether any optimiser's rate became less than 0.8 of what it was within the last steps."""
    for _, stream in signals.under(LR):
        rates = stream.tail(stream.capacity, signals.step - steps)
        if len(rates) > 1 and rates[-1] < 0.8 * rates.max():
            return True
    return False


@dataclass(kw_only=True)
class NotLearning(Rule):
    """In some hundred steps the loss was at no time lower than at the start (best of blocks of 50).

    A warning where it is higher, or where steps are tiny or huge; else information: training that goes on
    from good weights, and slow beginnings, look the same.
    """

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "L05"
    depth: ClassVar[int] = 2
    every: ClassVar[int] = 32
    reads: ClassVar[tuple[str, ...]] = (LOSS,)
    # behind a declared change, the first steps are nothing to compare with
    explained_by: ClassVar[tuple[str, ...]] = CHANGES
    settle: ClassVar[int] = 10**9
    supports: ClassVar[dict[str, float]] = {
        "lr_low": 0.5,
        "not_optimised": 0.4,
        "lr_high": 0.3,
        "label_error": 0.2,
    }
    denies: ClassVar[dict[str, float]] = {"not_optimised": 0.4, "lr_low": 0.4}
    peers: ClassVar[tuple[str, ...]] = ("AutoTrainer", "DeepDiagnosis")
    after: int = 300
    until: int = 600
    first: int = 50
    p: float = 0.05
    margin: float = 0.95
    tiny: float = 1e-6
    huge: float = 0.03

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """At most one symptom, while the first steps are still what to compare with."""
        stream = signals.get(LOSS)
        if not self.after <= stream.seen <= self.until or stream.role not in GUIDED:
            return
        begin, later = np.asarray(stream.first[: self.first]), stream.tail(stream.seen - self.first)
        if (signals.learning_rate or 1.0) == 0:
            return
        blocks = later[-(len(later) // self.first) * self.first :].reshape(-1, self.first)
        best = blocks[int(np.argmin(np.median(blocks, axis=1)))]
        p = min(1.0, len(blocks) * statistics.lower_later(begin, best))
        before, after = median(begin), median(best)
        lower_mean = float(blocks.mean(axis=1).min()) < self.margin * float(begin.mean())
        if p > self.p and after > self.margin * before and not lower_mean:
            rate = signals.learning_rate
            after = median(blocks[-1])
            high = after > 1.2 * before
            changes = [s.latest for _, s in signals.under(UPDATE) if s.latest is not None]
            tiny = bool(changes) and max(changes) < self.tiny
            high = high or (bool(changes) and median(changes) > self.huge)
            causes = {"lr_high": 0.6, "divergence": 0.3} if high else None
            text = f"after {stream.seen} steps the loss is no lower than at the start"
            evidence = {"first": before, "now": after, "p": p, **({"learning_rate": rate} if rate else {})}
            remedies = scaled_rate(signals, 0.3 if high else 10)
            severity: Severity = "warn" if high or tiny else "info"
            yield Symptom(severity, text, evidence, (*remedies, "debug=overfit"), "", causes)


@dataclass(kw_only=True)
class Oscillation(Rule):
    """The loss swings up and down from block to block, far more than its noise."""

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "L06"
    every: ClassVar[int] = 64
    reads: ClassVar[tuple[str, ...]] = (LOSS,)
    explained_by: ClassVar[tuple[str, ...]] = CHANGES
    supports: ClassVar[dict[str, float]] = {"lr_high": 0.7}
    denies: ClassVar[dict[str, float]] = {"lr_high": 0.2}
    peers: ClassVar[tuple[str, ...]] = ("AutoTrainer", "TheDeepChecker", "DeepDiagnosis")
    blocks: int = 16
    block: int = 16
    turns: float = 0.8
    amplitude: float = 0.3
    alternation: float = -0.45
    times_noise: float = 4.0

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """At most one symptom."""
        values = signals.window(signals.get(LOSS), self.block * self.blocks)
        if len(values) < self.block * self.blocks:
            return
        logs = statistics.log_values(values).reshape(self.blocks, self.block)
        means = logs.mean(axis=1)
        swing = median(np.abs(np.diff(means)))
        # what means of blocks differ by, if every block had the same level
        noise = float(logs.std(axis=1).mean()) * math.sqrt(2 / self.block)
        turning, alternating = statistics.sign_changes(means), statistics.autocorrelation(np.diff(means))
        strong = swing > max(math.log1p(self.amplitude), self.times_noise * noise)
        if strong and turning > self.turns and alternating < self.alternation:
            evidence = {"swing": math.expm1(swing), "turning": turning, "autocorrelation": alternating}
            yield Symptom("warn", "the loss swings up and down", evidence, scaled_rate(signals, 0.3))


@dataclass(kw_only=True)
class Sawtooth(Rule):
    """The loss depends on the place in the epoch: the data is not shuffled, or the iterator restarts."""

    clock: ClassVar[Clock] = "epoch"
    code: ClassVar[str] = "L07"
    reads: ClassVar[tuple[str, ...]] = (STEPS_PER_EPOCH,)
    explained_by: ClassVar[tuple[str, ...]] = CHANGES
    supports: ClassVar[dict[str, float]] = {"not_shuffled": 0.9}
    denies: ClassVar[dict[str, float]] = {"not_shuffled": 0.5}
    eta: float = 0.2
    p: float = 1e-4
    epochs: int = 3
    bins: int = 8

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """At most one symptom, over the last ``epochs`` whole epochs without their course."""
        length = int(signals.value(STEPS_PER_EPOCH) or 0)
        stream = signals.get(LOSS)
        count = min(stream.capacity // length, 8) * length if length else 0
        values = signals.window(stream, count)
        whole = len(values) // length if length else 0
        if length < self.bins or whole < self.epochs:
            return
        kept = statistics.log_values(values[-whole * length :]).reshape(whole, length)
        # without the level and the fall of each epoch: a straight fall puts no pattern into the rest
        place = np.arange(length) - (length - 1) / 2
        fall = np.median(np.diff(np.median(kept, axis=1))) / length if whole > 1 else 0.0
        rest = (kept - np.median(kept, axis=1, keepdims=True) - fall * place).ravel()
        groups = np.tile(np.arange(length) * self.bins // length, whole)
        eta, p = statistics.explained_by_groups(rest, groups)
        # the same pattern in both halves of the epochs, else it is one event and no cycle
        profile = rest.reshape(whole, length)
        alike = statistics.rank_correlation(profile[: whole // 2].mean(0), profile[whole // 2 :].mean(0))
        if eta > self.eta and p < self.p and alike > 0.4:
            text = "the loss depends on the place in the epoch: the data is not shuffled"
            yield Symptom("warn", text, {"eta_squared": eta, "repeats": alike, "epochs": float(whole)})


@dataclass(kw_only=True)
class Disagreement(Rule):
    """Validation loss and validation metric disagree: as one gets better, the other gets worse."""

    clock: ClassVar[Clock] = "evaluation"
    code: ClassVar[str] = "L10"
    depth: ClassVar[int] = 2
    reads: ClassVar[tuple[str, ...]] = (METRIC + "val/loss",)
    supports: ClassVar[dict[str, float]] = {"evaluation": 0.4, "overfit": 0.3, "wrong_activation": 0.3}
    peers: ClassVar[tuple[str, ...]] = ("TheDeepChecker",)
    evaluations: int = 8
    correlation: float = 0.7
    metrics: tuple[str, ...] = ("val/map", "val/miou", "val/f1", "val/accuracy", "val/cgf1")

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """Information: a classifier that overfits does the same for a while."""
        losses = signals.get(METRIC + "val/loss").tail(16)
        for name in self.metrics:
            values = signals.get(METRIC + name).tail(len(losses))
            if len(values) < self.evaluations or len(values) != len(losses):
                continue
            rho = statistics.rank_correlation(losses, values)
            if rho > self.correlation:
                text = f"{name} improves while the validation loss gets worse, or the other way round"
                yield Symptom("info", text, {"rank_correlation": rho}, (), name)
