"""The faults that the monitor is tested with, and which of them its rules may not be designed on.

Fixed before the rules were written: a fault is held out by a hash of its name, so that neither its
numbers nor its runs can shape a threshold. Severities are numbers of the fault's own unit, named in
``unit``; the first is mild, the second is strong.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

Family = Literal["sam_lora", "s4gan", "points", "detr"]
Group = Literal["data", "loss", "optimisation", "numerics", "dynamics", "task", "system"]

ALL: tuple[Family, ...] = ("sam_lora", "s4gan", "points", "detr")
OBJECTS: tuple[Family, ...] = ("sam_lora", "points", "detr")
BOXES: tuple[Family, ...] = ("sam_lora", "detr")
MASKS: tuple[Family, ...] = ("sam_lora", "s4gan")
GAN: tuple[Family, ...] = ("s4gan",)
POINTS: tuple[Family, ...] = ("points",)
WARMED: tuple[Family, ...] = ("sam_lora", "points")
"""Those whose optimiser warms up by default."""
PARALLEL: tuple[Family, ...] = ("s4gan", "points")
"""One that optimises by hand and one that does not: what ranks share is the same for all others."""


@dataclass(frozen=True)
class Fault:
    """One way to spoil a training.

    ``families`` it can be injected into; ``cause`` a label of :data:`maskwell.health.causes.CAUSES`,
    ``equivalent`` labels that name it as well; ``severities`` (mild, strong) in ``unit``.
    """

    name: str
    group: Group
    families: tuple[Family, ...]
    cause: str
    equivalent: tuple[str, ...]
    severities: tuple[float, float]
    unit: str


HELD_OUT_SHARE = 4
"""One fault in so many is held out, on average."""


def held_out(name: str) -> bool:
    """Whether the fault of this name may be looked at only when the figures are reported."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % HELD_OUT_SHARE == 0


