"""How often a model that marks points is shown a finished image, by split and way of sampling.

``python -m maskwell.data.checks DATA --done-balance``
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table

from maskwell.data.coco import CocoSource
from maskwell.data.source import SPLITS, Split
from maskwell.ops import points
from maskwell.ops.points import Mode, Sampling, Share

BAND = (0.4, 0.6)
"""Shares of done states that count as balanced."""
DRAWS = 2000
"""States that are drawn per split and way, at least."""

WAYS: tuple[tuple[Mode, Sampling], ...] = (
    ("mixed", "uniform"),
    ("mixed", "balanced"),
    ("mixed", "mixed"),
    ("done", "uniform"),
    ("regression", "uniform"),
)
"""Modes with the samplings that make a difference in them."""


@dataclass(frozen=True)
class DoneBalance:
    """Share of done states of one split: ``expected`` exactly, ``sampled`` by drawing them."""

    split: Split
    mode: Mode
    sampling: Sampling
    images: int
    expected: float
    sampled: Share

    @property
    def pos_weight(self) -> float:
        """Weight of a done state with which both sides weigh the same."""
        return points.balancing_weight(self.expected)

    @property
    def balanced(self) -> bool:
        """Whether the share lies in :data:`BAND`."""
        return BAND[0] <= self.expected <= BAND[1]


def object_counts(source: CocoSource) -> dict[Split, list[int]]:
    """Objects, crowds not counted, of each image; splits without images are left out."""
    counts: dict[Split, list[int]] = {
        split: [int((~image.iscrowd).sum()) for image in source.index[split]] for split in SPLITS
    }
    return {split: found for split, found in counts.items() if found}


def done_balance(
    root: str | Path, object_range: Sequence[int] | None = None, seed: int = 0
) -> list[DoneBalance]:
    """Of each split of a COCO folder and each of :data:`WAYS`.

    Raises:
        UserError: data that cannot be read, or a range that is none.
    """
    source = CocoSource(str(root), object_range=object_range)
    source.setup()
    generator = torch.Generator().manual_seed(seed)
    return [
        DoneBalance(
            split,
            mode,
            sampling,
            len(counts),
            points.expected_done_share(counts, sampling, mode),
            points.sampled_done_share(counts, sampling, mode, math.ceil(DRAWS / len(counts)), generator),
        )
        for split, counts in object_counts(source).items()
        for mode, sampling in WAYS
    ]


def balance_table(found: Sequence[DoneBalance]) -> Table:
    """A rich table."""
    table = Table(title="share of states with done = 1", title_justify="left", pad_edge=False)
    table.add_column("split", no_wrap=True)
    table.add_column("mode, sampling", no_wrap=True)
    for name in ("images", "expected", "sampled (95 %)", "pos_weight"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in found:
        low, high = (100 * bound for bound in one.sampled.interval)
        way = f"mixed, {one.sampling}" if one.mode == "mixed" else one.mode
        drawn = f"{one.sampled.value:.1%} ({low:.1f}-{high:.1f})"
        weight = f"{one.pos_weight:.1f}" if one.expected else "-"
        table.add_row(one.split, way, str(one.images), f"{one.expected:.1%}", drawn, weight)
    return table


def advice(found: Sequence[DoneBalance]) -> list[str]:
    """What to do about the training split, and a warning for each split where even ``balanced`` is not."""
    lines = []
    training = {one.sampling: one for one in found if one.split == "train" and one.mode == "mixed"}
    if training:
        uniform = training["uniform"]
        if uniform.balanced:
            lines.append("recommended: model.sampling=uniform; the states are balanced as they are")
        else:
            best = min(training.values(), key=lambda one: abs(one.expected - 0.5))
            lines.append(
                f"recommended: model.sampling={best.sampling} ({best.expected:.1%} done), or uniform "
                f"({uniform.expected:.1%}) with model.done_pos_weight={uniform.pos_weight:.1f}; done "
                "is rarer in use, so leave the choice of model.stop to validation (null)"
            )
    lines += [
        f"warning: {one.split}: balanced sampling gives {one.expected:.1%} done, outside {BAND[0]:.0%} to "
        f"{BAND[1]:.0%}: images without objects are always done"
        for one in found
        if (one.mode, one.sampling) == ("mixed", "balanced") and not one.balanced
    ]
    return lines
