"""A row of a log, and what the names in it mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

STEP_NAMES = (
    "step",
    "_step",
    "global_step",
    "trainer/global_step",
    "iteration",
    "iter",
    "iterations",
    "steps",
    "batch",
)
EPOCH_NAMES = ("epoch", "train/epoch", "epochs", "trainer/epoch")
LOSS_NAMES = (
    *("train/batch_loss", "train/loss_step", "train_loss_step", "train/loss", "train_loss", "training_loss"),
    *("loss/train", "training loss", "batch_loss", "train/total_loss", "total_loss", "loss"),
)
"""Names of the total training loss, best first; compared without case."""
EPOCH_LOSS_NAMES = ("train/epoch_avg_loss", "train/loss_epoch", "train_loss_epoch")
_VALIDATION = re.compile(r"^(val|valid|validation|eval|evaluation|dev)[/_. ](?P<name>.+)$", re.IGNORECASE)
_VALIDATION_BEHIND = re.compile(r"^(?P<name>.+)[/_. ](val|valid|validation|eval)$", re.IGNORECASE)
_TRAINING = re.compile(r"^(train|training)[/_. ](?P<name>.+)$", re.IGNORECASE)
_RATE = re.compile(r"^((train|training)[/_. ])?(lr|learning_rate)(?P<rest>$|[/_\-. ].*|\d+)", re.IGNORECASE)
_GRADIENT = re.compile(r"^((train|training)[/_. ])?grad(ient)?_norm(_(?P<rest>\w+))?$", re.IGNORECASE)
_IGNORED = re.compile(
    r"^(health|test|panels|system|_|gpu)|(^|/)(skipped_steps|best_)|clipped|loss_(scale|weight)|^time|^_runtime",
    re.IGNORECASE,
)

Kind = Literal["step", "epoch", "loss", "epoch_loss", "part", "metric", "rate", "gradient", "fact", "none"]


class Row(NamedTuple):
    """Numbers that were logged together: ``step`` and ``epoch`` where they are known."""

    values: Mapping[str, float]
    step: int | None = None
    epoch: float | None = None


@dataclass
class Notes:
    """What a reader has to say beside the rows: ``dropped`` column -> why it was left out."""

    messages: list[str] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)


def kind_of(name: str) -> tuple[Kind, str]:
    """(what a column means, its plain name): ``val/miou`` -> ("metric", "val/miou")."""
    lower = name.lower().strip()
    if lower in STEP_NAMES:
        return "step", lower
    if lower in EPOCH_NAMES:
        return "epoch", lower
    if lower in EPOCH_LOSS_NAMES:
        return "epoch_loss", lower
    if lower in LOSS_NAMES:
        return "loss", lower
    if _IGNORED.search(lower):
        return "none", lower
    if found := _RATE.match(lower):
        return "rate", found["rest"].strip("/_-. ") or "all"
    if found := _GRADIENT.match(lower):
        return "gradient", found["rest"] or "all"
    if found := _VALIDATION.match(lower) or _VALIDATION_BEHIND.match(lower):
        plain = found["name"]
        return "metric", f"evaluated_train/{plain[6:]}" if plain.startswith("train_") else f"val/{plain}"
    plain = found["name"] if (found := _TRAINING.match(lower)) else lower
    if "/" in plain and "loss" not in plain:
        return "none", plain
    return ("part" if "loss" in plain else "fact"), plain.replace(" ", "_")


def is_loss(name: str) -> bool:
    """Whether a figure of validation, by its plain name, is a loss: others may be undefined at times."""
    return name.rpartition("/")[2].endswith("loss") or "loss_" in name
