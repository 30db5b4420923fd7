"""What the first samples of the loaders look like: the measurements behind the data rules."""

from __future__ import annotations

import copy
import hashlib
import random
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from maskwell.callbacks.monitor.plain import tensors
from maskwell.data.sample import IGNORE, Sample
from maskwell.health import statistics
from maskwell.health.signals import PREFLIGHT, Signals

BINS = np.linspace(-4.0, 4.0, 33)
PIXELS = 1024
"""Values of each image that enter its histogram."""
LEAST_PIXELS = 32
"""Values that a foreign tensor needs to be an image and no label."""


@dataclass
class SplitFacts:
    """What was seen of one split; ``classes`` counts objects (or pixels), ``shown`` the samples with them."""

    hashes: set[bytes] = field(default_factory=set)
    histograms: list[statistics.Values] = field(default_factory=list)
    classes: Counter[str] = field(default_factory=Counter)
    shown: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)
    low: float = float("inf")
    high: float = float("-inf")
    seen: int = 0
    labelled: int = 0
    targets: int = 0
    empty: int = 0


def measure(
    trainer: Trainer, module: LightningModule, signals: Signals, seconds: float, samples: int = 64
) -> None:
    """Record the facts of the training and validation data under ``preflight/``, for so many seconds.

    Random states are the caller's to keep.
    """
    deadline = time.monotonic() + seconds
    sets = {"train": _dataset(trainer.train_dataloader), "val": _dataset(trainer.val_dataloaders)}
    if isinstance(trainer.train_dataloader, Mapping) and "unlabelled" in trainer.train_dataloader:
        sets["unlabelled"] = _dataset(trainer.train_dataloader["unlabelled"])
    facts: dict[str, SplitFacts] = {}
    for split, dataset in sets.items():
        size = _size(dataset)
        if size is None:
            continue
        signals.record(f"{PREFLIGHT}size/{split}", 0, size, "count")
        until = time.monotonic() + seconds / 2 if split == "train" else deadline
        facts[split] = _look(dataset, size, samples, until, _classes(module))
    train = facts.get("train")
    if train is None or not train.seen:
        return
    _record_train(train, signals, _normalisation(module))
    for split, found in facts.items():
        if split != "train" and found.seen:
            _record_shift(train, found, split, signals)
    for split, found in facts.items():
        signals.record(f"{PREFLIGHT}seen/{split}", 0, found.seen, "count")
        for name, count in found.classes.items():
            signals.record(f"{PREFLIGHT}class/{split}/{name}", 0, count, "count")
            signals.record(f"{PREFLIGHT}shown/{split}/{name}", 0, found.shown[name], "count")


def _record_train(train: SplitFacts, signals: Signals, normalisation: tuple[float, float] | None) -> None:
    if train.labelled:
        signals.record(PREFLIGHT + "empty_share", 0, train.empty / train.labelled, "rate")
        signals.record(PREFLIGHT + "targets_per_sample", 0, train.targets / train.labelled, "count")
    for problem, count in train.problems.items():
        signals.record(f"{PREFLIGHT}label/{problem}", 0, count / train.seen, "rate")
    if np.isfinite(train.high):
        largest = max(abs(train.low), abs(train.high))
        signals.record(PREFLIGHT + "input_largest", 0, largest, "norm")
        if normalisation is not None:
            low, high = normalisation
            signals.record(PREFLIGHT + "input_low", 0, (train.low - low) / (high - low), "norm")
            signals.record(PREFLIGHT + "input_high", 0, (train.high - low) / (high - low), "norm")


def _record_shift(train: SplitFacts, other: SplitFacts, split: str, signals: Signals) -> None:
    if split == "val":
        overlap = len(train.hashes & other.hashes)
        signals.record(PREFLIGHT + "overlap/val", 0, overlap, "count")
    if min(len(train.histograms), len(other.histograms)) < 8:
        return
    stack = np.stack(train.histograms)
    halves = statistics.population_stability(stack[::2].sum(0), stack[1::2].sum(0))
    shift = statistics.population_stability(np.stack(other.histograms).sum(0), stack.sum(0))
    signals.record(PREFLIGHT + "shift_noise", 0, halves, "norm")
    signals.record(f"{PREFLIGHT}shift/{split}", 0, shift, "norm")


def _look(dataset: Any, size: int, samples: int, deadline: float, classes: tuple[str, ...]) -> SplitFacts:
    facts = SplitFacts()
    try:
        apart = _apart(dataset)
    except Exception:  # what cannot be copied is left alone
        return facts
    for index in np.unique(np.linspace(0, size - 1, min(samples, size)).astype(int)).tolist():
        if time.monotonic() > deadline:
            break
        try:
            entry = apart[index]
        except Exception:  # a dataset with keys of its own, or of which a sample is broken: training will say
            break
        _add_sample(facts, entry, classes) if isinstance(entry, Sample) else _add_foreign(facts, entry)
    return facts


