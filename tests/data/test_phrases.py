"""Phrases of generated scenes, held against a reading of their words that is written anew here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from maskwell.data.generated import ScenesSource
from maskwell.data.phrases import VOCABULARY, Item, make_phrases
from maskwell.data.scenes import Scene, generate_scene
from maskwell.data.words import COLOURS, GROUPS, KINDS, LONG, NOUNS

Phrases = tuple[tuple[str, tuple[int, ...]], ...]

PLAIN = {
    "grey": "gray", "turquoise": "cyan", "violet": "purple", "little": "small", "tiny": "small",
    "big": "large", "spotted": "dotted", "grainy": "noisy", "smooth": "plain", "upper": "top",
    "lower": "bottom",
}  # fmt: skip
SIDES = {"left": (0, -1), "right": (0, 1), "top": (1, -1), "bottom": (1, 1)}
BEHIND = {" on the left": "left", " on the right": "right", " at the top": "top", " at the bottom": "bottom"}


@dataclass(frozen=True)
class Reading:
    """A phrase taken apart: the noun's kinds, those it might name, and plain adjectives."""

    kinds: frozenset[str]
    beside: frozenset[str]
    alone: frozenset[str]
    adjectives: tuple[str, ...]


def read(text: str) -> Reading:
    adjectives = []
    for place, side in BEHIND.items():
        if text.endswith(place):
            text, adjectives = text.removesuffix(place), [*adjectives, side]
    for place, side in BEHIND.items():  # two places, in either order
        if text.endswith(place):
            text, adjectives = text.removesuffix(place), [*adjectives, side]
    words = [(noun, w) for noun in NOUNS for w in noun.words if f" {text}".endswith(f" {w}")]
    noun, longest = max(words, key=lambda pair: len(pair[1]))
    adjectives += [PLAIN.get(word, word) for word in text.removesuffix(longest).split()]
    return Reading(noun.kinds, noun.unsure, noun.alike, tuple(adjectives))


def sure(item: Item, adjective: str) -> bool:
    if adjective in SIDES:
        axis, sign = SIDES[adjective]
        return bool(sign * (item.centre[axis] - 0.5) > 0.1)
    if adjective in ("small", "large"):
        return item.kind not in LONG and (item.diameter < 0.14, item.diameter > 0.27)[adjective == "large"]
    return item.colour == adjective or item.texture == adjective


def possible(item: Item, adjective: str) -> bool:
    if adjective in SIDES:
        axis, sign = SIDES[adjective]
        return bool(sign * (item.centre[axis] - 0.5) >= -0.1)
    if adjective in ("small", "large"):
        return item.kind in LONG or (item.diameter < 0.2, item.diameter >= 0.2)[adjective == "large"]
    if adjective in COLOURS:
        return item.colour == adjective or adjective in item.near_colours
    return item.texture in (None, adjective)


def check(text: str, objects: tuple[int, ...], items: list[Item]) -> None:
    """The phrase is true of exactly these objects and arguable of no other."""
    said = read(text)
    true = [item.kind in said.kinds and all(sure(item, a) for a in said.adjectives) for item in items]
    assert tuple(np.flatnonzero(true)) == objects, text
    kinds = said.kinds | said.beside | (frozenset() if objects else said.alone)
    for i, item in enumerate(items):
        if i not in objects and item.kind in kinds:
            assert not all(possible(item, a) for a in said.adjectives), (text, item)


def is_near(text: str, items: list[Item]) -> bool:
    """Whether a noun that is there got a wrong property, or a true property got another noun."""
    if text in ("red blood cell", "white blood cell"):  # it may be a red one of the blood cells
        return any(item.colour == text.split()[0] for item in items)
    said = read(text)
    there = [item for item in items if item.kind in said.kinds]
    if there:
        return bool(said.adjectives)
    return any(said.adjectives and all(sure(item, a) for a in said.adjectives) for item in items)


