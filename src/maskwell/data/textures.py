"""Textures of generated images: smooth noise, uneven light, camera and compression damage.

Images are float32 [H, W, 3] RGB in [0, 1] until :func:`to_uint8`.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def smooth_noise(rng: np.random.Generator, height: int, width: int, cells: float) -> Floats:
    """Noise [height, width] of unit scale whose features span about 1/``cells`` of the longer side."""
    longest = max(height, width)
    rows = max(2, round(cells * height / longest) + 1)
    cols = max(2, round(cells * width / longest) + 1)
    grid = rng.standard_normal((rows, cols), np.float32)
    field = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(field, np.float32)


def light_field(rng: np.random.Generator, size: int, strength: float) -> Floats:
    """A gain [size, size] around 1: a slope, a bright spot and slow waves, up to ``strength``."""
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    angle, (x, y) = rng.uniform(0, 2 * np.pi), rng.uniform(-0.5, 0.5, 2)
    slope = np.float32(np.cos(angle)) * axis[None, :] + np.float32(np.sin(angle)) * axis[:, None]
    spot = (axis[None, :] - np.float32(x)) ** 2 + (axis[:, None] - np.float32(y)) ** 2
    waves = smooth_noise(rng, size, size, 2)
    field = 0.5 * slope - 0.35 * spot + 0.3 * waves + 0.2
    gain = 1 + np.float32(strength) * np.clip(field, -1, 1)
    return np.asarray(gain, np.float32)


def stripes(rng: np.random.Generator, height: int, width: int, period: float) -> Floats:
    """Straight bands [height, width] of 0 and 1 at a random angle, ``period`` pixels apart."""
    angle, phase = rng.uniform(0, np.pi), rng.uniform(0, period)
    x = np.arange(width, dtype=np.float32) * np.float32(np.cos(angle))
    y = np.arange(height, dtype=np.float32) * np.float32(np.sin(angle))
    return (np.mod(x[None, :] + y[:, None] + np.float32(phase), period) < period / 2).astype(np.float32)


def dots(rng: np.random.Generator, height: int, width: int, period: float) -> Floats:
    """A square lattice of dots [height, width], 0 and 1, ``period`` pixels apart."""
    phase_x, phase_y = rng.uniform(0, period, 2)
    x = np.mod(np.arange(width, dtype=np.float32) + np.float32(phase_x), period) - period / 2
    y = np.mod(np.arange(height, dtype=np.float32) + np.float32(phase_y), period) - period / 2
    return np.asarray(x[None, :] ** 2 + y[:, None] ** 2 < (0.3 * period) ** 2, np.float32)


def blend(image: Floats, rows: slice, cols: slice, alpha: Floats, colour: Floats) -> None:
    """Lay ``colour`` ([3] or [h, w, 3]) over a window of ``image`` with coverage ``alpha`` [h, w]."""
    window = image[rows, cols]
    window += alpha[..., None] * (colour - window)


def add_noise(rng: np.random.Generator, image: Floats, level: float, coloured: bool) -> Floats:
    """Gaussian noise of standard deviation ``level``, one value per pixel unless ``coloured``."""
    shape = image.shape if coloured else (*image.shape[:2], 1)
    noisy: Floats = image + np.float32(level) * rng.standard_normal(shape, np.float32)
    return noisy


def blurred(image: Floats, sigma: float) -> Floats:
    """The image out of focus by ``sigma`` pixels."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32)


def to_uint8(image: Floats) -> NDArray[np.uint8]:
    """[0, 1] floats -> uint8, clipped."""
    return np.asarray(np.clip(image * 255 + 0.5, 0, 255), np.uint8)


def jpeg_damaged(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """The image after JPEG compression at ``quality`` (1 to 100)."""
    _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
    assert decoded is not None
    return np.asarray(decoded, np.uint8)
