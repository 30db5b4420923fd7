"""Keeps the record of the small base's pretraining: loss curves, health and cost of its stages.

python -m benchmarks.pretrain_record runs/pretrain/1 runs/pretrain/2 runs/pretrain/3
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import harness

POINTS = 40
"""Points of a stage's curve; each is the mean of the steps since the one before."""
TERMS = ("loss_box", "loss_giou", "loss_cls", "loss_presence", "loss_dice", "loss_semantic_dice")


def stage(folder: Path) -> dict[str, Any]:
    """Experiment and overrides, steps, minutes, health, curve and last validation of one run."""
    record = json.loads((folder / "record.json").read_text())
    health = json.loads((folder / "health.json").read_text())
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    overrides = (folder / "overrides.txt").read_text().splitlines()
    training = [row for row in rows if row.get("train/batch_loss")]
    validated = [row for row in rows if row.get("val/map_50")]
    return {
        "overrides": [line.replace(f"{harness.ROOT}/", "") for line in overrides],
        "steps": int(training[-1]["step"]) + 1,
        "minutes": sum(session["minutes"] for session in record["sessions"]),
        "sessions": len(record["sessions"]),
        "health": {"verdict": health["verdict"], "incidents": health["incidents"]},
        "curve": curve(training, TERMS),
        "validation": {
            name: [float(row[f"val/{name}"]) for row in validated if row.get(f"val/{name}")]
            for name in ("map_50", "il_mcc", "pmf1")
        }
        | {"step": [int(row["step"]) for row in validated]},
    }


def curve(
    rows: Sequence[dict[str, str]], terms: Sequence[str], points: int = POINTS
) -> dict[str, list[float]]:
    """Column -> means over up to ``points`` equal stretches of the rows; ``step``: the last of each."""
    length = max(1, math.ceil(len(rows) / points))
    stretches = [rows[start : start + length] for start in range(0, len(rows), length)]
    means = {term: [_mean(stretch, f"train/{term}") for stretch in stretches] for term in terms}
    return {"step": [int(stretch[-1]["step"]) for stretch in stretches], **means}


def _mean(rows: Sequence[dict[str, str]], column: str) -> float:
    values = [float(row[column]) for row in rows if row.get(column)]
    return float(f"{sum(values) / len(values):.4g}") if values else math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders of the stages, in order")
    parser.add_argument(
        "--out", type=Path, help="JSON file to write (default: benchmarks/results/pretrain_tiny.json)"
    )
    args = parser.parse_args()
    stages = {f"stage_{number}": stage(folder) for number, folder in enumerate(args.runs, start=1)}
    path = harness.write(
        "pretrain_tiny",
        stages,
        command=harness.command_line("benchmarks.pretrain_record"),
        seeds=[0],
        minutes=sum(entry["minutes"] for entry in stages.values()),
        notes=(
            "Raw terms of the last decoder layer on training scenes, which never repeat; "
            "validation on scenes that training does not see."
        ),
        out=args.out,
    )
    print(f"Written to {path}")


if __name__ == "__main__":
    main()
