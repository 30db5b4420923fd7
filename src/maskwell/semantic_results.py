"""What is written of class maps: confusion matrices, index masks with a palette, areas of classes."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from maskwell import coco_results, draw
from maskwell.metrics.segmentation import row_shares

AREA_COLUMNS = ("image", "class", "pixels", "share")


def write_confusion(
    matrix: Tensor, names: Sequence[str], folder: Path, name: str = "confusion", unit: str = "pixels"
) -> dict[str, Path]:
    """``<name>.json`` (counts, and shares of each true class) and ``<name>.png`` (the shares).

    Args:
        matrix: int64 [C, C], true class by predicted class.
        names: of the classes.
        folder: made where it is missing.
        name: of both files.
        unit: what is counted: pixels or objects.

    Returns:
        What was written, by what it is.
    """
    files = {"confusion": folder / f"{name}.json", "picture": folder / f"{name}.png"}
    shares = row_shares(matrix)
    content = {"classes": list(names), unit: matrix.tolist(), "shares": shares.round(decimals=6).tolist()}
    coco_results.write(content, files["confusion"])
    _draw_confusion(shares.numpy(), matrix.sum(1).numpy() > 0, names, files["picture"])
    return files


def _draw_confusion(
    shares: NDArray[np.float64], seen: NDArray[np.bool_], names: Sequence[str], path: Path
) -> None:
    """Shares in per cent; rows of classes that do not occur stay empty."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    side = 2.2 + 0.48 * len(names)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    image = axes.imshow(np.where(seen[:, None], shares, np.nan), cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(names))
    axes.set_xticks(ticks, names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, names)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title("share of each true class, %")
    for row, column in np.argwhere(seen[:, None] & (shares >= 0.005)).tolist():
        ink = "white" if shares[row, column] > 0.55 else "black"
        text = f"{100 * shares[row, column]:.0f}"
        axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=8)
    figure.colorbar(image, ax=axes, shrink=0.7)
    figure.savefig(path, dpi=110)


def save_index_map(classes: Tensor, path: Path) -> None:
    """An index PNG: pixel values are the classes of int64 [H, W], its palette has the overlay's colours."""
    picture = Image.fromarray(classes.numpy().astype(np.uint8))
    picture.putpalette([channel for index in range(256) for channel in draw.colour(index)])
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def areas(classes: Tensor, names: Sequence[str]) -> dict[str, int]:
    """Pixels of each class of a class map, int64 [H, W]."""
    counts = torch.bincount(classes.flatten(), minlength=len(names)).tolist()
    return dict(zip(names, counts, strict=True))


def write_areas(rows: Iterable[tuple[str, Mapping[str, int]]], path: Path) -> None:
    """A CSV with one line per image and class: pixels, and their share of the image.

    Args:
        rows: image names with the pixels of every class.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(AREA_COLUMNS)
        for image, pixels in rows:
            whole = sum(pixels.values())
            table.writerows((image, name, count, f"{count / whole:.6f}") for name, count in pixels.items())
