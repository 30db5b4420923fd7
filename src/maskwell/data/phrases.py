"""Phrases for generated objects: what is said, which objects it names, and what it surely does not.

A phrase is a noun with at most one colour, size or texture before it. Positives name every object
that satisfies the phrase; negatives are drawn only where no object comes even near to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

KINDS = (
    "circle", "ellipse", "square", "rectangle", "triangle", "star", "ring", "cross", "bar", "hexagon",
    "crescent", "blob", "nucleus", "red blood cell", "white blood cell", "platelet", "fibre",
)  # fmt: skip
"""Kinds of objects; a scene's labels are indices into this."""
SHAPES = KINDS[:12]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (208, 32, 38), "orange": (240, 132, 22), "yellow": (244, 222, 48), "green": (44, 148, 56),
    "cyan": (48, 200, 208), "blue": (38, 68, 196), "purple": (124, 44, 156), "pink": (244, 142, 190),
    "brown": (116, 70, 32), "white": (242, 242, 242), "black": (22, 22, 22), "gray": (128, 128, 128),
}  # fmt: skip
"""Colour name -> sRGB."""
TEXTURES = ("plain", "striped", "dotted", "noisy")
SIZES = ("small", "large")

_SYNONYMS = {
    "gray": ("gray", "grey"), "cyan": ("cyan", "turquoise"), "purple": ("purple", "violet"),
    "small": ("small", "little", "tiny"), "large": ("large", "big"),
    "striped": ("striped",), "dotted": ("dotted", "spotted"), "noisy": ("noisy", "grainy"),
    "plain": ("plain", "smooth"),
}  # fmt: skip

T = TypeVar("T")
_ALL = frozenset(KINDS)
_CELLS = frozenset({"nucleus", "red blood cell", "white blood cell"})
_ROUNDISH = frozenset(
    {"circle", "ellipse", "blob", "nucleus", "red blood cell", "white blood cell", "platelet"}
)


@dataclass(frozen=True)
class Noun:
    """A noun, the kinds of objects it names, and the kinds for which it would be arguable."""

    words: tuple[str, ...]
    kinds: frozenset[str]
    arguable: frozenset[str] = frozenset()


NOUNS: tuple[Noun, ...] = (
    Noun(("circle", "disc", "disk", "round shape"), frozenset({"circle"}), _ROUNDISH),
    Noun(("ellipse", "oval", "oval shape"), frozenset({"ellipse"}), _ROUNDISH),
    Noun(("square", "square shape"), frozenset({"square"})),
    Noun(("rectangle", "rectangular shape"), frozenset({"rectangle"}), frozenset({"bar", "square"})),
    Noun(("triangle", "triangular shape"), frozenset({"triangle"})),
    Noun(("star", "star shape"), frozenset({"star"})),
    Noun(("ring", "donut", "hoop"), frozenset({"ring"}), frozenset({"red blood cell"})),
    Noun(("cross", "plus"), frozenset({"cross"})),
    Noun(("bar", "line", "stick", "rod"), frozenset({"bar"}), frozenset({"rectangle", "fibre"})),
    Noun(("hexagon", "hexagonal shape"), frozenset({"hexagon"})),
    Noun(("crescent", "moon"), frozenset({"crescent"})),
    Noun(("blob", "irregular blob", "irregular shape"), frozenset({"blob"}), _ROUNDISH),
    Noun(("nucleus", "cell nucleus", "nuclei"), frozenset({"nucleus"}), _ROUNDISH),
    Noun(("cell", "cells"), _CELLS, _ROUNDISH),
    Noun(("blob", "round blob"), frozenset({"nucleus", "blob"}), _ROUNDISH),
    Noun(("blood cell",), frozenset({"red blood cell", "white blood cell"}), frozenset({"platelet"})),
    Noun(("red blood cell", "erythrocyte"), frozenset({"red blood cell"})),
    Noun(("white blood cell", "leukocyte"), frozenset({"white blood cell"})),
    Noun(("platelet", "platelets"), frozenset({"platelet"})),
    Noun(("fibre", "fiber", "thread"), frozenset({"fibre"}), frozenset({"bar"})),
    Noun(("object", "thing", "item"), _ALL, _ALL),
)

