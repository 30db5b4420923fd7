"""Outlines of generated objects and their anti-aliased rasterisation.

An outline is a list of contours, float32 [K, 2] (x, y), filled even-odd, scaled so that the
farthest point lies about 1 from the origin.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Outline = list[Floats]

_SUBPIXEL_BITS = 4
_MARGIN = 4  # free pixels around a patch, so that soft edges fade out inside it


@dataclass(frozen=True)
class Patch:
    """An object rasterised where it lies in the image.

    ``rows`` and ``cols`` index the image; ``alpha`` float32 [h, w] in [0, 1] is the coverage there;
    ``full_area`` counts the object's pixels including those outside the image.
    """

    rows: slice
    cols: slice
    alpha: Floats
    full_area: int

    @property
    def mask(self) -> NDArray[np.bool_]:
        """bool [h, w], pixels at least half covered."""
        return self.alpha >= 0.5


def rasterise(outline: Outline, centre: tuple[float, float], radius: float, size: int) -> Patch | None:
    """Draw ``outline`` at ``centre`` (x, y) in a ``size`` x ``size`` image; None if wholly outside."""
    points = [contour * radius + np.asarray(centre, np.float32) for contour in outline]
    stacked = np.concatenate(points)
    x0, y0 = (np.floor(stacked.min(0)).astype(int) - _MARGIN).tolist()
    x1, y1 = (np.ceil(stacked.max(0)).astype(int) + _MARGIN + 1).tolist()
    left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, size), min(y1, size)
    if left >= right or top >= bottom:
        return None
    canvas = np.zeros((y1 - y0, x1 - x0), np.uint8)
    fixed = [np.round((p - (x0, y0)) * 2**_SUBPIXEL_BITS).astype(np.int32) for p in points]
    cv2.fillPoly(canvas, fixed, 255, lineType=cv2.LINE_AA, shift=_SUBPIXEL_BITS)
    full_area = int(np.count_nonzero(canvas >= 128))
    alpha = canvas[top - y0 : bottom - y0, left - x0 : right - x0].astype(np.float32) / np.float32(255)
    return Patch(slice(top, bottom), slice(left, right), alpha, full_area)


def soften(patch: Patch, sigma: float) -> Floats:
    """The patch's coverage blurred by ``sigma`` pixels."""
    if sigma <= 0:
        return patch.alpha
    blurred = cv2.GaussianBlur(patch.alpha, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(blurred, np.float32)


def rotated(outline: Outline, angle: float) -> Outline:
    """The outline turned by ``angle`` radians."""
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, sin], [-sin, cos]], np.float32)
    return [contour @ turn for contour in outline]


def smooth_outline(rng: np.random.Generator, aspect: float, roughness: float, points: int = 40) -> Outline:
    """An irregular closed curve: an ellipse of ``aspect`` whose radius wavers by ``roughness``."""
    theta = np.linspace(0, 2 * np.pi, points, endpoint=False)
    waves = np.arange(2, 6)
    amplitude = rng.normal(0, roughness, 4) / np.sqrt(waves - 1)
    phase = rng.uniform(0, 2 * np.pi, 4)
    radius = 1 + (amplitude[:, None] * np.cos(waves[:, None] * theta + phase[:, None])).sum(0)
    radius = np.clip(radius, 0.45, 1.6)
    curve = np.stack([radius * np.cos(theta), radius * np.sin(theta) / aspect], 1)
    return [(curve / np.abs(curve).max()).astype(np.float32)]


def jagged_outline(rng: np.random.Generator) -> Outline:
    """An angular fragment: few corners at uneven distances."""
    corners = int(rng.integers(5, 9))
    angles = (np.arange(corners) + rng.uniform(-0.3, 0.3, corners)) * 2 * np.pi / corners
    radius = rng.uniform(0.4, 1.0, corners)
    radius[0] = 1.0
    return [np.stack([radius * np.cos(angles), radius * np.sin(angles)], 1).astype(np.float32)]


def curved_line(rng: np.random.Generator, thickness: float) -> Outline:
    """A thin bent band of half-width ``thickness``, as a fibre or a bent stick."""
    t = np.linspace(-1, 1, 14)
    bend = rng.uniform(-0.5, 0.5)
    spine = np.stack([t, bend * (t**2 - 0.5) + 0.15 * rng.normal() * t**3], 1)
    tangent = np.gradient(spine, axis=0)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], 1)
    normal *= thickness / np.linalg.norm(normal, axis=1, keepdims=True)
    return [np.concatenate([spine + normal, (spine - normal)[::-1]]).astype(np.float32)]


def _arc(radius: float, start: float, stop: float, points: int) -> Floats:
    theta = np.linspace(start, stop, points, endpoint=False)
    return np.stack([radius * np.cos(theta), radius * np.sin(theta)], 1).astype(np.float32)


