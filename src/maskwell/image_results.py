"""What is written of an evaluation image by image: a table sorted by error, and curves over thresholds."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from maskwell.data.sample import Prediction, Prompt, Truth
from maskwell.metrics.prompted import asked
from maskwell.metrics.quality import Quality, quality
from maskwell.metrics.thresholds import ALL, ConfidenceCurve, DetectionCurve, PointCurve, Row

COLUMNS = ("image", "error", "measure", "objects", "found", "count_error")
THRESHOLD = 0.3
"""Score from which a detection counts for a model that has chosen no threshold itself."""

Curve = DetectionCurve | PointCurve | ConfidenceCurve


class ImageResults:
    """Collects images one by one.

    Args:
        categories: names by label.
        threshold: score from which a detection counts in the table; None for :data:`THRESHOLD`.
    """

    def __init__(self, categories: Sequence[str], threshold: float | None = None) -> None:
        self.categories = tuple(categories)
        self.threshold = THRESHOLD if threshold is None else threshold
        self.images: list[tuple[str, Quality]] = []
        self.curve: Curve | None = None

    def add(self, name: str, prediction: Prediction, truth: Truth, prompts: Sequence[Prompt] = ()) -> None:
        """Add one image, in the window frame."""
        parts = asked(prediction, truth, prompts)
        self.images.append((name, mean_quality([quality(*part, self.threshold) for part in parts])))
        if self.curve is None:
            self.curve = _curve(prediction, self.categories)
        for part in parts:
            self.curve.update(*part)

    def write(self, folder: Path) -> dict[str, Path]:
        """``images.csv``, ``curves.csv`` and ``curves.png``; what was written, by what it is."""
        files = {"images": folder / "images.csv"}
        write_images(self.images, files["images"])
        rows = [] if self.curve is None else self.curve.rows()
        if self.curve is not None and rows:
            files |= {"curves": folder / "curves.csv", "curves picture": folder / "curves.png"}
            _write(self.curve.columns, [list(row.values()) for row in rows], files["curves"])
            _draw(rows, files["curves picture"])
        return files


def mean_quality(parts: Sequence[Quality]) -> Quality:
    """Of one image whose phrases were scored one by one."""
    if not parts:
        return Quality(1.0, "pq", 0, 0)
    score = sum(part.score for part in parts) / len(parts)
    objects, found = sum(part.objects for part in parts), sum(part.found for part in parts)
    return Quality(score, parts[0].name, objects, found)


def write_images(images: Sequence[tuple[str, Quality]], path: Path) -> None:
    """The images, the largest error (1 - score) first."""
    ordered = sorted(images, key=lambda image: (image[1].score, image[0]))
    rows = [
        (name, 1 - of.score, of.name, of.objects, of.found, abs(of.found - of.objects))
        for name, of in ordered
    ]
    _write(COLUMNS, rows, path)


def _curve(prediction: Prediction, categories: Sequence[str]) -> Curve:
    if prediction.semantic is not None:
        return ConfidenceCurve()
    return PointCurve() if prediction.points is not None else DetectionCurve(categories)


def _write(columns: Sequence[str], rows: Sequence[Sequence[object]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(columns)
        table.writerows(
            [f"{value:.5g}" if isinstance(value, float) else value for value in row] for row in rows
        )


def _draw(rows: Sequence[Row], path: Path) -> None:
    """Figures of all categories against the threshold; beside it F1 of the single categories."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    categories = [name for name in dict.fromkeys(str(row["category"]) for row in rows) if name != ALL]
    shown = categories if 1 < len(categories) <= 12 else []
    figure = Figure(figsize=(10 if shown else 5.4, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2 if shown else 1, squeeze=False)[0]
    measures = [name for name in rows[0] if name not in ("category", "threshold")]
    for name in measures:
        axes[0].plot(*_points(rows, ALL, name), label=name)
    axes[0].set_title("all categories" if shown else "")
    for category in shown:
        axes[1].plot(*_points(rows, category, "f1"), label=category)
    for one, title in zip(axes[1:], ["F1 by category"], strict=False):
        one.set_title(title)
    for one in axes:
        one.set_xlabel("threshold")
        one.set_xlim(0, 1)
        one.set_ylim(0, 1.02)
        one.grid(alpha=0.3)
        one.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _points(
    rows: Sequence[Mapping[str, str | float]], category: str, measure: str
) -> tuple[list[float], ...]:
    chosen = [row for row in rows if row["category"] == category]
    return [float(row["threshold"]) for row in chosen], [float(row[measure]) for row in chosen]
