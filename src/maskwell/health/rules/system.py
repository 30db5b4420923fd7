"""Memory, time, processes, checkpoints."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from maskwell.health import statistics
from maskwell.health.findings import Action
from maskwell.health.rules.base import Clock, Rule, Symptom
from maskwell.health.signals import COUNTER, LOSS, RESUME, STEPS_PER_EPOCH, SYSTEM, Signals
from maskwell.health.statistics import median


@dataclass(kw_only=True)
class OutOfMemory(Rule):
    """A step ran out of memory; how large a batch would fit is estimated from what was measured."""

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "S01"
    depth: ClassVar[int] = 0
    reads: ClassVar[tuple[str, ...]] = (COUNTER + "batches",)
    supports: ClassVar[dict[str, float]] = {"memory": 0.97}
    denies: ClassVar[dict[str, float]] = {"memory": 0.6}
    peers: ClassVar[tuple[str, ...]] = ("Composer", "Lightning", "Ultralytics")

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """At most one symptom."""
        count = signals.value(SYSTEM + "out_of_memory") or 0.0
        if count:
            peak, size = signals.value(SYSTEM + "peak_mib"), signals.value(SYSTEM + "batch_size")
            evidence = {"times": count}
            evidence |= {k: v for k, v in (("peak_mib", peak), ("batch_size", size)) if v is not None}
            half = max(1, int((size or 2) // 2))
            remedies = (
                f"data.batch_size={half} trainer.accumulate_grad_batches=2",
                "trainer.precision=bf16-mixed",
            )
            yield Symptom("error", "a step ran out of memory", evidence, remedies)


@dataclass(kw_only=True)
class MemoryLeak(Rule):
    """Allocated memory grows all the time.

    Judged from the second epoch on (or step ``latest``): until then, data may still be cached.
    """

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "S02"
    depth: ClassVar[int] = 0
    every: ClassVar[int] = 128
    reads: ClassVar[tuple[str, ...]] = (SYSTEM + "allocated_mib",)
    supports: ClassVar[dict[str, float]] = {"leak": 0.9}
    denies: ClassVar[dict[str, float]] = {"leak": 0.6}
    z: float = 4.0
    samples: int = 48
    growth: float = 0.1
    rising: float = 0.9
    latest: int = 2000

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """A straight line upwards over the last samples, not a step; with the time that is left."""
        stream = signals.get(SYSTEM + "allocated_mib")
        first = min(self.latest, int(signals.value(STEPS_PER_EPOCH) or 0))
        values = stream.tail(self.samples, first)
        if len(values) < self.samples:
            return
        found = statistics.trend(values)
        quarters = statistics.block_medians(values, self.samples // 6, 6)
        each = float((np.diff(quarters) > 0.2 * found.change / 6).mean())
        if found.z > self.z and found.change > self.growth * values[0] and each > self.rising:
            steps = max(1, int(stream.steps[-1] - stream.steps[-self.samples]))
            per_step = found.change / steps
            free = signals.value(SYSTEM + "free_mib")
            evidence = {"mib_per_step": per_step, "allocated_mib": float(values[-1])}
            if free is not None:
                evidence["steps_left"] = free / per_step
            text = "allocated memory grows all the time: is a loss with its graph kept in a list?"
            yield Symptom("warn", text, evidence)


@dataclass(kw_only=True)
class Stall(Rule):
    """A step took far longer than its like."""

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "S03"
    depth: ClassVar[int] = 0
    reads: ClassVar[tuple[str, ...]] = (SYSTEM + "step_seconds",)
    supports: ClassVar[dict[str, float]] = {"stall": 0.9}
    denies: ClassVar[dict[str, float]] = {"stall": 0.6}
    peers: ClassVar[tuple[str, ...]] = ("SageMaker Debugger",)
    times: float = 20.0
    seconds: float = 600.0
    newest: int = 16

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """At most one symptom; a watchdog thread writes the stacks while a step hangs."""
        stream = signals.get(SYSTEM + "step_seconds")
        values = stream.tail(256)
        hung = signals.value(SYSTEM + "hung_seconds") or 0.0
        limit = max(self.times * median(values), self.seconds) if len(values) >= 8 else self.seconds
        slowest = max(float(values[-self.newest :].max()) if len(values) else 0.0, hung)
        if slowest > limit:
            evidence = {
                "seconds": slowest,
                "median_seconds": median(values) if len(values) else 0.0,
            }
            yield Symptom("warn", "training stood still: see stacks.txt in the run folder", evidence)


@dataclass(kw_only=True)
class DataBound(Rule):
    """Most of the time goes into waiting for data. Information."""

    clock: ClassVar[Clock] = "epoch"
    code: ClassVar[str] = "S04"
    reads: ClassVar[tuple[str, ...]] = (SYSTEM + "wait_share",)
    supports: ClassVar[dict[str, float]] = {"slow_data": 0.9}
    peers: ClassVar[tuple[str, ...]] = ("SageMaker Debugger",)
    share: float = 0.4
    steps: int = 50

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """At most one symptom."""
        values = signals.get(SYSTEM + "wait_share").tail(256)
        if len(values) >= self.steps and (share := median(values)) > self.share:
            text = f"{share:.0%} of the time goes into waiting for data"
            yield Symptom("info", text, {"wait_share": share}, ("data.num_workers=4",))


@dataclass(kw_only=True)
class ThroughputDrop(Rule):
    """Steps have become lastingly slower. Information."""

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "S05"
    every: ClassVar[int] = 64
    reads: ClassVar[tuple[str, ...]] = (SYSTEM + "step_seconds",)
    supports: ClassVar[dict[str, float]] = {"slow": 0.8}
    recent: int = 64
    baseline: int = 256
    ratio: float = 1.6
    errors: float = 8.0

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """At most one symptom."""
        values = signals.get(SYSTEM + "step_seconds").tail(self.recent + self.baseline)
        if len(values) < self.recent + self.baseline:
            return
        shift = statistics.level_shift(statistics.log_values(values), self.recent, self.baseline)
        if shift is not None and shift.ratio > self.ratio and shift.errors > self.errors:
            yield Symptom(
                "info", f"steps take {shift.ratio:.1f} times as long as before", {"ratio": shift.ratio}
            )


@dataclass(kw_only=True)
class RankDesync(Rule):
    """Processes of a parallel training hold different weights."""

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "S06"
    depth: ClassVar[int] = 0
    reads: ClassVar[tuple[str, ...]] = (SYSTEM + "rank_spread",)
    supports: ClassVar[dict[str, float]] = {"desync": 0.97}
    denies: ClassVar[dict[str, float]] = {"desync": 0.7}
    peers: ClassVar[tuple[str, ...]] = ("TrainCheck",)
    tolerance: float = 1e-6
    action: Action = "stop"

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """At most one symptom; the spread is that of a checksum, relative."""
        spread = signals.value(SYSTEM + "rank_spread")
        if spread is not None and not spread <= self.tolerance:
            text = "the processes hold different weights: gradients are not shared, or one was stepped alone"
            yield Symptom("error", text, {"relative_spread": spread})


@dataclass(kw_only=True)
class RerunDiffers(Rule):
    """The replay of a bad step was finite: the fault is the machine's or chance, not that of the data."""

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "S07"
    depth: ClassVar[int] = 0
    reads: ClassVar[tuple[str, ...]] = (SYSTEM + "rerun_finite",)
    supports: ClassVar[dict[str, float]] = {"hardware": 0.8}
    peers: ClassVar[tuple[str, ...]] = ("Megatron",)

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """Information either way."""
        finite = signals.value(SYSTEM + "rerun_finite")
        if finite:
            text = "the bad step is finite when it is repeated: the machine, or chance, and not the data"
            yield Symptom("info", text, {"replays": finite})


