"""Runs side by side: which override differs, which figure moved, and whether beyond noise."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table
from scipy import stats

from maskwell.errors import UserError
from maskwell.report import curves, page
from maskwell.report.charts import COLOURS, Chart, Line, number
from maskwell.report.run import Run, better, read

LEVEL = 0.05
"""Chance of calling noise a difference."""
PER_IMAGE = Path("cases") / "images.csv"
"""Score of each image of the test split, written at the end of a training."""
NOT_COMPARED = ("seed", "paths", "ckpt_path", "init_from", "plan", "hydra", "callbacks", "logger", "report")
"""Keys of the configuration that do not change what is learnt, apart from chance."""


@dataclass(frozen=True)
class Group:
    """Runs that differ by their seed alone; ``letter`` stands for them in tables and legends."""

    letter: str
    name: str
    runs: tuple[Run, ...]
    settings: dict[str, str]

    def values(self, figure: str) -> list[float]:
        """That figure of every run that has it."""
        return [value for run in self.runs if (value := run.figures().get(figure)) is not None]


@dataclass(frozen=True)
class Move:
    """How a figure differs from that of the first group.

    ``beyond``: None where nothing tells the noise; ``how``: by what it was told.
    """

    difference: float
    beyond: bool | None
    how: str


def main(folders: Sequence[Path], output: Path) -> None:
    """Print the table and write the page.

    Raises:
        UserError: fewer than two runs, or a folder that holds none.
    """
    if len(folders) < 2:
        raise UserError("compare wants two runs or more: python -m maskwell.report compare RUN RUN ...")
    groups = grouped([read(folder) for folder in folders])
    for group in groups:
        print(f"{group.letter}  {group.name}: {', '.join(str(run.folder) for run in group.runs)}")
    Console().print(_table(groups))
    print(f"report: {page.save(render(groups), output)}")


def grouped(runs: Sequence[Run]) -> list[Group]:
    """Runs of equal configuration together, in the order given, each named by what sets it apart."""
    flat = [_flat(run) for run in runs]
    keys = sorted({key for one in flat for key in one})
    differing = [key for key in keys if len({one.get(key) for one in flat}) > 1]
    together: dict[tuple[str | None, ...], list[int]] = {}
    for index, one in enumerate(flat):
        together.setdefault(tuple(one.get(key) for key in differing), []).append(index)
    names = _names([[runs[i] for i in members] for members in together.values()])
    return [
        Group(
            letter, name, tuple(runs[i] for i in members), dict(zip(differing, map(str, values), strict=True))
        )
        for letter, name, (values, members) in zip(_letters(), names, together.items(), strict=False)
    ]


def figures(groups: Sequence[Group]) -> list[str]:
    """The figures that more than one group has, losses and figures of classes left out."""
    shared: dict[str, int] = {}
    for group in groups:
        for name in {name for run in group.runs for name in run.figures()}:
            shared[name] = shared.get(name, 0) + 1
    order = list(dict.fromkeys(name for group in groups for run in group.runs for name in run.figures()))
    return [n for n in order if shared[n] > 1 and "/" not in n and not n.startswith("loss_")]


def move(reference: Group, group: Group, figure: str) -> Move | None:
    """How ``group`` differs from ``reference``; None where one of them has no such figure.

    Noise is told by seeds where both have two or more (Welch's t-test), else, for the score of single
    images, by the pairs of images (a permutation test of their differences).
    """
    first, second = reference.values(figure), group.values(figure)
    if not first or not second:
        return None
    difference = float(np.mean(second) - np.mean(first))
    if min(len(first), len(second)) > 1:
        spread = np.std(first) + np.std(second)
        beyond = (
            bool(difference) if not spread else stats.ttest_ind(first, second, equal_var=False).pvalue < LEVEL
        )
        return Move(difference, bool(beyond), f"{len(first)} and {len(second)} seeds")
    return Move(difference, None, "one run each: train with more seeds")


def image_move(reference: Group, group: Group) -> Move | None:
    """Mean difference of the images' scores over the images that both have; None where there are none."""
    first, second = _image_scores(reference.runs[0]), _image_scores(group.runs[0])
    shared = sorted(first.keys() & second.keys())
    if len(shared) < 8:
        return None
    pairs = np.array([second[name] - first[name] for name in shared])
    if not pairs.any():
        return Move(0.0, False, f"{len(shared)} images")
    test = stats.permutation_test(
        (pairs,), np.mean, permutation_type="samples", n_resamples=1999, rng=np.random.default_rng(0)
    )
    return Move(float(pairs.mean()), bool(test.pvalue < LEVEL), f"{len(shared)} images, pair by pair")


def render(groups: Sequence[Group]) -> str:
    """The page."""
    names = figures(groups)
    rows: list[dict[str, Any]] = []
    for name in names:
        cells = [_cell(group.values(name)) for group in groups]
        moves = [move(groups[0], group, name) for group in groups[1:]]
        rows.append({"name": name, "cells": cells, "moves": moves, "direction": better(name)})
    pairs = [image_move(groups[0], group) for group in groups[1:]]
    return page.template("compare.html.j2").render(
        groups=groups,
        rows=rows,
        pairs=pairs if any(pairs) else [],
        settings=list(groups[0].settings),
        charts=_charts(groups),
        addresses=[page.shown(run.folder) for group in groups for run in group.runs],
    )


def _letters() -> Iterator[str]:
    """A, B, ..., Z, A2, B2, ..."""
    for round_ in count(1):
        yield from (f"{letter}{round_ if round_ > 1 else ''}" for letter in ascii_uppercase)


def _flat(run: Run) -> dict[str, str]:
    """Key -> value of everything in the configuration that may matter, resolved."""
    content = OmegaConf.to_container(run.config, resolve=True)
    assert isinstance(content, dict)
    found: dict[str, str] = {}
    own = str(run.config.paths.run_dir)

    def walk(value: Any, key: str) -> None:
        if isinstance(value, dict) and value:
            for name, inner in value.items():
                walk(inner, f"{key}.{name}" if key else str(name))
        elif key.split(".")[0] not in NOT_COMPARED and not key.endswith(".seed"):
            found[key] = str(value).replace(own, "RUN")

    walk(content, "")
    return found


def _names(groups: Sequence[Sequence[Run]]) -> list[str]:
    """A short name for each group: the overrides that the others do not all have, else the folder's name."""
    said = [
        [
            o
            for o in group[0].origin.overrides
            if o.lstrip("+~").split(".")[0].split("=")[0] not in NOT_COMPARED
        ]
        for group in groups
    ]
    common = set(said[0]).intersection(*said[1:]) if len(said) > 1 else set()
    named = [_shortened([o for o in one if o not in common]) for one in said]
    return [
        name if named.count(name) == 1 else group[0].folder.resolve().name
        for name, group in zip(named, groups, strict=True)
    ]


def _shortened(overrides: Sequence[str], length: int = 48) -> str:
    """As many of ``overrides`` as fit, at least one."""
    kept = list(overrides[:1])
    for override in overrides[1:]:
        if len(" ".join([*kept, override])) > length:
            return " ".join([*kept, "..."])
        kept.append(override)
    return " ".join(kept) or "defaults"


def _image_scores(run: Run) -> dict[str, float]:
    path = run.folder / PER_IMAGE
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {row["image"]: 1 - float(row["error"]) for row in csv.DictReader(file)}


def _cell(values: Sequence[float]) -> str:
    if not values:
        return ""
    spread = f" ± {number(float(np.std(values, ddof=1)))}" if len(values) > 1 else ""
    return f"{number(float(np.mean(values)))}{spread}"


def _table(groups: Sequence[Group]) -> Table:
    drawn = Table(title="A is the reference; (n): number of seeds", title_justify="left")
    drawn.add_column("figure")
    for group in groups:
        drawn.add_column(f"{group.letter} ({len(group.runs)})", justify="right")
    for name in figures(groups):
        cells = [_cell(groups[0].values(name))]
        for group in groups[1:]:
            moved = move(groups[0], group, name)
            mark = (
                "" if moved is None or moved.beyond is None else " beyond noise" if moved.beyond else " noise"
            )
            cells.append(f"{_cell(group.values(name))}{mark}")
        drawn.add_row(name, *cells)
    return drawn


def _charts(groups: Sequence[Group]) -> list[Chart]:
    """The loss and every shared metric of the validation, one line per group (its first run)."""
    some = groups[:COLOURS]
    names = [name for name in (curves.LOSS, "val/loss") if any(name in g.runs[0].history for g in some)]
    names += [f"val/{name}" for name in figures(some)]
    charts = []
    for name in dict.fromkeys(names):
        lines = [
            Line(group.letter, group.runs[0].history[name], colour)
            for colour, group in enumerate(some, 1)
            if name in group.runs[0].history
        ]
        if len(lines) > 1 and any(len(line.series) > 1 for line in lines):
            charts.append(Chart(name, lines))
    return charts