def random_items(rng: np.random.Generator) -> list[Item]:
    group = GROUPS[int(rng.integers(len(GROUPS)))]
    colours, items = list(COLOURS), []
    for _ in range(int(rng.integers(1, 9))):
        colour = colours[int(rng.integers(12))] if rng.random() < 0.8 else None
        near = frozenset(str(c) for c in rng.choice(colours, 3)) if rng.random() < 0.4 else frozenset()
        texture = ("plain", "striped", "dotted", "noisy", None)[int(rng.integers(5))]
        x, y = rng.random(2).tolist()
        kind = group[int(rng.integers(len(group)))]
        if kind in ("red blood cell", "white blood cell"):  # their colour is part of the name
            colour, near = None, frozenset({"red", "white"})
        items.append(Item(kind, float(rng.uniform(0.03, 0.5)), colour, texture, near, (x, y)))
    return items


def test_phrases_are_true_and_beyond_doubt() -> None:
    rng = np.random.default_rng(0)
    positives = negatives = 0
    for _ in range(700):
        items = random_items(rng)
        phrases = make_phrases(rng, items, 4, 0.5)
        assert 1 <= len(phrases) <= 4
        for text, objects in phrases:
            check(text, objects, items)
            positives, negatives = positives + bool(objects), negatives + (not objects)
    assert positives > 900 and negatives > 900


def test_near_negatives_are_one_word_off() -> None:
    rng = np.random.default_rng(1)
    found: dict[float, list[bool]] = {0.0: [], 0.6: [], 1.0: []}
    for share, near in found.items():
        for _ in range(300):
            items = random_items(rng)
            for text, objects in make_phrases(rng, items, 4, 1.0, near_share=share):
                assert not objects
                check(text, objects, items)
                near.append(is_near(text, items))
    assert all(found[1.0]) and len(found[1.0]) > 1000
    assert np.mean(found[0.0]) < 0.25 and 0.4 < np.mean(found[0.6]) < 0.8


def test_some_phrases_have_two_properties_and_most_have_few() -> None:
    rng = np.random.default_rng(2)
    counts = np.zeros(4)
    for _ in range(300):
        for text, objects in make_phrases(rng, random_items(rng), 4, 0.0):
            counts[len(read(text).adjectives) if objects else 3] += 1
    shares = counts / counts.sum()
    assert 0.08 < shares[2] < 0.25 and shares[0] > 0.25 and shares[1] > 0.25 and shares[3] == 0


ITEMS = [
    Item("circle", 0.1, "red", "plain", centre=(0.2, 0.5)),
    Item("circle", 0.4, "blue", "striped", centre=(0.8, 0.2)),
    Item("bar", 0.18, "red", "plain", centre=(0.5, 0.7)),
]


def said_of(items: list[Item], negative_share: float, tries: int = 1500) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for seed in range(tries):
        found.update(make_phrases(np.random.default_rng(seed), items, 4, negative_share))
    return found


def test_phrases_name_every_object_that_satisfies_them() -> None:
    expected = {
        "red object": (0, 2), "circle": (0, 1), "disc": (0, 1), "large circle": (1,), "small disc": (0,),
        "striped object": (1,), "object": (0, 1, 2), "bar": (2,), "red circle": (0,), "plain thing": (0, 2),
        "left circle": (0,), "circle on the right": (1,), "red bar at the bottom": (2,),
        "green circle": (), "star": (), "blue bar": (), "bar at the top": (),
    }  # fmt: skip
    found = said_of(ITEMS, 0.4)
    assert {text: found.get(text) for text in expected} == expected
    assert not {"small object", "left object", "upper circle"} & set(found), (
        "the bar and a circle are between"
    )


def test_arguable_negatives_are_never_said() -> None:
    said = said_of([Item("nucleus", 0.17, None, None, frozenset({"white", "gray"}), (0.45, 0.9))], 1.0)
    assert {"orange nucleus", "large cell", "cell at the top"} <= set(said) and not any(said.values())
    assert not set(said) & {
        "circle", "ellipse", "blob", "cell", "white nucleus", "small nucleus", "tiny cell", "left nucleus",
        "nucleus on the right", "striped cell",
    }  # fmt: skip


