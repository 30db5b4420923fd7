"""How each fault of the catalogue comes into a training of each family: by overrides or by callbacks."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.health.catalogue import FAULTS, Family, Fault
from benchmarks.health.miniature import MINIATURES, PREFIX
from benchmarks.health.score import BUDGET

NOTHING = 1e-30
"""A rate that changes no weight, where 0 is refused."""
SLOW_STATIC, SLOW_MOVING = BUDGET + 20, PREFIX[1] + BUDGET
"""Steps of runs whose faults show slowly, in all families: as many as the monitor has to find them."""


@dataclass(frozen=True)
class Put:
    """A callback of :mod:`maskwell.callbacks.faults` by its class's name, with what it is given beside
    severity, start and seed.
    """

    kind: str
    given: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Injection:
    """What spoils one training.

    ``moving``: it begins behind a healthy prefix; ``resumes``: there the run is stopped and resumed;
    ``ranks``: processes; ``steps``: another length than the family's.
    """

    overrides: tuple[str, ...] = ()
    put: tuple[Put, ...] = ()
    moving: bool = False
    resumes: bool = False
    ranks: int = 1
    steps: int | None = None

    @property
    def by_override(self) -> bool:
        """Whether a user could have typed it, and so undo it."""
        return bool(self.overrides) and not self.put


def start_of(fault: str, family: str, severity: float, seed: int) -> int:
    """The seeded step behind which a moving fault begins."""
    key = zlib.crc32(f"{fault}/{family}/{severity}".encode())
    return int(np.random.default_rng([seed, key]).integers(*PREFIX))


def injection(fault: Fault, family: Family, severity: float) -> Injection:
    """How this fault comes into this family."""
    made = _BY_NAME[fault.name]
    return made(family, severity) if callable(made) else made


def times_rate(family: Family, factor: float, *more: str) -> Injection:
    """The learning rate, multiplied."""
    small = MINIATURES[family]
    return Injection((f"{small.rate}={small.lr * factor:g}", *more))


def _zero_rate(family: Family, _: float) -> Injection:
    return Injection((f"{MINIATURES[family].rate}={NOTHING if family == 's4gan' else 0.0:g}",))


def _weight(family: Family, factor: float) -> Injection:
    keys = {
        "sam_lora": f"model.loss.weights.giou={2 * factor:g}",
        "points": f"model.done_weight={factor:g}",
        "s4gan": f"model.recipe.lambda_fm={0.1 * factor:g}",
    }
    if family in keys:
        return Injection((keys[family],))
    return Injection(put=(Put("WrongWeight", {"term": "loss_giou"}),))


def _undivided(family: Family, _: float) -> Injection:
    if family == "sam_lora":
        return Injection(("model.loss.normalisation=one",))
    return Injection(put=(Put("Undivided", {"by": "objects"}),))


def _without_warmup(family: Family, factor: float) -> Injection:
    warmup = {"points": "optim.warmup_share=0.0", "sam_lora": "optim.warmup_share=0.0"}
    return times_rate(family, factor, *([warmup[family]] if family in warmup else []))


def _few_images(family: Family, count: float) -> Injection:
    key = "data.labelled" if family == "s4gan" else "data.limit_train"
    return Injection((f"{key}={count:g}",), steps=SLOW_STATIC)


def _discriminator_rate(_: Family, factor: float) -> Injection:
    return Injection((f"model.rates.lr_discriminator={max(1e-4 * factor, NOTHING):g}",), steps=SLOW_STATIC)


def _static(kind: str, **given: Any) -> Injection:
    return Injection(put=(Put(kind, given),))


def _moving(kind: str, steps: int | None = None) -> Injection:
    return Injection(put=(Put(kind),), moving=True, steps=steps)


_BY_NAME: dict[str, Injection | Callable[[Family, float], Injection]] = {
    "empty_targets": _static("EmptyTargets"),
    "no_objects": _static("NoObjects"),
    "wrong_normalisation": _static("Stretched"),
    "raw_bytes": _static("RawBytes"),
    "train_val_normalisation": _static("ShiftedValidation"),
    "box_format_swap": _static("SwappedBoxes"),
    "pixel_boxes": _static("PixelBoxes"),
    "label_shift": _static("ShiftedLabels"),
    "label_noise": _static("NoisyLabels"),
    "unshuffled": _static("InOrder"),
    "leak": _static("Leak"),
    "nan_pixel": _static("BadPixels"),
    "num_boxes_one": _undivided,
    "sum_reduction": _static("Undivided", by="images"),
    "weight_x100": _weight,
    "double_softmax": _static("DoubleSoftmax"),
    "flipped_sign": _static("FlippedSign"),
    "missing_component": _static("MissingTerms"),
    "lr_x30": lambda family, factor: times_rate(family, factor),
    "lr_over_1000": lambda family, factor: times_rate(family, factor),
    "lr_zero": _zero_rate,
    "schedule_unit": _static("WrongScheduleUnit"),
    "no_zero_grad": _static("KeptGradients"),
    "missing_parameters": _static("MissingParameters"),
    "frozen_head": _static("FrozenHead"),
    "inert_clip": _static("InertClip"),
    "missing_warmup": _without_warmup,
    "optimizer_reset": Injection(put=(Put("LostOptimizerState"),), moving=True, resumes=True),
    "nan_step": _moving("NanLoss"),
    "fp16_overflow": _moving("Overflow"),
    "inf_gradients": _moving("InfiniteGradients"),
    "poisoned_checkpoint": Injection(put=(Put("PoisonedCheckpoint"),), moving=True, resumes=True),
    "transient_spike": _moving("Spike"),
    "level_shift": _moving("Shift"),
    "slow_divergence": _moving("Growth", SLOW_MOVING),
    "overfit": _few_images,
    "plateau": _moving("Slowed", SLOW_MOVING),
    "threshold_0999": lambda _, threshold: Injection(
        (f"model.recipe.pixel_threshold={threshold:g}", "model.recipe.class_wise=false"), steps=SLOW_STATIC
    ),
    "pseudo_collapse": _static("CollapsedPseudoLabels"),
    "strong_discriminator": _discriminator_rate,
    "weak_discriminator": _discriminator_rate,
    "discriminator_range": _static("DiscriminatorRange"),
    "done_all_zero": _static("DoneNever"),
    "done_all_one": _static("DoneAlways"),
    "out_of_memory": _moving("OutOfMemory"),
    "memory_leak": Injection(put=(Put("MemoryLeak"),), steps=SLOW_STATIC),
    "stall": _moving("Stall"),
    "rank_desync": Injection(put=(Put("Desync"),), moving=True, ranks=2),
}

assert set(_BY_NAME) == {fault.name for fault in FAULTS}, "every fault of the catalogue has an injection"
