"""The words of generated scenes: kinds of objects, the nouns that name them, and what can be said of them."""

from __future__ import annotations

from dataclasses import dataclass

SHAPES = (
    "circle", "ellipse", "square", "rectangle", "triangle", "star", "ring", "cross", "bar", "hexagon",
    "crescent", "blob", "heart", "diamond", "arrow", "pentagon",
)  # fmt: skip
CELLS = ("nucleus", "red blood cell", "white blood cell", "platelet", "fibre")
PLANTS = ("leaf", "flower", "fruit", "twig")
STREET = ("road", "lane marking", "car", "building", "pole")
PAPER = ("text line", "table", "photo", "stamp", "signature", "barcode")

GROUPS = (SHAPES, CELLS, PLANTS, STREET, PAPER)
"""Kinds that occur together in images."""
KINDS = tuple(kind for group in GROUPS for kind in group)
"""Kinds of objects; a scene's labels are indices into this."""

LONG = frozenset({"road", "lane marking", "pole", "twig", "fibre", "text line", "signature"})
"""Kinds so long and thin that nobody can say whether they are small or large."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (208, 32, 38), "orange": (240, 132, 22), "yellow": (244, 222, 48), "green": (44, 148, 56),
    "cyan": (48, 200, 208), "blue": (38, 68, 196), "purple": (124, 44, 156), "pink": (244, 142, 190),
    "brown": (116, 70, 32), "white": (242, 242, 242), "black": (22, 22, 22), "gray": (128, 128, 128),
}  # fmt: skip
"""Colour name -> sRGB."""
TEXTURES = ("plain", "striped", "dotted", "noisy")
SIZES = ("small", "large")
POSITIONS = ("left", "right", "top", "bottom")
ADJECTIVES = (tuple(COLOURS), SIZES, TEXTURES, POSITIONS)
"""What can be said of an object, by the property that it is about."""

SYNONYMS = {
    "gray": ("gray", "grey"), "cyan": ("cyan", "turquoise"), "purple": ("purple", "violet"),
    "small": ("small", "little", "tiny"), "large": ("large", "big"),
    "dotted": ("dotted", "spotted"), "noisy": ("noisy", "grainy"), "plain": ("plain", "smooth"),
    "top": ("top", "upper"), "bottom": ("bottom", "lower"),
}  # fmt: skip
"""Adjective -> the words for it, the plain one first; others are their own only word."""
PLACES = {
    "left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom",
}  # fmt: skip
"""Position -> its wording behind a noun."""

_ROUND_CELLS = frozenset({"nucleus", "red blood cell", "white blood cell", "platelet"})
_ROUNDISH = _ROUND_CELLS | {"circle", "ellipse", "blob", "fruit", "flower", "stamp"}
_BOXES = frozenset({"square", "rectangle", "bar", "lane marking", "car", "building", "pole"} | {*PAPER})
_LINES = LONG | {"bar", "rectangle"}


@dataclass(frozen=True)
class Noun:
    """A noun and what it names.

    Args:
        words: ways to say it, the plain one first.
        kinds: kinds that it names without doubt.
        alike: kinds that it might be said of where nothing better is there, so that it is no fair
            negative for them; beside an object that it surely names they are not meant.
        unsure: kinds for which it stays open whether they are meant.
    """

    words: tuple[str, ...]
    kinds: frozenset[str]
    alike: frozenset[str] = frozenset()
    unsure: frozenset[str] = frozenset()


def _noun(words: str, kinds: str, alike: frozenset[str] = frozenset(), unsure: str = "") -> Noun:
    """The noun of comma-separated words and kinds."""
    split = [tuple(part.strip() for part in text.split(",") if part) for text in (words, kinds, unsure)]
    return Noun(split[0], frozenset(split[1]), alike, frozenset(split[2]))


OBJECT = Noun(("object", "thing", "item"), frozenset(KINDS))
"""The noun for everything."""

NOUNS: tuple[Noun, ...] = (
    _noun("circle, disc, disk, round shape", "circle", _ROUNDISH),
    _noun("ellipse, oval, oval shape", "ellipse", _ROUNDISH | {"leaf"}),
    _noun("square, square shape", "square", _BOXES | {"diamond"}),
    _noun("rectangle, rectangular shape", "rectangle", _BOXES, "bar"),
    _noun("triangle, triangular shape", "triangle", frozenset({"arrow"})),
    _noun("star, star shape", "star", frozenset({"flower"})),
    _noun("ring, donut, hoop", "ring", frozenset({"red blood cell", "stamp"})),
    _noun("cross, plus", "cross", frozenset({"star"})),
    _noun("bar, stick, rod", "bar", _LINES | {"arrow"}),
    _noun("hexagon, hexagonal shape", "hexagon", frozenset({"pentagon"})),
    _noun("pentagon, pentagonal shape", "pentagon", frozenset({"hexagon"})),
    _noun("crescent, moon", "crescent", frozenset({"ring"})),
    _noun("heart, heart shape", "heart", frozenset({"leaf"})),
    _noun("diamond, rhombus", "diamond", frozenset({"square"})),
    _noun("arrow, pointer", "arrow", frozenset({"triangle"})),
    _noun("line", "bar, text line", _LINES | {"arrow", "table", "barcode"}, "lane marking, fibre, twig"),
    _noun("blob", "blob, nucleus", _ROUNDISH),
    _noun("irregular shape", "blob", _ROUNDISH | {"leaf", "signature"}),
    _noun("nucleus, cell nucleus, nuclei", "nucleus", _ROUNDISH),
    _noun("cell, cells", "nucleus, red blood cell, white blood cell", _ROUNDISH, "platelet"),
    _noun("blood cell, blood cells", "red blood cell, white blood cell", _ROUND_CELLS, "platelet"),
    _noun("red blood cell, erythrocyte", "red blood cell"),
    _noun("white blood cell, leukocyte", "white blood cell", frozenset({"nucleus"})),
    _noun("platelet, platelets, thrombocyte", "platelet"),
    _noun("fibre, fiber, thread", "fibre", LONG | {"bar"}),
    _noun("leaf, leaves, foliage", "leaf", frozenset({"heart"})),
    _noun("flower, blossom, bloom", "flower", frozenset({"star"})),
    _noun("fruit, berry", "fruit", frozenset({"circle"})),
    _noun("twig, branch, stem", "twig", LONG | {"bar"}),
    _noun("plant, vegetation", "leaf, flower, twig", frozenset(), "fruit"),
    _noun("road, street, lane", "road", frozenset({"bar"}), "lane marking"),
    _noun("lane marking, road marking, marking", "lane marking", frozenset({"bar", "rectangle"})),
    _noun("car, vehicle, automobile", "car"),
    _noun("building, house, roof", "building"),
    _noun("pole, post, street lamp", "pole", frozenset({"bar"})),
    _noun("text line, line of text, text, writing", "text line", frozenset(), "signature"),
    _noun("table, grid", "table"),
    _noun("photo, picture, photograph", "photo"),
    _noun("stamp, seal", "stamp"),
    _noun("signature, handwriting, autograph", "signature"),
    _noun("barcode, bar code", "barcode"),
    OBJECT,
)  # fmt: skip

VOCABULARY: tuple[str, ...] = tuple(
    sorted(
        {word for noun in NOUNS for words in noun.words for word in words.split()}
        | {word for names in ADJECTIVES for name in names for word in SYNONYMS.get(name, (name,))}
        | {word for place in PLACES.values() for word in place.split()}
    )
)
"""Every word that a phrase can use."""