VOCABULARY: tuple[str, ...] = tuple(
    sorted(
        {word for noun in NOUNS for words in noun.words for word in words.split()}
        | {word for name in (*COLOURS, *SIZES, *TEXTURES) for word in _SYNONYMS.get(name, (name,))}
    )
)
"""Every word that a phrase can use."""


@dataclass(frozen=True)
class Item:
    """What can be said of one object.

    ``diameter`` is that of a circle of the visible area, as a share of the image side. A colour or
    texture of None has no name; ``near_colours`` are names that would be arguable for it.
    """

    kind: str
    diameter: float
    colour: str | None = None
    texture: str | None = None
    near_colours: frozenset[str] = frozenset()

    def has(self, adjective: str) -> bool:
        """Whether the adjective holds without doubt."""
        if adjective == "small":
            return self.diameter < 0.14
        if adjective == "large":
            return self.diameter > 0.27
        return adjective in (self.colour, self.texture)

    def might_have(self, adjective: str) -> bool:
        """Whether somebody could say so."""
        if adjective == "small":
            return self.diameter < 0.2
        if adjective == "large":
            return self.diameter > 0.2
        if adjective in TEXTURES:
            return self.texture is None or adjective == self.texture
        return adjective == self.colour or adjective in self.near_colours


@dataclass(frozen=True)
class Query:
    """A noun with at most one adjective."""

    noun: Noun
    adjective: str | None = None

    def matches(self, items: Sequence[Item]) -> tuple[int, ...]:
        """Indices of all items that satisfy the query."""
        return tuple(
            i
            for i, item in enumerate(items)
            if item.kind in self.noun.kinds and (self.adjective is None or item.has(self.adjective))
        )

    def arguable(self, items: Sequence[Item]) -> bool:
        """Whether any item might be meant."""
        return any(
            item.kind in self.noun.kinds | self.noun.arguable
            and (self.adjective is None or item.might_have(self.adjective))
            for item in items
        )

    def text(self, rng: np.random.Generator) -> str:
        """The query in words, with a random synonym; the plain word more often than the others."""
        words = _pick(rng, self.noun.words)
        if self.adjective is None:
            return words
        return f"{_pick(rng, _SYNONYMS.get(self.adjective, (self.adjective,)))} {words}"


def _pick(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    return words[0] if rng.random() < 0.5 else words[int(rng.integers(len(words)))]


def _one(rng: np.random.Generator, choices: Sequence[T]) -> T:
    return choices[int(rng.integers(len(choices)))]


def make_phrases(
    rng: np.random.Generator, items: Sequence[Item], count: int, negative_share: float
) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Up to ``count`` different phrases with the indices of all items that each names.

    About ``negative_share`` of them name nothing; all do where there are no items.
    """
    found: dict[str, tuple[int, ...]] = {}
    for _ in range(4 * count):
        if len(found) == count:
            break
        negative = not items or rng.random() < negative_share
        query = _negative(rng, items) if negative else _positive(rng, items)
        if query is not None:
            found.setdefault(query.text(rng), query.matches(items))
    return tuple(found.items())


def _positive(rng: np.random.Generator, items: Sequence[Item]) -> Query:
    item = _one(rng, items)
    nouns = [noun for noun in NOUNS if item.kind in noun.kinds]
    noun = _one(rng, nouns[:-1]) if rng.random() < 0.8 else nouns[-1]
    true = [name for name in (item.colour, item.texture, *SIZES) if name is not None and item.has(name)]
    # "object" alone says little, so it mostly comes with an adjective.
    wanted = rng.random() < (0.85 if noun is nouns[-1] else 0.5)
    return Query(noun, _one(rng, true) if true and wanted else None)


def _negative(rng: np.random.Generator, items: Sequence[Item]) -> Query | None:
    adjectives = (*COLOURS, *SIZES, *TEXTURES)
    for _ in range(8):
        way = rng.random()
        if items and way < 0.5:  # near: a noun that is there, with a property that none of its objects has
            item = _one(rng, items)
            query = Query(_one(rng, [n for n in NOUNS if item.kind in n.kinds]), _one(rng, adjectives))
        elif way < 0.85:  # a noun that is not there
            query = Query(_one(rng, NOUNS[:-1]))
        else:  # both at random
            query = Query(_one(rng, NOUNS), _one(rng, adjectives))
        if not query.arguable(items):
            return query
    return None
