"""What the data checks can find: codes, severities and a collector that counts and keeps examples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")

_MOST_EXAMPLES = 3

CODES: dict[str, tuple[Severity, str]] = {
    "json-unreadable": ("error", "annotation file that is missing, cut off or no COCO JSON; export it again"),
    "entry-malformed": ("error", "entry of the JSON without the keys that COCO asks for"),
    "id-duplicate": ("error", "id given twice; annotations can then not be told apart"),
    "categories-differ": ("error", "split whose categories have other ids or names than those of train"),
    "category-unknown": ("error", "annotation of a category id that 'categories' does not list"),
    "image-unknown": ("error", "annotation of an image id that 'images' does not list"),
    "path-outside": ("error", "file_name that leads out of the data folder"),
    "image-missing": ("error", "image that is listed but not in the folder"),
    "image-corrupt": ("error", "image that does not decode; replace it or remove its entry"),
    "image-size": (
        "error",
        "image whose size is not the one in the JSON, so that its annotations are misplaced",
    ),
    "box-format": ("error", "box in another form than COCO's [x, y, width, height] in pixels"),
    "box-invalid": ("error", "box with other than 4 numbers, one not finite, or a negative side"),
    "keypoints-invalid": ("error", "keypoints in another form than COCO's list of x, y and visibility"),
    "polygon-invalid": ("error", "polygon of under 6 numbers, an odd number of them, or one not finite"),
    "rle-size": ("error", "run-length mask of another size than its image"),
    "rle-invalid": ("error", "run-length mask that does not decode"),
    "objects-none": ("error", "nothing to train on: no image of the training split has an object"),
    "leak-exact": ("error", "image that is in two splits, so that the evaluation shows training data"),
    "leak-near": ("warning", "nearly the same image in two splits"),
    "image-duplicate": ("warning", "image that is listed twice in one split"),
    "box-zero-area": ("warning", "box without area"),
    "box-outside": ("warning", "box that reaches more than a pixel out of its image"),
    "box-duplicate": ("warning", "box given twice, or nearly so, for the same category of an image"),
    "point-outside": (
        "warning",
        "keypoint outside its image; the middle of the object's mask or box is taken, where it has one",
    ),
    "mask-empty": ("warning", "mask without a pixel"),
    "mask-missing": ("warning", "object without a mask where others have one"),
    "mask-box-disagree": ("warning", "object whose box is not the one around its mask"),
    "split-empty": ("warning", "split without objects, in which nothing can be measured"),
    "category-unused": ("warning", "category without an object in the training split"),
    "class-imbalance": (
        "warning",
        "categories of very unequal frequency; rare ones are learnt late or never",
    ),
    "point-shared": (
        "info",
        "object on the same pixel as another; a model of points can mark one of them only",
    ),
    "images-empty": ("info", "images without objects"),
    "objects-per-image": ("info", "objects per image"),
}
"""Code -> (severity, what it means)."""


@dataclass(frozen=True)
class Finding:
    """One kind of fault or fact, with how often it occurs and up to three examples."""

    code: str
    severity: Severity
    count: int
    message: str
    examples: tuple[str, ...] = ()


class Findings:
    """Collects findings by code."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._examples: dict[str, list[str]] = {}
        self._stated: dict[str, tuple[Severity, str]] = {}

    def add(self, code: str, example: str) -> None:
        """One more occurrence of ``code``."""
        self._counts[code] = self._counts.get(code, 0) + 1
        kept = self._examples.setdefault(code, [])
        if len(kept) < _MOST_EXAMPLES:
            kept.append(example)

    def state(
        self,
        code: str,
        count: int,
        message: str,
        examples: Iterable[str] = (),
        severity: Severity | None = None,
    ) -> None:
        """A fact with a message (and a severity) of its own."""
        self._counts[code] = count
        self._examples[code] = list(examples)[:_MOST_EXAMPLES]
        self._stated[code] = (severity or CODES[code][0], message)

    def has(self, code: str) -> bool:
        """Whether ``code`` was found."""
        return code in self._counts

    def result(self) -> list[Finding]:
        """All findings, errors first, in the order of :data:`CODES`."""
        found = []
        for code in CODES:
            if code in self._counts:
                severity, message = self._stated.get(code, CODES[code])
                found.append(
                    Finding(code, severity, self._counts[code], message, tuple(self._examples[code]))
                )
        return sorted(found, key=lambda f: SEVERITIES.index(f.severity))
