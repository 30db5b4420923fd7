"""The rules of other monitors, from their documented thresholds, on the same recorded runs.

Each reads what its original reads (loss, gradient norms, metrics, rates) and nothing else; what an
original reads that no run records (activations, layer outputs) is left out, which its docstring says.
Where an original's text names a cause, its alarm does. Thresholds as in the sources of 2026.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from benchmarks.health.score import APART, Alarm
from benchmarks.health.tape import Tape
from maskwell.health import signals as names

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Log:
    """A run as other monitors see it; arrays of equal length belong to ``steps``.

    ``losses`` NaN where they were not finite; ``norms`` of the gradients, NaN likewise, with their own
    ``norm_steps``; ``val_loss`` and ``metric`` at ``val_steps``; ``train_loss`` the mean since the
    evaluation before; ``accuracy``: whether ``metric`` is a share of which more is better.
    """

    steps: npt.NDArray[np.int64]
    losses: Floats
    norm_steps: npt.NDArray[np.int64]
    norms: Floats
    val_steps: npt.NDArray[np.int64]
    val_loss: Floats
    train_loss: Floats
    metric: Floats
    rate: float | None
    largest_input: float | None
    updates: Sequence[tuple[int, float]]
    unchanged: Sequence[tuple[int, float]]

    @classmethod
    def of(cls, tape: Tape, monitor: str) -> Log:
        """What is on a tape; ``monitor`` names the metric."""
        steps, losses = _with_gaps(tape, names.LOSS, names.NONFINITE + names.LOSS)
        grads = tape.under(names.GRAD)
        norm_steps, norms = _with_gaps(tape, grads[0], names.BAD_GRADIENT) if grads else _nothing()
        val_steps, val_loss = _with_gaps(tape, names.METRIC + "val/loss", names.METRIC_BAD + "val/loss")
        metric = dict(_pairs(tape, names.METRIC + monitor))
        edges = np.searchsorted(steps, np.concatenate([[0], val_steps]), side="right")
        train = [
            float(np.nanmean(losses[a:b])) if b > a and np.isfinite(losses[a:b]).any() else math.nan
            for a, b in pairwise(edges)
        ]
        return cls(
            steps,
            losses,
            norm_steps,
            norms,
            val_steps,
            val_loss,
            np.asarray(train),
            np.array([metric.get(step, math.nan) for step in val_steps.tolist()], float),
            _first(tape, names.RATE),
            _first(tape, names.PREFLIGHT + "input_largest"),
            [pair for name in tape.under(names.UPDATE) for pair in _pairs(tape, name)],
            [pair for name in tape.under(names.UNCHANGED) for pair in _pairs(tape, name)],
        )


def _with_gaps(tape: Tape, name: str, bad: str) -> tuple[npt.NDArray[np.int64], Floats]:
    """A stream together with the steps in which it was not finite, as NaN."""
    steps, values = tape.series(name)
    wrong = np.concatenate([tape.series(n)[0] for n in tape.under(bad)] or [np.empty(0, np.int64)])
    wrong = np.setdiff1d(wrong, steps)
    every = np.concatenate([steps, wrong])
    order = np.argsort(every, kind="stable")
    return every[order], np.concatenate([values, np.full(len(wrong), math.nan)])[order]


def _nothing() -> tuple[npt.NDArray[np.int64], Floats]:
    return np.empty(0, np.int64), np.empty(0)


def _first(tape: Tape, name: str) -> float | None:
    values = tape.series(name)[1]
    return float(values[0]) if len(values) else None


def _pairs(tape: Tape, name: str) -> list[tuple[int, float]]:
    steps, values = tape.series(name)
    return list(zip(steps.tolist(), values.tolist(), strict=True))


def lightning_spike(log: Log) -> Iterator[Alarm]:
    """Lightning ``SpikeDetection``: 2 times the mean of the last 10 away from it, or not finite."""
    window: deque[float] = deque(maxlen=10)
    for step, loss in zip(log.steps.tolist(), log.losses.tolist(), strict=True):
        if not math.isfinite(loss):
            yield Alarm(step, ("overflow",))
            continue
        if len(window) > 1 and loss > window[-1]:  # one that is better than the last is no spike
            mean = sum(window) / len(window)
            if abs(loss - mean) >= abs(2.0 * mean):
                yield Alarm(step, ("bad_batch",))
        window.append(loss)


def lightning_early_stopping(log: Log) -> Iterator[Alarm]:
    """Lightning ``EarlyStopping`` on the validation loss: patience 3, checks that it is finite."""
    best, waited = math.inf, 0
    for step, value in zip(log.val_steps.tolist(), log.val_loss.tolist(), strict=True):
        if not math.isfinite(value):
            yield Alarm(step, ("overflow",))
            return
        best, waited = (value, 0) if value < best else (best, waited + 1)
        if waited >= 3:
            yield Alarm(step, ("overfit",))
            return


def kill_loss_spike(log: Log) -> Iterator[Alarm]:
    """llm-foundry ``KillLossSpike``, its window of 100 and cap of 10 set by hand: 2 times the window's mean
    for 5 steps; or, behind the first 200, half of it above the cap.
    """
    window: deque[float] = deque(maxlen=100)
    high = 0
    for count, (step, loss) in enumerate(zip(log.steps.tolist(), log.losses.tolist(), strict=True)):
        if len(window) == 100:
            mean = sum(window) / 100
            high = high + 1 if loss >= 2 * mean else 0
            if high >= 5 or (count >= 200 and sum(value > 10 for value in window) >= 50):
                yield Alarm(step, ("lr_high",))
        if math.isfinite(loss):
            window.append(loss)


def olmo(log: Log) -> Iterator[Alarm]:
    """OLMo-core ``SkipStepOptimizer``: loss or gradient norm 6 deviations above the mean of the last 128."""
    for steps, values in ((log.steps, log.losses), (log.norm_steps, log.norms)):
        window: deque[float] = deque(maxlen=128)
        for step, value in zip(steps.tolist(), values.tolist(), strict=True):
            if len(window) >= 64:
                deviation = float(np.std(window, ddof=1))
                if not value - float(np.mean(window)) <= 6 * deviation:
                    yield Alarm(step, ("bad_batch",))
            if math.isfinite(value):
                window.append(value)


def megatron(log: Log) -> Iterator[Alarm]:
    """Megatron's rerun state machine: not finite, or 10 times the largest loss or norm so far."""
    for steps, values in ((log.steps, log.losses), (log.norm_steps, log.norms)):
        largest = 0.0
        for step, value in zip(steps.tolist(), values.tolist(), strict=True):
            if not math.isfinite(value):
                yield Alarm(step, ("overflow",))
                continue
            if largest and value >= 10 * largest:
                yield Alarm(step, ("hardware",))
            largest = max(largest, value)


