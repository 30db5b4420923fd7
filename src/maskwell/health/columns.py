"""What the names of logged figures mean, in this package and in others."""

from __future__ import annotations

import re
from typing import Literal

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
    if found := _VALIDATION.match(name.strip()) or _VALIDATION_BEHIND.match(lower):
        head, slash, behind = found["name"].partition("/")
        plain = head.lower() + slash + behind  # a class, behind it, keeps its case
        return "metric", f"evaluated_train/{plain[6:]}" if plain.startswith("train_") else f"val/{plain}"
    plain = found["name"] if (found := _TRAINING.match(lower)) else lower
    if "/" in plain and "loss" not in plain:
        return "none", plain
    return ("part" if "loss" in plain else "fact"), plain.replace(" ", "_")


def is_loss(name: str) -> bool:
    """Whether a figure of validation, by its plain name, is a loss: others may be undefined at times."""
    return name.rpartition("/")[2].endswith("loss") or "loss_" in name