@pytest.mark.parametrize("items", [[], ITEMS])
def test_nothing_there_means_only_negatives(items: list[Item]) -> None:
    share = 1.0 if items else 0.0
    phrases = make_phrases(np.random.default_rng(0), items, 5, share)
    assert len(phrases) == 5 and all(objects == () for _, objects in phrases)


def test_where_no_positive_is_clear_all_objects_are_asked() -> None:
    items = [Item("bar", 0.2), Item("fibre", 0.2), Item("twig", 0.2)]
    for seed in range(200):
        phrases = make_phrases(np.random.default_rng(seed), items, 1, 0.0)
        assert len(phrases) == 1 and phrases[0][1]


def test_nouns_cover_every_kind() -> None:
    assert frozenset().union(*(n.kinds for n in NOUNS[:-1])) == frozenset(KINDS) == NOUNS[-1].kinds
    said = [words for noun in NOUNS for words in noun.words]
    assert len(set(said)) == len(said), "no wording stands for two nouns"


def test_the_vocabulary_is_wide_and_is_all_that_is_said() -> None:
    assert 110 <= len(VOCABULARY) == len(set(VOCABULARY))
    scenes = [one_scene(i) for i in range(250)]
    phrases = [p for s in scenes for p in s.phrases]
    words = {word for text, _ in phrases for word in text.split()}
    assert words <= set(VOCABULARY) and len(words) > 90
    assert 0.33 < np.mean([not objects for _, objects in phrases]) < 0.5
    for s in scenes:
        assert len({text for text, _ in s.phrases}) == len(s.phrases) <= 4


def one_scene(index: int) -> Scene:
    return generate_scene(3, index, size=64, min_objects=1, max_objects=6, max_crowd=40, crowd_share=0.1)


def test_kinds_sizes_and_places_are_those_of_the_masks() -> None:
    """From the pixels alone; colours and textures are left out, being known to the painter only."""
    checked = 0
    for i in range(250):
        s = one_scene(i)
        for text, objects in s.phrases:
            said = read(text)
            for row in objects:
                left, top, right, bottom = s.boxes[row] / 64
                area = s.masks[row].mean()
                kind = KINDS[s.labels[row]]
                item = Item(
                    kind, 2 * float(np.sqrt(area / np.pi)), centre=((left + right) / 2, (top + bottom) / 2)
                )
                assert kind in said.kinds
                for adjective in said.adjectives:
                    if adjective in SIDES or adjective in ("small", "large"):
                        assert sure(item, adjective)
                        checked += 1
    assert checked > 100


def test_evaluation_asks_positives_and_near_negatives() -> None:
    source = ScenesSource(64, 1, 6, epoch_size=9, num_val=60, num_test=60, num_prompts=1, generic_share=1.0)
    training = [source.read("train", i, 0, None).phrases for i in range(9)]
    assert all(p is not None and [text for text, _ in p] == ["object"] for p in training)
    for split in ("val", "test"):
        records = [source.read(split, i, 0, None) for i in range(60)]  # type: ignore[arg-type]
        asked = [record.phrases or () for record in records]
        assert 3.5 < np.mean([len(p) for p in asked]) <= 4
        assert 0.4 < np.mean([bool(objects) for p in asked for _, objects in p]) < 0.6
        for record, phrases in zip(records, asked, strict=True):
            kinds = {KINDS[label] for label in record.labels}
            for text, objects in phrases:
                if kinds and not objects:
                    assert read(text).adjectives, f"'{text}' is a far negative"
    other = ScenesSource(64, 1, 6, epoch_size=9, num_val=60, num_test=60, num_prompts=3)
    assert other.read("val", 5, 0, None).phrases == source.read("val", 5, 0, None).phrases