def zclip(log: Log) -> Iterator[Alarm]:
    """The statistic of ZClip: gradient norm 2.5 deviations above its moving average (0.97, 25 to warm up)."""
    finite = np.isfinite(log.norms)
    steps, norms = log.norm_steps[finite], log.norms[finite]
    if len(norms) <= 25:
        return
    mean, variance = float(norms[:25].mean()), float(norms[:25].var())
    for step, norm in zip(steps[25:].tolist(), norms[25:].tolist(), strict=True):
        z = (norm - mean) / (math.sqrt(variance) + 1e-6)
        clipped = mean + 2.5 * 2.5 / z * math.sqrt(variance) if z > 2.5 else norm
        if z > 2.5:
            yield Alarm(step, ("bad_batch",))
        mean = 0.97 * mean + 0.03 * clipped
        variance = 0.97 * variance + 0.03 * (clipped - mean) ** 2


def sagemaker(log: Log) -> Iterator[Alarm]:
    """SageMaker Debugger: ExplodingTensor, LossNotDecreasing, Overfit, Overtraining, UnchangedTensor and
    WeightUpdateRatio. Left out: rules about activations, trees and confusion matrices.
    """
    for steps, values in ((log.steps, log.losses), (log.norm_steps, log.norms)):
        for step in steps[~np.isfinite(values)].tolist():
            yield Alarm(step, ("overflow",))
    for i in range(10, len(log.losses), 10):
        if not log.losses[i] < log.losses[i - 10]:
            yield Alarm(int(log.steps[i]), ("plateau",))
    for step, val, train in zip(log.val_steps.tolist(), log.val_loss, log.train_loss, strict=False):
        if (val - train) / abs(train) > 0.1:
            yield Alarm(step, ("overfit",))
    yield from _overtraining(log)
    for step, same in log.unchanged:
        if same >= 3:
            yield Alarm(step, ("not_optimised",))
    for step, ratio in log.updates:
        if ratio > 10:
            yield Alarm(step, ("lr_high",))
        elif ratio < 1e-8:
            yield Alarm(step, ("lr_low",))


