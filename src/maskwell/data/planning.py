"""What a generated scene holds, before it is placed and painted: a list of wanted objects per style."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from maskwell.data.phrases import Item
from maskwell.data.placing import Wanted
from maskwell.data.words import COLOURS, SHAPES

Floats = NDArray[np.float32]
Limits = tuple[float, float]

_NEAR_PAINTS: dict[str | None, frozenset[str]] = {
    "gray": frozenset({"white", "black"}), "white": frozenset({"gray"}), "black": frozenset({"gray", "blue"}),
    "brown": frozenset({"orange", "red", "black"}), "orange": frozenset({"red", "yellow", "brown"}),
    "red": frozenset({"orange", "brown", "pink"}), "pink": frozenset({"red", "purple"}),
    "purple": frozenset({"blue", "pink", "black"}), "blue": frozenset({"purple", "cyan"}),
    "yellow": frozenset({"orange"}), "green": frozenset({"cyan"}),
}  # fmt: skip
"""Colour of a thing in the open -> the names that its light and shade make arguable."""
_LIKE_BROWN = frozenset({"brown", "black", "gray", "orange", "red", "yellow"})
_PALE = frozenset({"white", "gray", "yellow", "black"})


def plan_objects(
    rng: np.random.Generator, style: str, size: int, count: int, smallest: float, crowd: bool
) -> list[Wanted]:
    """``count`` objects for a scene, the lowest first; a crowd is of one or two kinds.

    Args:
        size: side of the image in pixels; ``smallest``: diameter in pixels of the smallest objects,
            less where so many would not fit.
    """
    if count == 0:
        return []
    largest = size * min(0.6, 1.1 / np.sqrt(count))
    limits = (min(smallest, 0.6 * largest) if crowd else smallest, 0.85 * largest if crowd else largest)
    return _PLANS[style](rng, size, count, limits, crowd)


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(max(high, low * 1.01)))))


def _choice(rng: np.random.Generator, shares: dict[str, float]) -> str:
    """A name by its share; the shares sum to 1."""
    draw = rng.random()
    for name, share in shares.items():
        draw -= share
        if draw < 0:
            return name
    return next(reversed(shares))


def _one_of(rng: np.random.Generator, names: tuple[str, ...]) -> str:
    return names[int(rng.integers(len(names)))]


def _plan_shapes(
    rng: np.random.Generator, size: int, count: int, limits: Limits, crowd: bool
) -> list[Wanted]:
    kinds: tuple[str, ...] = SHAPES
    if crowd:
        kinds = tuple(_one_of(rng, SHAPES) for _ in range(int(rng.integers(1, 3))))
    return [_plan_shape(rng, _one_of(rng, kinds), limits, near=0.2) for _ in range(count)]


def _plan_shape(rng: np.random.Generator, kind: str, limits: Limits, near: float) -> Wanted:
    colour = _one_of(rng, tuple(COLOURS))
    # Thin shapes need length, or nothing of them is left to see.
    stretch = {"bar": 2.2, "ring": 1.6, "crescent": 1.6, "cross": 1.5, "star": 1.4, "arrow": 1.6}.get(
        kind, 1.0
    )
    diameter = _log_uniform(rng, limits[0] * stretch, limits[1])
    texture = "plain"
    if diameter > 14 and kind not in ("bar", "arrow") and rng.random() < 0.4:
        texture = _one_of(rng, ("striped", "dotted", "noisy"))
    return Wanted(Item(kind, 0.0, colour, texture), diameter / 2, near, overlap=1.0)


def _plan_nuclei(style: str) -> Callable[[np.random.Generator, int, int, Limits, bool], list[Wanted]]:
    """Nuclei of one image resemble each other: one base size, one chance of clusters."""
    colour = "purple" if style == "stained" else None
    near_colours = frozenset({"white", "gray", "black", "green", "blue", "cyan"})
    if style == "stained":
        near_colours = frozenset({"purple", "blue", "pink", "red", "brown"})

    def plan(rng: np.random.Generator, size: int, count: int, limits: Limits, crowd: bool) -> list[Wanted]:
        smallest, largest = limits
        base = _log_uniform(rng, smallest, min(largest, 0.4 * size)) / 2
        near, spread = float(rng.choice([0.0, 0.3, 0.7])), rng.uniform(0.08, 0.35)
        with_fibres = not crowd and rng.random() < 0.12
        wanted = []
        for _ in range(count):
            radius = base * float(np.exp(rng.normal(0, spread)))
            if with_fibres and rng.random() < 0.3:
                item = Item("fibre", 0.0, None, None, near_colours)
                wanted.append(Wanted(item, float(np.clip(2.5 * radius, 10.0, 0.3 * size)), near))
            else:
                item = Item("nucleus", 0.0, colour, None, near_colours)
                wanted.append(Wanted(item, float(np.clip(radius, smallest / 2, 0.3 * size)), near))
        return wanted

    return plan


def _plan_smear(rng: np.random.Generator, size: int, count: int, limits: Limits, crowd: bool) -> list[Wanted]:
    """Mostly red cells, a fifth of the image wide where there is room; one or two white cells."""
    near_colours = frozenset({"purple", "blue", "pink", "red", "brown", "orange", "white", "gray", "black"})
    base = max(limits[0], size * min(rng.uniform(0.14, 0.3), 0.9 / np.sqrt(count))) / 2
    near = float(rng.choice([0.1, 0.4, 0.7]))
    kinds = ["red blood cell"] * count
    if not crowd:
        draws = rng.random(count)
        kinds = [
            "white blood cell" if d < 0.13 else "platelet" if d < 0.26 else "red blood cell" for d in draws
        ]
    wanted = []
    for kind in sorted(kinds, key=lambda k: k == "platelet"):  # the smallest on top
        scale = {"red blood cell": 1.0, "white blood cell": rng.uniform(1.2, 1.8), "platelet": 0.36}[kind]
        radius = base * scale * float(np.exp(rng.normal(0, 0.1)))
        radius = float(np.clip(radius, limits[0] / 2 if kind != "platelet" else 2.5, 0.3 * size))
        item = Item(kind, 0.0, None, None, near_colours)
        wanted.append(Wanted(item, radius, near if kind != "platelet" else 0.0, overlap=0.35))
    return wanted


def _plan_leaves(
    rng: np.random.Generator, size: int, count: int, limits: Limits, crowd: bool
) -> list[Wanted]:
    shares = {"leaf": 0.5, "flower": 0.2, "fruit": 0.2, "twig": 0.1}
    only = _choice(rng, shares) if crowd else None
    colours = {
        "leaf": {"green": 0.55, "yellow": 0.16, "brown": 0.14, "red": 0.1, "orange": 0.05},
        "flower": {"white": 0.2, "yellow": 0.2, "pink": 0.2, "red": 0.15, "purple": 0.15, "blue": 0.1},
        "fruit": {"red": 0.4, "orange": 0.18, "yellow": 0.12, "green": 0.12, "purple": 0.1, "black": 0.08},
    }
    favourite = _choice(rng, colours["leaf"])
    wanted = []
    for _ in range(count):
        kind = only or _choice(rng, shares)
        stretch = {"leaf": 1.6, "twig": 2.5}.get(kind, 1.0)
        diameter = _log_uniform(rng, limits[0] * stretch, limits[1] * (1.2 if kind == "leaf" else 1.0))
        colour = None if kind == "twig" else _choice(rng, colours[kind])
        if kind == "leaf" and rng.random() < 0.5:  # leaves of one tree
            colour = favourite
        item = Item(kind, 0.0, colour, None, _LIKE_BROWN if kind == "twig" else _NEAR_PAINTS[colour])
        wanted.append(Wanted(item, diameter / 2, near=0.3, overlap=0.5))
    return wanted


_PAINTS = ("white", "black", "gray", "red", "blue", "green", "yellow")
_ROOFS = {"red": 0.2, "gray": 0.25, "brown": 0.2, "white": 0.2, "orange": 0.1, "blue": 0.05}


def _painted(kind: str, colour: str) -> Item:
    return Item(kind, 0.0, colour, None, _NEAR_PAINTS[colour])


def _plan_road(rng: np.random.Generator, size: int, count: int, limits: Limits, crowd: bool) -> list[Wanted]:
    """A road across the image, cars and markings on it, roofs and poles beside it."""
    angle, middle = rng.uniform(0, 2 * np.pi), size * rng.uniform(0.3, 0.7, 2)
    way, normal = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    length = size * rng.uniform(0.75, 0.95)
    half = 0.13 * length  # about half of the road's width
    ground = Item("road", 0.0, None, None, frozenset({"gray", "black", "white", "brown"}))
    wanted = [
        Wanted(ground, length, angle=float(angle), area=np.stack([middle, 0 * way, 0 * way]), ground=True)
    ]
    shares = {"car": 0.5, "building": 0.3, "lane marking": 0.14, "pole": 0.06}
    if crowd:
        shares = {"car": 0.8, "building": 0.2} if rng.random() < 0.5 else {"building": 0.9, "car": 0.1}
    on_road = np.stack([middle, 0.55 * size * way, 0.6 * half * normal])
    car = float(np.clip(_log_uniform(rng, 1.2 * limits[0], limits[1]), 8.0, 1.3 * half))
    for _ in range(count - 1):
        kind = _choice(rng, shares)
        if kind == "car":
            item = _painted("car", _one_of(rng, _PAINTS))
            parked = rng.random() < 0.2 or (crowd and rng.random() < 0.6)
            turn = float(rng.uniform(0, 2 * np.pi)) if parked else angle + np.pi * int(rng.integers(2))
            radius = 0.5 * car * float(np.exp(rng.normal(0, 0.08)))
            wanted.append(Wanted(item, radius, 0.0, 0.0, float(turn), None if parked else on_road))
        elif kind == "lane marking":
            item = _painted("lane marking", "white" if rng.random() < 0.75 else "yellow")
            lane = np.stack([middle, 0.55 * size * way, 0.05 * half * normal])
            radius = float(np.clip(_log_uniform(rng, 8.0, 0.14 * size), 6.0, 0.15 * size)) / 1.2
            wanted.append(Wanted(item, radius, 0.0, 0.0, float(angle), lane))
        elif kind == "building":
            item = _painted("building", _choice(rng, _ROOFS))
            radius = 0.5 * _log_uniform(rng, 1.5 * limits[0], limits[1])
            side = (1 if rng.random() < 0.5 else -1) * (1.2 * half + radius + 0.3 * size)
            beside = np.stack([middle + side * normal, 0.6 * size * way, 0.3 * size * normal])
            wanted.append(Wanted(item, radius, 0.0, 0.0, float(angle), beside))
        else:
            item = Item("pole", 0.0, None, None, frozenset({"gray", "black", "white", "brown"}))
            wanted.append(Wanted(item, _log_uniform(rng, 12.0, 0.2 * size), 0.0, 0.3))
    return wanted


def _plan_document(
    rng: np.random.Generator, size: int, count: int, limits: Limits, crowd: bool
) -> list[Wanted]:
    """Lines of text, left-aligned, around tables and photographs; ink of hands and stamps above."""
    tilt = float(rng.normal(0, 0.04))
    shares = {
        "text line": 0.52,
        "table": 0.1,
        "photo": 0.12,
        "stamp": 0.11,
        "signature": 0.1,
        "barcode": 0.05,
    }
    if crowd:
        shares = {"text line": 0.95, "stamp": 0.05}
    kinds = [_choice(rng, shares) for _ in range(count)]
    order = {"photo": 0, "table": 0, "barcode": 1, "text line": 2, "signature": 3, "stamp": 4}
    left, column = size * rng.uniform(0.04, 0.2), size * rng.uniform(0.3, 0.6)
    if crowd:
        column = 1.6 * limits[1]
    wanted = []
    for kind in sorted(kinds, key=lambda k: order[k]):
        diameter = _log_uniform(rng, limits[0] * 1.5, limits[1])
        item, overlap, area = Item(kind, 0.0, None, None, _PALE), 0.0, None
        if kind == "text line":
            diameter = max(3.5 * limits[0], column * (1.0 if rng.random() < 0.6 else rng.uniform(0.5, 1)))
            if not crowd:
                x = left + diameter / 2
                area = np.array([[x, size / 2], [0.01 * size, 0.0], [0.0, 0.47 * size]], np.float32)
        elif kind == "photo":
            item = Item(kind, 0.0, None, None, frozenset(COLOURS))
        elif kind == "stamp":
            item, overlap = Item(kind, 0.0, _one_of(rng, ("red", "blue", "purple", "green"))), 0.7
        elif kind == "signature":
            blue = rng.random() < 0.5
            item = Item(kind, 0.0, "blue" if blue else "black", None, frozenset({"black", "blue", "gray"}))
            diameter, overlap = max(20.0, 1.4 * diameter), 0.2
        turn = float(rng.normal(0, 0.3)) if kind in ("stamp", "signature") else tilt
        wanted.append(Wanted(item, diameter / 2, 0.0, overlap, turn, area))
    return wanted


_PLANS: dict[str, Callable[[np.random.Generator, int, int, Limits, bool], list[Wanted]]] = {
    "shapes": _plan_shapes,
    "fluorescence": _plan_nuclei("fluorescence"),
    "stained": _plan_nuclei("stained"),
    "bright field": _plan_nuclei("bright field"),
    "smear": _plan_smear,
    "leaves": _plan_leaves,
    "road": _plan_road,
    "document": _plan_document,
}
