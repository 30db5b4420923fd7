"""Faults put into a training on purpose, each a callback; ``benchmarks/health`` proves the monitor by them.

What a configuration can spoil (a rate, a weight, a threshold) needs no class here.
"""

from maskwell.callbacks.faults.base import Fault
from maskwell.callbacks.faults.losses import (
    FlippedSign,
    Growth,
    MissingTerms,
    NanLoss,
    Ramp,
    Shift,
    Spike,
    Undivided,
    WrongWeight,
)
from maskwell.callbacks.faults.network import (
    CollapsedPseudoLabels,
    DiscriminatorRange,
    DoneAlways,
    DoneNever,
    DoubleSoftmax,
    Overflow,
)
from maskwell.callbacks.faults.optimisation import (
    CyclicRate,
    FrozenHead,
    InertClip,
    InfiniteGradients,
    KeptGradients,
    LostOptimizerState,
    MissingParameters,
    PoisonedCheckpoint,
    Slowed,
    Unfreezing,
    WrongScheduleUnit,
)
from maskwell.callbacks.faults.samples import (
    BadPixels,
    EmptyTargets,
    NoisyLabels,
    NoObjects,
    PixelBoxes,
    RawBytes,
    ShiftedLabels,
    ShiftedValidation,
    Stretched,
    SwappedBoxes,
)
from maskwell.callbacks.faults.sets import InOrder, Leak
from maskwell.callbacks.faults.system import Derailed, Desync, MemoryLeak, OutOfMemory, Stall

__all__ = [
    "BadPixels",
    "CollapsedPseudoLabels",
    "CyclicRate",
    "Derailed",
    "Desync",
    "DiscriminatorRange",
    "DoneAlways",
    "DoneNever",
    "DoubleSoftmax",
    "EmptyTargets",
    "Fault",
    "FlippedSign",
    "FrozenHead",
    "Growth",
    "InOrder",
    "InertClip",
    "InfiniteGradients",
    "KeptGradients",
    "Leak",
    "LostOptimizerState",
    "MemoryLeak",
    "MissingParameters",
    "MissingTerms",
    "NanLoss",
    "NoObjects",
    "NoisyLabels",
    "OutOfMemory",
    "Overflow",
    "PixelBoxes",
    "PoisonedCheckpoint",
    "Ramp",
    "RawBytes",
    "Shift",
    "ShiftedLabels",
    "ShiftedValidation",
    "Slowed",
    "Spike",
    "Stall",
    "Stretched",
    "SwappedBoxes",
    "Undivided",
    "Unfreezing",
    "WrongScheduleUnit",
    "WrongWeight",
]