def _apart(dataset: Any) -> Any:
    """A shallow copy: files that it opens at its first sample, and draws of its generators, stay its own.

    Handles opened here in the data set itself would be shared by all workers that are forked later.
    """
    copied = copy.copy(dataset)
    for name, value in list(getattr(copied, "__dict__", {}).items()):
        if isinstance(value, torch.Generator):
            setattr(copied, name, value.clone_state())
        elif isinstance(value, np.random.Generator | np.random.RandomState | random.Random):
            setattr(copied, name, copy.deepcopy(value))
        elif name == "dataset":
            copied.dataset = _apart(value)
        elif name == "datasets" and isinstance(value, list | tuple):
            copied.datasets = [_apart(inner) for inner in value]
    return copied


def _add_sample(facts: SplitFacts, sample: Sample, classes: tuple[str, ...]) -> None:
    facts.seen += 1
    _add_image(facts, sample.image)
    names = classes or tuple(map(str, range(int(sample.labels.max()) + 1 if len(sample.labels) else 0)))
    semantic = sample.semantic
    if semantic is not None:
        known = semantic[semantic != IGNORE]
        facts.labelled += 1
        facts.targets += int(known.numel() > 0)
        facts.empty += known.numel() == 0
        facts.problems["all_ignored"] += known.numel() == 0
        facts.problems["class_out_of_range"] += bool(
            len(classes) and known.numel() and known.max() >= len(classes)
        )
        for label, count in enumerate(
            torch.bincount(known.flatten(), minlength=len(names)).tolist()[: len(names)]
        ):
            if count:
                facts.classes[names[label]] += count
                facts.shown[names[label]] += 1
        return
    facts.labelled += 1
    facts.targets += len(sample.labels)
    facts.empty += len(sample.labels) == 0
    labels = sample.labels.tolist()
    facts.problems["class_out_of_range"] += any(not 0 <= label < max(len(names), 1) for label in labels)
    known_names = [names[label] for label in labels if 0 <= label < len(names)]
    facts.classes.update(known_names)
    facts.shown.update(set(known_names))
    _add_boxes(facts, sample.boxes)
    if sample.points is not None and len(sample.points):
        outside = (sample.points < -1e-3) | (sample.points > 1 + 1e-3)
        facts.problems["point_outside"] += bool(outside.any())


def _add_boxes(facts: SplitFacts, boxes: Tensor) -> None:
    if not len(boxes):
        return
    facts.problems["box_outside"] += bool((boxes > 1.05).any() or (boxes < -0.05).any())
    facts.problems["box_inside_out"] += bool((boxes[:, 2:] < boxes[:, :2] - 1e-6).any())
    facts.problems["duplicate_box"] += len(torch.unique(boxes, dim=0)) < len(boxes)


def _add_foreign(facts: SplitFacts, entry: Any) -> None:
    """A tuple (input, target) or a mapping: its first image-like tensor, and a class or boxes as target."""
    found = [t for _, t in tensors(entry) if t.is_floating_point() or t.dtype == torch.uint8]
    image = next((t for t in found if t.ndim >= 2 and t.numel() >= LEAST_PIXELS), None)
    if image is None:
        return
    facts.seen += 1
    _add_image(facts, image)
    target = entry[1] if isinstance(entry, list | tuple) and len(entry) > 1 else None
    if isinstance(target, int) or (
        isinstance(target, Tensor) and target.ndim == 0 and not target.is_floating_point()
    ):
        facts.classes[str(int(target))] += 1
        facts.shown[str(int(target))] += 1
    if isinstance(target, Mapping) and isinstance(target.get("boxes"), Tensor):
        facts.labelled += 1
        facts.targets += len(target["boxes"])
        facts.empty += len(target["boxes"]) == 0


def _add_image(facts: SplitFacts, image: Tensor) -> None:
    values = image.detach().cpu().reshape(-1)
    if values.numel() == 0:
        return
    if bool((values != values[0]).any()):  # blank ones are alike in all splits
        facts.hashes.add(hashlib.sha1(values.contiguous().numpy().tobytes()).digest())
    values = values.float()
    finite = values[torch.isfinite(values)]
    if finite.numel() == 0:
        return
    facts.low = min(facts.low, float(finite.min()))
    facts.high = max(facts.high, float(finite.max()))
    strided = finite[:: max(1, finite.numel() // PIXELS)].numpy()
    counts, _ = np.histogram(np.clip(strided, BINS[0], BINS[-1]), BINS)
    facts.histograms.append(counts.astype(np.float64))


def _normalisation(module: LightningModule) -> tuple[float, float] | None:
    """What the declared normalisation makes of 0 and 1, over all channels."""
    spec = getattr(module, "input_spec", None)
    if spec is None:
        return None
    low = min((0 - m) / s for m, s in zip(spec.mean, spec.std, strict=True))
    high = max((1 - m) / s for m, s in zip(spec.mean, spec.std, strict=True))
    return low, high


def _classes(module: LightningModule) -> tuple[str, ...]:
    return tuple(getattr(module, "categories", ()) or ())


def _dataset(loaders: Any) -> Any:
    """The dataset of a loader, of the labelled one among several, or of the first."""
    if isinstance(loaders, Mapping):
        return _dataset(loaders.get("labelled", next(iter(loaders.values()), None)))
    if isinstance(loaders, list | tuple):
        return _dataset(loaders[0]) if loaders else None
    return getattr(loaders, "dataset", None)


def _size(dataset: Any) -> int | None:
    if dataset is None or not hasattr(dataset, "__getitem__"):
        return None
    try:
        return len(dataset)
    except TypeError:
        return None