FAULTS: tuple[Fault, ...] = (
    # data
    Fault("empty_targets", "data", ALL, "no_targets", ("dead_component",), (0.9, 1.0), "share of samples"),
    Fault("no_objects", "data", OBJECTS, "no_targets", ("dead_component", "no_matches"), (1, 1), "all"),
    Fault("wrong_normalisation", "data", ALL, "input_scale", ("split_mismatch",), (2, 5), "factor of std"),
    Fault("raw_bytes", "data", ALL, "input_scale", ("split_mismatch",), (255, 255), "factor of the image"),
    Fault("train_val_normalisation", "data", ALL, "split_mismatch", ("input_scale",), (1, 3), "shift in std"),
    Fault("box_format_swap", "data", BOXES, "box_format", ("label_error",), (0.5, 1.0), "share of samples"),
    Fault("pixel_boxes", "data", BOXES, "box_format", ("not_normalised", "input_scale"), (64, 512), "px"),
    Fault("label_shift", "data", MASKS, "label_error", ("split_mismatch",), (1, 2), "classes"),
    Fault("label_noise", "data", ALL, "label_error", ("overfit",), (0.2, 0.5), "share of labels"),
    Fault("unshuffled", "data", ALL, "not_shuffled", ("imbalance",), (0.5, 1.0), "share kept in order"),
    Fault("leak", "data", ALL, "leakage", (), (0.2, 1.0), "share of val found in train"),
    Fault("nan_pixel", "data", ALL, "bad_sample", ("overflow",), (0.02, 0.2), "share of samples"),
    # loss
    Fault("num_boxes_one", "loss", BOXES, "not_normalised", ("loss_weight",), (1, 1), "divisor"),
    Fault("sum_reduction", "loss", ALL, "not_normalised", ("loss_weight",), (1, 1), "divisor"),
    Fault("weight_x100", "loss", ALL, "loss_weight", ("not_normalised",), (30, 100), "factor"),
    Fault("double_softmax", "loss", GAN, "wrong_activation", ("lr_low", "architecture"), (1, 2), "times"),
    Fault("flipped_sign", "loss", ALL, "wrong_sign", ("divergence",), (0.3, 1.0), "weight of the term"),
    Fault("missing_component", "loss", ALL, "dead_component", ("no_targets",), (1, 2), "terms"),
    # optimisation
    Fault("lr_x30", "optimisation", ALL, "lr_high", ("divergence", "no_warmup"), (3, 30), "factor"),
    Fault("lr_over_1000", "optimisation", ALL, "lr_low", ("plateau", "schedule"), (0.01, 0.001), "factor"),
    Fault("lr_zero", "optimisation", ALL, "lr_low", ("schedule", "not_optimised"), (0, 0), "factor"),
    Fault("schedule_unit", "optimisation", ALL, "schedule", ("lr_low", "lr_high"), (0.1, 10), "time scale"),
    Fault(
        "no_zero_grad", "optimisation", ALL, "no_zero_grad", ("divergence", "lr_high"), (1, 1), "all steps"
    ),
    Fault("missing_parameters", "optimisation", ALL, "not_optimised", (), (0.3, 0.8), "share of tensors"),
    Fault("frozen_head", "optimisation", ALL, "not_optimised", ("plateau",), (0.5, 1.0), "share of the head"),
    Fault("inert_clip", "optimisation", ALL, "clip", ("lr_high", "divergence"), (3, 30), "gradient factor"),
    Fault(
        "missing_warmup",
        "optimisation",
        WARMED,
        "no_warmup",
        ("lr_high", "divergence"),
        (3, 10),
        "first rate",
    ),
    Fault("optimizer_reset", "optimisation", ALL, "optimizer_state", ("lr_high",), (1, 1), "at resume"),
    # numerics
    Fault("nan_step", "numerics", ALL, "overflow", ("bad_sample", "bad_batch"), (1, 5), "steps in a row"),
    Fault("fp16_overflow", "numerics", ALL, "overflow", ("lr_high",), (1e4, 1e6), "scale of activations"),
    Fault("inf_gradients", "numerics", ALL, "overflow", ("bad_batch",), (1, 10), "steps in a row"),
    Fault("poisoned_checkpoint", "numerics", ALL, "bad_weights", ("overflow",), (1, 100), "weights"),
    # dynamics
    Fault("transient_spike", "dynamics", ALL, "bad_batch", ("shift",), (20, 100), "factor of the loss"),
    Fault("level_shift", "dynamics", ALL, "shift", ("lr_high", "divergence"), (3, 10), "factor of the loss"),
    Fault("slow_divergence", "dynamics", ALL, "divergence", ("lr_high",), (0.001, 0.02), "growth per step"),
    Fault("overfit", "dynamics", ALL, "overfit", (), (8, 2), "training images"),
    Fault("plateau", "dynamics", ALL, "plateau", ("lr_low", "not_optimised"), (0.1, 0.0), "rate factor"),
    # task
    Fault("threshold_0999", "task", GAN, "pseudo_threshold", (), (0.99, 0.9999), "threshold"),
    Fault("pseudo_collapse", "task", GAN, "pseudo_collapse", ("degenerate",), (0.8, 1.0), "share of a class"),
    Fault("strong_discriminator", "task", GAN, "d_strong", ("lr_high",), (3, 30), "rate factor"),
    Fault("weak_discriminator", "task", GAN, "d_weak", ("not_optimised",), (0.01, 0.0), "rate factor"),
    Fault("discriminator_range", "task", GAN, "d_input", ("d_strong",), (2, 255), "factor on real images"),
    Fault("done_all_zero", "task", POINTS, "done_balance", ("imbalance", "label_error"), (0.9, 1), "share"),
    Fault("done_all_one", "task", POINTS, "done_balance", ("imbalance", "label_error"), (0.9, 1), "share"),
    # system
    Fault("out_of_memory", "system", ALL, "memory", (), (1, 5), "steps that fail"),
    Fault("memory_leak", "system", ALL, "leak", ("memory",), (1, 10), "MiB a step"),
    Fault("stall", "system", ALL, "stall", ("slow_data",), (20, 100), "median steps"),
    Fault("rank_desync", "system", PARALLEL, "desync", (), (1e-3, 1e-1), "noise on one rank's weights"),
)
"""Every fault, with the families where it applies."""
