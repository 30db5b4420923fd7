"""Phrases for generated objects: what is said, which objects it names, and what it surely does not.

A phrase is a noun with up to two properties (colour, size, texture, position). Positives name every
object that satisfies the phrase, and none is asked where another object is only arguably meant;
negatives are drawn only where no object comes even near to the phrase.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from maskwell.data.words import (
    ADJECTIVES,
    COLOURS,
    GROUPS,
    LONG,
    NOUNS,
    OBJECT,
    PLACES,
    POSITIONS,
    SIZES,
    SYNONYMS,
    TEXTURES,
    VOCABULARY,
    Noun,
)

__all__ = ["VOCABULARY", "Item", "Query", "make_phrases"]

T = TypeVar("T")

_DETAILED = 0.15  # share of the phrases with two properties
_TRIES = 10  # for one phrase


@dataclass(frozen=True)
class Item:
    """What can be said of one object.

    ``diameter`` is that of a circle of the visible area, as a share of the image side. A colour or
    texture of None has no name; ``near_colours`` are names that would be arguable for it. ``centre``
    (x, y) is that of the box around the visible pixels, as a share of the image side.
    """

    kind: str
    diameter: float
    colour: str | None = None
    texture: str | None = None
    near_colours: frozenset[str] = frozenset()
    centre: tuple[float, float] = (0.5, 0.5)

    def has(self, adjective: str) -> bool:
        """Whether the adjective holds without doubt."""
        if adjective in SIZES:
            sure = self.diameter < 0.14 if adjective == "small" else self.diameter > 0.27
            return sure and self.kind not in LONG
        if adjective in POSITIONS:
            return self._towards(adjective) > 0.6
        return adjective in (self.colour, self.texture)

    def might_have(self, adjective: str) -> bool:
        """Whether somebody could say so."""
        if adjective in SIZES:
            return self.kind in LONG or (self.diameter < 0.2) == (adjective == "small")
        if adjective in POSITIONS:
            return self._towards(adjective) >= 0.4
        if adjective in TEXTURES:
            return self.texture is None or adjective == self.texture
        return adjective == self.colour or adjective in self.near_colours

    def _towards(self, position: str) -> float:
        """How far the object lies towards a side of the image: 0 at the other side, 1 at this one."""
        share = self.centre[0 if position in ("left", "right") else 1]
        return 1 - share if position in ("left", "top") else share


@dataclass(frozen=True)
class Query:
    """A noun with adjectives, each about another property."""

    noun: Noun
    adjectives: tuple[str, ...] = ()

    def matches(self, items: Sequence[Item]) -> tuple[int, ...]:
        """Indices of all items that satisfy the query."""
        return tuple(
            i
            for i, item in enumerate(items)
            if item.kind in self.noun.kinds and all(item.has(word) for word in self.adjectives)
        )

    def unclear(self, items: Sequence[Item]) -> bool:
        """Whether an item might be meant beside those that surely are."""
        sure = self.matches(items)
        kinds = self.noun.kinds | self.noun.unsure
        return any(self._may_mean(item, kinds) for i, item in enumerate(items) if i not in sure)

    def arguable(self, items: Sequence[Item]) -> bool:
        """Whether any item might be meant."""
        kinds = self.noun.kinds | self.noun.unsure | self.noun.alike
        return any(self._may_mean(item, kinds) for item in items)

    def _may_mean(self, item: Item, kinds: frozenset[str]) -> bool:
        return item.kind in kinds and all(item.might_have(word) for word in self.adjectives)

    def text(self, rng: np.random.Generator) -> str:
        """The query in words, with random synonyms; the plain words more often than the others."""
        words, behind = [_pick(rng, self.noun.words)], []
        # Innermost first: "left small striped red circle", or "... on the left".
        for adjective in sorted(self.adjectives, key=_rank):
            if adjective in PLACES and rng.random() < 0.5:
                behind.append(PLACES[adjective])
            else:
                words.insert(0, _pick(rng, SYNONYMS.get(adjective, (adjective,))))
        return " ".join(words + behind)


def _rank(adjective: str) -> int:
    """Colour stands next to the noun, then texture, size and position."""
    return [adjective in names for names in (COLOURS, TEXTURES, SIZES, POSITIONS)].index(True)


def _pick(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    return words[0] if rng.random() < 0.5 else words[int(rng.integers(len(words)))]


def _one(rng: np.random.Generator, choices: Sequence[T]) -> T:
    return choices[int(rng.integers(len(choices)))]


def make_phrases(
    rng: np.random.Generator,
    items: Sequence[Item],
    count: int,
    negative_share: float,
    near_share: float = 0.6,
) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Up to ``count`` different phrases with the indices of all items that each names, at least one.

    About ``negative_share`` of them name nothing; all do where there are no items. About
    ``near_share`` of those are near: one property or the noun is that of an object that is there.
    """
    found: dict[str, tuple[int, ...]] = {}
    negatives = int(count * negative_share + rng.random())
    for number in range(count):
        negative = not items or number < negatives
        for _ in range(_TRIES):
            near = bool(items) and rng.random() < near_share
            query = _negative(rng, items, near) if negative else _positive(rng, items)
            text = query.text(rng)
            if text not in found and not (query.arguable if negative else query.unclear)(items):
                found[text] = query.matches(items)
                break
    if items and not any(found.values()) and negatives < count:
        found[OBJECT.words[0]] = tuple(range(len(items)))
    shown = list(found.items())
    return tuple(shown[i] for i in rng.permutation(len(shown)))