def _overtraining(log: Log) -> Iterator[Alarm]:
    """Neither loss improved by 0.1 of itself: training for 5 evaluations, validation for 10."""
    for i in range(10, len(log.val_loss)):
        train = np.nanmin(log.train_loss[i - 4 : i + 1]) > 0.9 * np.nanmin(log.train_loss[: i - 4])
        val = np.nanmin(log.val_loss[i - 9 : i + 1]) > 0.9 * np.nanmin(log.val_loss[: max(1, i - 9)])
        if train and val:
            yield Alarm(int(log.val_steps[i]), ("overfit",))


def autotrainer(log: Log) -> Iterator[Alarm]:
    """AutoTrainer, checked at every third evaluation: exploding (a loss of 1000 or NaN), oscillation (the
    metric swings by 0.03 in a fifth of them), slow convergence (it gains less than 0.01 and is below
    0.7). Left out: dying ReLU and vanishing gradients, which need single layers.
    """
    for step, loss in zip(log.steps.tolist(), log.losses.tolist(), strict=True):
        if not loss < 1000:
            yield Alarm(step, ("lr_high",))
    metric = log.metric[np.isfinite(log.metric)]
    for i in range(2, len(metric), 3):
        step, seen = int(log.val_steps[i]), metric[: i + 1]
        drops = np.diff(seen)
        if (drops <= -0.03).mean() >= 0.2:
            yield Alarm(step, ("lr_high",))
        if seen[-1] - seen[-3] < 0.01 and seen[-1] < 0.7:
            yield Alarm(step, ("lr_low",))


def umlaut(log: Log) -> Iterator[Alarm]:
    """UMLAUT: inputs beyond [-1, 1], NaN, a rate beyond [1e-7, 0.01], validation above 0.95 at once, the
    validation loss rising while training falls. Left out: shapes of layers and missing activations.
    """
    if log.largest_input is not None and log.largest_input > 1:
        yield Alarm(0, ("input_scale",))
    if log.rate is not None and log.rate > 0.01:
        yield Alarm(0, ("lr_high",))
    if log.rate is not None and log.rate < 1e-7:
        yield Alarm(0, ("lr_low",))
    for step, loss in zip(log.steps.tolist(), log.losses.tolist(), strict=True):
        if not math.isfinite(loss):
            yield Alarm(step, ("overflow",))
            break
    for i, step in enumerate(log.val_steps.tolist()):
        if i < 2 and log.metric[i] > 0.95:
            yield Alarm(step, ("leakage",))
        if i and log.val_loss[i] > log.val_loss[i - 1] and log.train_loss[i] < log.train_loss[i - 1]:
            yield Alarm(step, ("overfit",))


def null(_: Log) -> Iterator[Alarm]:
    """Never says anything."""
    return iter(())


def always(log: Log) -> Iterator[Alarm]:
    """Says at every chance that the learning rate is too high."""
    end = int(log.steps[-1]) if len(log.steps) else 0
    return (Alarm(step, ("lr_high",)) for step in range(0, end + 1, APART + 1))


PEERS: dict[str, Callable[[Log], Iterator[Alarm]]] = {
    "lightning_spike": lightning_spike,
    "lightning_early_stopping": lightning_early_stopping,
    "kill_loss_spike": kill_loss_spike,
    "olmo": olmo,
    "megatron": megatron,
    "zclip": zclip,
    "sagemaker": sagemaker,
    "autotrainer": autotrainer,
    "umlaut": umlaut,
    "null": null,
    "always": always,
}
"""Name in the results file -> its rules."""


def listen(peer: str, log: Log) -> list[Alarm]:
    """All alarms of a peer; division by a loss of 0 and the like are no alarms."""
    with np.errstate(all="ignore"):
        return list(PEERS[peer](log))