@dataclass(kw_only=True)
class CheckpointHealth(Rule):
    """A checkpoint cannot be read or holds NaN, none is worth going back to, or the disk is nearly full."""

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "S08"
    depth: ClassVar[int] = 0
    reads: ClassVar[tuple[str, ...]] = (SYSTEM + "checkpoint_",)
    supports: ClassVar[dict[str, float]] = {"checkpoint": 0.9}
    denies: ClassVar[dict[str, float]] = {"checkpoint": 0.4}
    peers: ClassVar[tuple[str, ...]] = ("Ultralytics",)

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """At most two symptoms."""
        if signals.value(SYSTEM + "checkpoint_bad"):
            text = (
                "a checkpoint would hold values that are not finite: the last healthy one is kept beside it"
            )
            evidence = {"checkpoints": signals.value(SYSTEM + "checkpoint_bad") or 0.0}
            causes = {"bad_weights": 0.8, "checkpoint": 0.4}
            yield Symptom("error", text, evidence, (), "bad", causes)
        fits = signals.value(SYSTEM + "checkpoint_fits")
        if fits is not None and fits < 2:
            text = "the disk has no room for two more checkpoints"
            yield Symptom(
                "warn", text, {"fit": fits}, ("callbacks.checkpoint.every_iterations=null",), "disk"
            )


@dataclass(kw_only=True)
class ResumeContinuity(Rule):
    """After a resume the loss, the rate or the optimiser's state are not what they were."""

    clock: ClassVar[Clock] = "step"
    code: ClassVar[str] = "S09"
    depth: ClassVar[int] = 0
    reads: ClassVar[tuple[str, ...]] = (RESUME,)
    supports: ClassVar[dict[str, float]] = {"optimizer_state": 0.8}
    denies: ClassVar[dict[str, float]] = {"optimizer_state": 0.6}
    z: float = 6.0
    steps: int = 20
    ratio: float = 1.3
    rate_factor: float = 2.0

    def check(self, signals: Signals) -> Iterator[Symptom]:
        """Once the first ``steps`` after the resume are there."""
        for name, stream in signals.under(RESUME + "lost/"):
            text = f"the resumed run has no {name.replace('_', ' ')} any more"
            yield Symptom("error", text, {"step": float(stream.latest_step)}, (), f"lost_{name}")
        rate = signals.value(RESUME + "lr")
        if rate is not None and not 1 / self.rate_factor <= rate <= self.rate_factor:
            causes = {"schedule": 0.6, "optimizer_state": 0.6}
            text = "the learning rate after the resume is not that before it"
            yield Symptom("warn", text, {"new_over_old": rate}, (), "lr", causes)
        at = signals.get("event/resume").latest_step
        stream = signals.get(LOSS)
        if at < 0:
            return
        after = stream.tail(stream.capacity, at)[: self.steps]
        before = stream.values[: len(stream) - len(stream.tail(stream.capacity, at))][-256:]
        if len(after) < self.steps or len(before) < 2 * self.steps:
            return
        logs = statistics.log_values(np.concatenate([before, after]))
        old, new = logs[: len(before)], logs[len(before) :]
        sigma = max(statistics.robust_sigma(old[-64:]), 0.02)
        near = old[-self.steps :] if len(old) >= self.steps else old
        step = median(new) - median(near)
        z = step / (statistics.MEDIAN_ERROR * sigma * math.sqrt(2 / self.steps))
        if z > self.z and step > math.log(self.ratio):
            evidence = {"loss_after_over_before": math.exp(step), "standard_errors": z}
            text = "the loss jumped at the resume: the state of the optimiser, or of the data, is another"
            yield Symptom("warn", text, evidence, (), "loss")