def _regular(corners: int) -> Outline:
    return [_arc(1.0, np.pi / 2, 2.5 * np.pi, corners)]


def _box(aspect: float) -> Outline:
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float32) * (1, 1 / aspect)
    return [(corners / np.linalg.norm(corners[0])).astype(np.float32)]


def _ellipse(rng: np.random.Generator) -> Outline:
    return [_arc(1.0, 0, 2 * np.pi, 36) * np.array([1, 1 / rng.uniform(1.6, 2.8)], np.float32)]


def _triangle(rng: np.random.Generator) -> Outline:
    angles = np.array([0.5, 0.5 + 2 / 3, 0.5 + 4 / 3]) * np.pi + rng.uniform(-0.2, 0.2, 3)
    return [np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)]


def _star(rng: np.random.Generator) -> Outline:
    points = _arc(1.0, np.pi / 2, 2.5 * np.pi, 10)
    points[1::2] *= np.float32(rng.uniform(0.38, 0.5))
    return [points]


def _ring(rng: np.random.Generator) -> Outline:
    return [_arc(1.0, 0, 2 * np.pi, 36), _arc(rng.uniform(0.5, 0.68), 0, 2 * np.pi, 30)]


def _cross(rng: np.random.Generator) -> Outline:
    arm = rng.uniform(0.22, 0.36)
    quarter = np.array([[1, -arm], [1, arm], [arm, arm]], np.float32)
    turn = np.array([[0, 1], [-1, 0]], np.float32)
    quarters = [quarter]
    for _ in range(3):
        quarters.append(quarters[-1] @ turn)
    return [np.concatenate(quarters).astype(np.float32)]


def _crescent(rng: np.random.Generator) -> Outline:
    opening = rng.uniform(0.55, 0.8)  # half the angle, in radians, that the opening leaves free
    outer = _arc(1.0, opening, 2 * np.pi - opening, 32)
    tip = np.array([np.cos(opening), np.sin(opening)])
    shift = rng.uniform(0.4, 0.55)
    inner_radius = float(np.hypot(tip[0] - shift, tip[1]))
    start = float(np.arctan2(tip[1], tip[0] - shift))
    inner = _arc(inner_radius, 2 * np.pi - start, start, 24) + np.array([shift, 0], np.float32)
    return [np.concatenate([outer, inner]).astype(np.float32)]


def _heart(rng: np.random.Generator) -> Outline:
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return [(np.stack([16 * np.sin(t), -y - 2], 1) / 17).astype(np.float32)]


def _diamond(rng: np.random.Generator) -> Outline:
    narrow = 1 / rng.uniform(1.4, 1.9)
    return [np.array([[1, 0], [0, narrow], [-1, 0], [0, -narrow]], np.float32)]


def _arrow(rng: np.random.Generator) -> Outline:
    neck, shaft, head = rng.uniform(-0.1, 0.3), rng.uniform(0.14, 0.24), rng.uniform(0.5, 0.7)
    upper = np.array([[-1, -shaft], [neck, -shaft], [neck, -head], [1, 0]], np.float32)
    return [np.concatenate([upper, upper[2::-1] * (1, -1)]).astype(np.float32)]


def _leaf(rng: np.random.Generator) -> Outline:
    """A blade with a pointed tip and a short stalk along the x axis."""
    t = np.linspace(0, 1, 22)
    widest, width = rng.uniform(0.35, 0.6), rng.uniform(0.22, 0.5)
    power = np.log(0.5) / np.log(widest)
    half = width * np.sin(np.pi * t**power) ** rng.uniform(0.8, 1.3)
    if rng.random() < 0.4:  # a toothed edge
        half *= 1 + 0.1 * np.cos(np.pi * np.arange(22))
    half = np.maximum(half, np.where(t < 0.5, 0.035, 0.0))
    x = -0.75 + 1.75 * t + 0 * half
    bend = rng.normal(0, 0.1) * (x**2 - 0.5)
    stalk = np.array([[-1.0, bend[0] + 0.035], [-1.0, bend[0] - 0.035]])
    blade = np.concatenate([np.stack([x, bend - half], 1), np.stack([x, bend + half], 1)[::-1], stalk])
    return [blade.astype(np.float32)]


def _flower(rng: np.random.Generator) -> Outline:
    petals, depth = int(rng.integers(4, 9)), rng.uniform(0.2, 0.5)
    theta = np.linspace(0, 2 * np.pi, 12 * petals, endpoint=False)
    radius = 1 - depth * (1 - np.abs(np.cos(petals * theta / 2)) ** rng.uniform(0.5, 1.2))
    return [np.stack([radius * np.cos(theta), radius * np.sin(theta)], 1).astype(np.float32)]


