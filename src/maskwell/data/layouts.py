"""Where a COCO dataset folder keeps its annotation files and its images."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from maskwell.data.source import SPLITS, Split
from maskwell.errors import UserError

_SPLIT_WORDS: dict[str, Split] = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
_ROBOFLOW = "_annotations.coco.json"


@dataclass(frozen=True)
class Layout:
    """Annotation files of a dataset: one per split, or one that has to be split, under None."""

    root: Path
    files: Mapping[Split | None, Path]
    images: Path | None = None

    def image_folders(self, file: Path) -> list[Path]:
        """Folders in which the images of ``file`` may lie, the likeliest first."""
        if self.images is not None:
            return [self.images]
        stem = re.sub(r"^instances_", "", file.stem)
        bases = [self.root / "images", self.root, file.parent / "images", file.parent]
        return list(
            dict.fromkeys([self.root / "images" / stem, self.root / stem, file.parent / stem, *bases])
        )


def find_layout(
    root: str | Path,
    *,
    images: str | None = None,
    train: str | None = None,
    val: str | None = None,
    test: str | None = None,
) -> Layout:
    """Recognise how ``root`` is laid out; explicit paths, relative to it, win.

    Known: ``train.json`` (``val.json``, ``test.json``) beside ``images/``; Roboflow's
    ``train/_annotations.coco.json``; ``annotations/instances_<split>.json``; one JSON file, in the
    folder or in ``annotations/``, that has to be split.

    Raises:
        UserError: the folder or a named file is missing, or nothing is recognised.
    """
    base = Path(root).expanduser()
    if not base.is_dir():
        raise UserError(f"The data folder '{base}' does not exist; set data.root to a folder with COCO data.")
    image_folder = None if images is None else base / images
    if image_folder is not None and not image_folder.is_dir():
        raise UserError(f"data.images names '{image_folder}', which is no folder.")
    named: dict[Split, Path] = {
        split: base / name for split, name in zip(SPLITS, (train, val, test), strict=True) if name is not None
    }
    for split, path in named.items():
        if not path.is_file():
            raise UserError(f"data.{split} names '{path}', which does not exist.")
    if named:
        if "train" not in named and len(named) < len(SPLITS):
            raise UserError(
                f"data.{next(iter(named))} is set without data.train; name the training file too."
            )
        return _layout(base, named, image_folder)
    for found in (_by_split(base), _roboflow(base), _instances(base)):
        if found:
            return _layout(base, found, image_folder)
    return Layout(base, {None: _only_file(base)}, image_folder)


def _layout(root: Path, files: dict[Split, Path], images: Path | None) -> Layout:
    """A training file alone is one that has to be split."""
    if set(files) == {"train"}:
        return Layout(root, {None: files["train"]}, images)
    return Layout(root, {split: files[split] for split in SPLITS if split in files}, images)


def _by_split(root: Path) -> dict[Split, Path]:
    return _with_training({split: root / f"{split}.json" for split in SPLITS})


def _roboflow(root: Path) -> dict[Split, Path]:
    files = {word: root / word / _ROBOFLOW for word in _SPLIT_WORDS}
    return _with_training({_SPLIT_WORDS[word]: file for word, file in files.items() if file.is_file()})


def _instances(root: Path) -> dict[Split, Path]:
    """``instances_train.json``, ``instances_val2017.json`` and the like."""
    found: dict[Split, Path] = {}
    for path in sorted((root / "annotations").glob("instances_*.json")):
        word = re.match(r"instances_([a-z]+)", path.name.lower())
        split = _SPLIT_WORDS.get(word.group(1)) if word else None
        if split is not None and split in found:
            raise UserError(
                f"'{found[split].name}' and '{path.name}' are both files of the split {split}; choose with "
                f"data.{split}=annotations/NAME."
            )
        if split is not None:
            found[split] = path
    return _with_training(found)


def _with_training(files: dict[Split, Path]) -> dict[Split, Path]:
    found = {split: path for split, path in files.items() if path.is_file()}
    return found if "train" in found else {}


def _only_file(root: Path) -> Path:
    candidates = sorted(root.glob("*.json")) + sorted((root / "annotations").glob("*.json"))
    instances = [path for path in candidates if path.stem.startswith("instances_")]
    if len(instances) == 1:
        return instances[0]
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        names = ", ".join(str(path.relative_to(root)) for path in candidates[:5])
        raise UserError(
            f"The folder '{root}' holds several JSON files ({names}); say which ones with data.train, "
            "data.val and data.test."
        )
    raise UserError(
        f"The folder '{root}' holds no COCO annotations; it needs train.json, annotations/instances_*.json, "
        f"train/{_ROBOFLOW} or one JSON file of its own. Other forms: python -m maskwell.data.convert."
    )