def _properties(item: Item) -> list[str]:
    """All adjectives that hold."""
    return [name for names in ADJECTIVES for name in names if item.has(name)]


def _nouns(item: Item) -> list[Noun]:
    """The nouns that name an item, "object" the last."""
    return [noun for noun in NOUNS if item.kind in noun.kinds]


def _positive(rng: np.random.Generator, items: Sequence[Item]) -> Query:
    item = _one(rng, items)
    noun = _one(rng, _nouns(item)[:-1]) if rng.random() < 0.8 else OBJECT
    draw = rng.random()
    wanted = 2 if draw < _DETAILED else 1 if draw < 0.55 else 0
    if noun is OBJECT and draw < 0.85:  # alone it says little
        wanted = max(wanted, 1)
    return Query(noun, _distinct(rng, _properties(item), wanted))


def _distinct(rng: np.random.Generator, true: list[str], count: int) -> tuple[str, ...]:
    """Up to ``count`` adjectives about different properties."""
    chosen: dict[int, str] = {}
    for index in rng.permutation(len(true)):
        if len(chosen) < count:
            chosen.setdefault(_rank(true[index]), true[index])
    return tuple(chosen.values())


def _negative(rng: np.random.Generator, items: Sequence[Item], near: bool) -> Query:
    """A candidate; it may turn out to be arguable."""
    if not near:
        adjective = (_one(rng, _one(rng, ADJECTIVES)),) if rng.random() < 0.3 else ()
        return Query(_one(rng, NOUNS[:-1]), adjective)
    item = _one(rng, items)
    true = _properties(item)
    if true and rng.random() < 0.4:  # something true, said of a noun that is not there
        group = next(kinds for kinds in GROUPS if item.kind in kinds)
        related = [noun for noun in NOUNS[:-1] if noun.kinds & set(group)]
        noun = _one(rng, related if rng.random() < 0.6 else NOUNS[:-1])
        return Query(noun, _distinct(rng, true, 2 if rng.random() < _DETAILED else 1))
    wrong = _one(rng, _one(rng, ADJECTIVES))  # a noun that is there, with a property that is not
    also = [word for word in true if _rank(word) != _rank(wrong)] if rng.random() < _DETAILED else []
    return Query(_one(rng, _nouns(item)), (wrong, *_distinct(rng, also, 1)))