def _twig(rng: np.random.Generator) -> Outline:
    """A bent stick, thicker at one end."""
    [band] = curved_line(rng, rng.uniform(0.03, 0.06))
    half = len(band) // 2
    spine = (band[:half] + band[half:][::-1]) / 2
    taper = np.linspace(1.4, 0.5, half, dtype=np.float32)[:, None]
    upper, lower = spine + taper * (band[:half] - spine), spine + taper * (band[half:][::-1] - spine)
    return [np.concatenate([upper, lower[::-1]]).astype(np.float32)]


def _rounded_box(aspect: float, corner: float) -> Outline:
    """A box whose corners are arcs of ``corner`` times its half height."""
    height, r = 1 / aspect, corner / aspect
    signs = ((1, 1), (-1, 1), (-1, -1), (1, -1))
    arcs = [
        _arc(r, k * np.pi / 2, (k + 1) * np.pi / 2, 5)
        + np.array([sx * (1 - r), sy * (height - r)], np.float32)
        for k, (sx, sy) in enumerate(signs)
    ]
    points = np.concatenate(arcs)
    return [(points / np.linalg.norm(points, axis=1).max()).astype(np.float32)]


def _building(rng: np.random.Generator) -> Outline:
    """A roof from above: a box, sometimes with a corner cut out."""
    h = 1 / rng.uniform(1.0, 2.0)
    if rng.random() < 0.55:
        return _box(1 / h)
    x, y = rng.uniform(-0.3, 0.4), rng.uniform(-0.3, 0.3) * h
    corners = np.array([[-1, -h], [1, -h], [1, y], [x, y], [x, h], [-1, h]], np.float32)
    return [(corners / np.linalg.norm(corners[0])).astype(np.float32)]


def _text_line(rng: np.random.Generator) -> Outline:
    return _box(rng.uniform(6, 14))


def _signature(rng: np.random.Generator) -> Outline:
    """The area of a handwritten name, wavering above and below."""
    t = np.linspace(-1, 1, 14)
    top, bottom = (0.14 + 0.12 * rng.random((2, 14))) * (1 - 0.5 * t**2)
    upper, lower = np.stack([t, -top * 1.2], 1), np.stack([t, bottom], 1)[::-1]
    return [np.concatenate([upper, lower]).astype(np.float32)]


def _stamp(rng: np.random.Generator) -> Outline:
    if rng.random() < 0.6:
        return [_arc(1.0, 0, 2 * np.pi, 40) * np.array([1, 1 / rng.uniform(1, 1.4)], np.float32)]
    return _box(rng.uniform(1.2, 2.5))


OUTLINES: dict[str, Callable[[np.random.Generator], Outline]] = {
    "circle": lambda rng: [_arc(1.0, 0, 2 * np.pi, 40)],
    "ellipse": _ellipse,
    "square": lambda rng: _box(1.0),
    "rectangle": lambda rng: _box(rng.uniform(1.5, 2.4)),
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "cross": _cross,
    "bar": lambda rng: _box(rng.uniform(4.5, 8.0)),
    "hexagon": lambda rng: _regular(6),
    "crescent": _crescent,
    "heart": _heart,
    "diamond": _diamond,
    "arrow": _arrow,
    "pentagon": lambda rng: _regular(5),
    "blob": lambda rng: smooth_outline(rng, rng.uniform(1.0, 1.5), 0.16),
    "nucleus": lambda rng: smooth_outline(rng, 1 + rng.gamma(1.5, 0.22), 0.045),
    "red blood cell": lambda rng: smooth_outline(rng, rng.uniform(1.0, 1.25), 0.025),
    "white blood cell": lambda rng: smooth_outline(rng, rng.uniform(1.0, 1.3), 0.08),
    "platelet": lambda rng: smooth_outline(rng, rng.uniform(1.0, 1.6), 0.08),
    "dividing cell": lambda rng: smooth_outline(rng, rng.uniform(1.15, 1.4), 0.02),
    "debris": jagged_outline,
    "fibre": lambda rng: curved_line(rng, rng.uniform(0.05, 0.1)),
    "leaf": _leaf,
    "flower": _flower,
    "fruit": lambda rng: smooth_outline(rng, rng.uniform(1.0, 1.15), 0.02),
    "twig": _twig,
    "road": lambda rng: curved_line(rng, rng.uniform(0.08, 0.18)),
    "lane marking": lambda rng: _box(rng.uniform(4.0, 7.0)),
    "car": lambda rng: _rounded_box(rng.uniform(1.7, 2.3), rng.uniform(0.3, 0.7)),
    "building": _building,
    "pole": lambda rng: _box(rng.uniform(10, 16)),
    "text line": _text_line,
    "table": lambda rng: _box(rng.uniform(1.1, 2.2)),
    "photo": lambda rng: _box(rng.uniform(1.0, 1.7)),
    "stamp": _stamp,
    "signature": _signature,
    "barcode": lambda rng: _box(rng.uniform(1.5, 2.6)),
}
"""Kind of object -> a function that draws one outline of it, unrotated."""
