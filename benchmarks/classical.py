"""The classical controls: Otsu's threshold and a split at the peaks of the distance transform; LoG blobs.

As instances (:func:`segment`) or as points (:func:`distance_peaks`, :func:`blobs`). Nothing is trained.
The settings of the instances were chosen on dsb2018's validation split (``--choose`` repeats the choice);
the test split is only reported on.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from benchmarks import harness
from benchmarks.coco_map import dsb2018_truths
from maskwell.data.images import read_image
from maskwell.data.sample import Prediction
from maskwell.metrics.coco_map import CocoMap
from maskwell.ops import masks

MAX_DETS = (1, 10, 400)
Labels = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Settings:
    """All lengths in pixels.

    ``blur``: sigma of the smoothing before the threshold; ``min_area``: smaller objects are dropped;
    ``peak_blur``: sigma of the smoothing of the distance map; ``peak_distance``: half the side of
    the square in which a peak has to be the highest.
    """

    blur: float = 0.0
    min_area: int = 20
    peak_blur: float = 2.0
    peak_distance: int = 5


def segment(image: npt.NDArray[np.uint8], settings: Settings = Settings()) -> Prediction:
    """Instances of the minority phase of an image uint8 [H, W, 3], bright or dark, best score first.

    The score is the solidity of an object (its area over that of its convex hull): round, whole
    nuclei first, ragged clumps last.
    """
    foreground = threshold(contrast_channel(image), settings.blur)
    labels = split(foreground, settings.peak_blur, settings.peak_distance)
    stack, scores = _instances(labels, settings.min_area)
    order = np.argsort(-scores, kind="stable")
    rles = masks.encode(stack[order])
    return Prediction(
        (image.shape[0], image.shape[1]),
        masks.boxes(rles),
        torch.from_numpy(scores[order]).float(),
        torch.zeros(len(rles), dtype=torch.int64),
        rles,
    )


@dataclass(frozen=True)
class BlobSettings:
    """Sigmas of the Laplacian of Gaussian in pixels, and the least response, as a share of black to white.

    A disc of radius r answers most at sigma r / sqrt(2).
    """

    smallest: float = 6.0
    largest: float = 12.0
    least: float = 0.1

    @property
    def sigmas(self) -> list[float]:
        """Four of them, evenly spaced in their logarithm."""
        return np.geomspace(self.smallest, self.largest, 4).tolist()


def distance_peaks(image: npt.NDArray[np.uint8], settings: Settings = Settings()) -> torch.Tensor:
    """Centres (x, y) of the objects that :func:`segment` finds in an image [H, W, 3]: float32 [K, 2]."""
    foreground = threshold(contrast_channel(image), settings.blur)
    labels = split(foreground, settings.peak_blur, settings.peak_distance)
    areas = np.bincount(labels.ravel())
    kept = [number for number in range(1, len(areas)) if areas[number] >= settings.min_area]
    return _points(ndimage.center_of_mass(labels > 0, labels, kept))


def blobs(image: npt.NDArray[np.uint8], settings: BlobSettings = BlobSettings()) -> torch.Tensor:
    """Peaks (x, y) of the scale-normalised Laplacian of Gaussian (Lindeberg, 1998): float32 [K, 2].

    Bright or dark blobs, as Otsu's smaller class is bright or dark; of an image [H, W, 3].
    """
    grey = contrast_channel(image)
    foreground = threshold(grey, 0.0)
    bright = grey[foreground].mean() > grey[~foreground].mean() if foreground.any() else True
    signal = (grey if bright else 255 - grey).astype(np.float32) / 255
    responses = [-(sigma**2) * ndimage.gaussian_laplace(signal, sigma) for sigma in settings.sigmas]
    best = np.max(responses, axis=0)
    highest = ndimage.maximum_filter(best, size=2 * round(settings.smallest) + 1)
    peaks, count = ndimage.label((best == highest) & (best > settings.least), structure=np.ones((3, 3)))
    return _points(ndimage.center_of_mass(peaks > 0, peaks, np.arange(1, count + 1)))


def _points(centres: Sequence[tuple[float, float]]) -> torch.Tensor:
    """(row, column) of pixels -> (x, y), where the corner of the image is (0, 0)."""
    rows = np.asarray(centres, dtype=np.float32).reshape(-1, 2)
    return torch.from_numpy(rows[:, ::-1] + np.float32(0.5))


def contrast_channel(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The colour channel [H, W] in which Otsu's two classes lie furthest apart (red in stained tissue)."""
    return max((np.ascontiguousarray(image[..., c]) for c in range(3)), key=_between_class_variance)


