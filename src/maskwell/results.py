"""results.json of a run and the table at its end: the model before training beside the trained one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from maskwell.errors import warn

FILE = "results.json"


def read(folder: Path) -> dict[str, Any]:
    """What the run has reported so far; empty at its start."""
    path = folder / FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def update(folder: Path, **entries: Any) -> dict[str, Any]:
    """Add ``entries`` to results.json (replaced as a whole) and return all of it.

    A disk that is full costs the file, not what has been measured.
    """
    content = {"format": 1, **read(folder), **entries}
    beside = folder / f"{FILE}.tmp"
    try:
        beside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        beside.replace(folder / FILE)
    except OSError as error:
        warn(f"{folder / FILE} could not be written ({error}): {json.dumps(entries)}")
    return content


def plain(metrics: Mapping[str, float], stage: str) -> dict[str, float]:
    """Logged values without their ``<stage>/`` prefix."""
    return {name.removeprefix(f"{stage}/"): float(value) for name, value in metrics.items()}


def table(content: Mapping[str, Any]) -> Table:
    """Metrics of the columns ``base`` (where it was evaluated) and ``trained``."""
    columns = [name for name in ("base", "trained") if content.get(name)]
    drawn = Table(title=f"{content['split']} split, {content['images']} images", title_justify="left")
    drawn.add_column("metric")
    for name in columns:
        drawn.add_column(content.get("labels", {}).get(name, name), justify="right")
    for metric in content[columns[0]]:
        if metric.startswith("loss_") or "/" in metric:  # single terms and classes: in results.json
            continue
        values = [content[column].get(metric) for column in columns]
        drawn.add_row(metric, *("" if v is None else f"{v:.4f}" for v in values))
    return drawn


def show(content: Mapping[str, Any], folder: Path) -> None:
    """Print the table and where everything lies."""
    console = Console()
    if "split" in content:
        console.print(table(content))
    lines = {
        "checkpoint": content.get("checkpoint"),
        "adapter": folder / "adapter" if (folder / "adapter").is_dir() else None,
        "pictures": folder / "panels" if (folder / "panels").is_dir() else None,
        "metrics": folder / "metrics.csv" if (folder / "metrics.csv").is_file() else None,
        "results": folder / FILE,
    }
    for name, path in lines.items():
        if path:
            print(f"{name + ':':<12}{path}")