def threshold(grey: npt.NDArray[np.uint8], blur: float) -> npt.NDArray[np.bool_]:
    """Otsu's foreground [H, W]: the smaller of the two classes, so dark nuclei on white come out too."""
    smooth = cv2.GaussianBlur(grey, (0, 0), blur) if blur else grey
    _, binary = cv2.threshold(smooth, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    foreground = binary.astype(bool)
    if foreground.mean() > 0.5:
        foreground = ~foreground
    filled: npt.NDArray[np.bool_] = ndimage.binary_fill_holes(foreground)
    return filled


def split(foreground: npt.NDArray[np.bool_], peak_blur: float, peak_distance: int) -> Labels:
    """Objects 1, 2, ... of a binary image [H, W], 0 elsewhere.

    The peaks of the distance to the edge are the centres of discs. A pixel goes to the disc of its
    connected component with the least power (squared distance to the centre less squared radius),
    so that two discs that overlap are cut along the line through their crossings.
    """
    distance = cv2.distanceTransform(foreground.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    smooth = cv2.GaussianBlur(distance, (0, 0), peak_blur) if peak_blur else distance
    highest = ndimage.maximum_filter(smooth, size=2 * peak_distance + 1)
    corners = np.ones((3, 3))
    peaks, count = ndimage.label((smooth == highest) & foreground, structure=corners)
    labels = np.zeros(foreground.shape, dtype=np.int32)
    if not count:
        return labels
    components, _ = ndimage.label(foreground, structure=corners)
    numbers = np.arange(1, count + 1)
    centre = np.array(ndimage.center_of_mass(peaks > 0, peaks, numbers))
    radius = np.asarray(ndimage.maximum(distance, peaks, numbers))
    component = np.asarray(ndimage.maximum(components, peaks, numbers))
    for number, box in enumerate(ndimage.find_objects(components), start=1):
        own = np.flatnonzero(component == number)
        if len(own):
            inside = components[box] == number
            pixels = np.argwhere(inside) + np.array([box[0].start, box[1].start])
            power = ((pixels[:, None] - centre[own]) ** 2).sum(-1) - radius[own] ** 2
            labels[box][inside] = own[power.argmin(1)] + 1
    return labels


def _between_class_variance(grey: npt.NDArray[np.uint8]) -> float:
    _, binary = cv2.threshold(grey, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    share = float(binary.mean())
    if share in (0.0, 1.0):
        return 0.0
    step = float(grey[binary == 1].mean() - grey[binary == 0].mean())
    return share * (1 - share) * step**2


def _instances(labels: Labels, min_area: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """(masks [N, H, W], scores [N]) of the labelled objects of at least ``min_area`` pixels."""
    found: list[tuple[int, float]] = []
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is not None:
            inside = labels[box] == number
            if inside.sum() >= min_area:
                found.append((number, _solidity(inside)))
    numbers = np.array([number for number, _ in found], dtype=np.int32)
    return labels == numbers[:, None, None], np.array([score for _, score in found])


def _solidity(inside: npt.NDArray[np.bool_]) -> float:
    """Area over the area of the convex hull, both counted in whole pixels, in (0, 1]."""
    hull = cv2.convexHull(np.argwhere(inside)[:, ::-1].astype(np.int32))
    canvas = cv2.fillConvexPoly(np.zeros(inside.shape, dtype=np.uint8), hull, 1)
    return float(inside.sum() / max(int(canvas.sum()), 1))


def evaluate(split_name: str, settings: Settings = Settings(), limit: int | None = None) -> dict[str, float]:
    """Mask and box figures of one dsb2018 split, whole images, ``max_dets`` [1, 10, 400].

    Raises:
        FileNotFoundError: where ``MASKWELL_DATA`` does not lead to dsb2018.
    """
    folder = harness.real_data("dsb2018")
    if folder is None:
        raise FileNotFoundError("Set MASKWELL_DATA to the folder that holds dsb2018/.")
    images = json.loads((folder / f"{split_name}.json").read_text())["images"][:limit]
    metric = CocoMap(("nucleus",), max_dets=MAX_DETS)
    for image, truth in zip(images, dsb2018_truths(folder, split_name), strict=False):
        metric.update([segment(read_image(folder / "images" / image["file_name"]), settings)], [truth])
    return {name: float(value) for name, value in metric.compute().items()}


def choose(cells: harness.Cells) -> Settings:
    """The best of a grid of settings by mask ``map_50`` on the validation split."""
    grid = [
        Settings(blur, area, peak_blur)
        for blur, area, peak_blur in itertools.product((0, 1), (20, 30, 40), (1, 2))
    ]

    def score(settings: Settings) -> float:
        return float(cells.run(asdict(settings), lambda: evaluate("val", settings))["map_50"])

    return max(grid, key=score)


def main() -> None:
    parser = harness.arguments(__doc__ or "")
    parser.add_argument("--choose", type=Path, help="search the settings on val, cell by cell, in this file")
    args = parser.parse_args()
    if harness.real_data("dsb2018") is None:
        print("Skipped: MASKWELL_DATA does not lead to a folder that holds dsb2018/.")
        return
    start = time.perf_counter()
    settings = choose(harness.Cells(args.choose)) if args.choose else Settings()
    limit = 10 if args.quick else None
    figures = {split_name: evaluate(split_name, settings, limit) for split_name in ("val", "test")}
    harness.publish(
        args,
        "classical",
        figures,
        command=harness.command_line("benchmarks.classical"),
        seeds=[],
        minutes=(time.perf_counter() - start) / 60,
        notes=f"No training; settings chosen on val: {asdict(settings)}; max_dets {list(MAX_DETS)}.",
    )


if __name__ == "__main__":
    main()
