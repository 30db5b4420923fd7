"""Data checks: every fault of a COCO folder with a code, a count, a severity and three examples.

``python -m maskwell.data.checks DATA [--fast]`` prints them and exits with 1 where one is an error.
The fast form, run at the start of every training, decodes no images. With ``--done-balance`` it prints
how often a model of points is shown a finished image instead.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from maskwell.data import check_annotations, check_images
from maskwell.data.check_annotations import AnnotationFile
from maskwell.data.check_boxes import check_boxes
from maskwell.data.check_masks import check_masks
from maskwell.data.check_points import check_points
from maskwell.data.done_balance import advice, balance_table, done_balance
from maskwell.data.findings import Finding, Findings
from maskwell.data.layouts import Layout, find_layout
from maskwell.errors import UserError

_IMBALANCE = 20  # most frequent to rarest category
_CROWDED = 100  # objects per image, the usual limit of detections in COCO's evaluation
_COLOURS = {"error": "red", "warning": "yellow", "info": "cyan"}


def check_dataset(root: str | Path, *, fast: bool = False) -> list[Finding]:
    """Check a dataset folder of any known layout.

    Raises:
        UserError: the folder is missing or holds no COCO annotations at all.
    """
    return check_layout(find_layout(root), fast=fast)


def check_layout(layout: Layout, *, fast: bool = False) -> list[Finding]:
    """Check the annotation files and images of a layout; errors come first. Faults never raise.

    ``fast`` looks at all annotations, but only at the headers of some images.
    """
    found = Findings()
    named = {split or "all": path for split, path in layout.files.items()}
    loaded = [check_annotations.load(split, path, found) for split, path in named.items()]
    files = [file for file in loaded if file is not None]
    listed = []
    for file in files:
        check_boxes(file, found)
        check_masks(file, found)
        check_points(file, found)
        listed += check_images.locate(file, layout, found)
    if fast:
        check_images.check_headers(listed, found)
        check_images.check_equal_files(listed, found)
    else:
        check_images.check_pixels(listed, found)
    _check_categories(files, found)
    _count_objects(files, found)
    return found.result()


def _check_categories(files: Sequence[AnnotationFile], found: Findings) -> None:
    """The same categories in all splits, and enough objects of each in training."""
    if not files:
        return
    first = files[0]
    for other in files[1:]:
        for key in sorted(first.categories.keys() ^ other.categories.keys(), key=str):
            owner = first if key in first.categories else other
            found.add("categories-differ", f"{key} ({owner.categories[key]}) is in {owner.path.name} only")
        for key in sorted(first.categories.keys() & other.categories.keys(), key=str):
            if first.categories[key] != other.categories[key]:
                names = f"{first.categories[key]!r} and {other.categories[key]!r}"
                found.add("categories-differ", f"{key} is {names} in {first.path.name} and {other.path.name}")
    counts = Counter(dict.fromkeys(first.categories, 0))
    counts.update(a["category_id"] for a in first.objects())
    ordered = [(first.categories[key], count) for key, count in counts.most_common()]
    for name, count in ordered:
        if count == 0:
            found.add("category-unused", f"{first.path.name}: {name}")
    used = [(name, count) for name, count in ordered if count]
    if len(used) > 1 and used[0][1] >= _IMBALANCE * used[-1][1]:
        ratio = used[0][1] / used[-1][1]
        message = (
            f"the most frequent category has {ratio:.0f} times the objects of the rarest, "
            "which is learnt late or never"
        )
        found.state("class-imbalance", len(used), message, [f"{n}: {c}" for n, c in (used[0], *used[-2:])])


def _count_objects(files: Sequence[AnnotationFile], found: Findings) -> None:
    """Objects per image, images without any, splits without any."""
    for file in files:
        if not file.objects():
            found.add("objects-none" if file is files[0] else "split-empty", str(file.path))
    rows = [
        (f"{file.split}/{file.images[key]['file_name']}", count)
        for file in files
        for key, count in _per_image(file).items()
    ]
    if not rows:
        return
    counts = np.array([count for _, count in rows])
    most = sorted(rows, key=lambda row: -row[1])[:3]
    message = f"objects per image: median {np.median(counts):g}, most {counts.max()}, {counts.sum()} in all"
    if counts.max() > _CROWDED:
        message += f"; evaluate with more than {_CROWDED} detections per image"
    found.state("objects-per-image", len(rows), message, [f"{name}: {count}" for name, count in most])
    empty = [name for name, count in rows if count == 0]
    if empty:
        share = len(empty) / len(rows)
        message = f"{share:.0%} of the images have no objects"
        found.state("images-empty", len(empty), message, empty, "warning" if share > 0.5 else "info")


def _per_image(file: AnnotationFile) -> dict[object, int]:
    counts: dict[object, int] = dict.fromkeys(file.images, 0)
    for annotation in file.objects():
        counts[annotation["image_id"]] += 1
    return counts


def findings_table(findings: Sequence[Finding]) -> Table:
    """A rich table of findings."""
    table = Table(show_lines=False, pad_edge=False)
    table.add_column("severity")
    table.add_column("code", no_wrap=True)
    table.add_column("count", justify="right")
    table.add_column("what, and examples", overflow="fold")
    for finding in findings:
        text = "\n".join([finding.message, *(f"  {example}" for example in finding.examples)])
        colour = _COLOURS[finding.severity]
        table.add_row(f"[{colour}]{finding.severity}[/]", finding.code, str(finding.count), _plain(text))
    return table


def _plain(text: str) -> str:
    """Text in which rich takes nothing for markup."""
    return text.replace("[", "\\[")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0 no errors, 1 errors found, 2 nothing to check."""
    parser = argparse.ArgumentParser(
        prog="python -m maskwell.data.checks", description="Check a COCO dataset."
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of the dataset")
    parser.add_argument("--fast", action="store_true", help="decode no images, as at the start of a training")
    parser.add_argument(
        "--done-balance", action="store_true", help="share of finished images that a model of points is shown"
    )
    parser.add_argument(
        "--objects", nargs=2, type=int, metavar=("FEWEST", "MOST"), help="as data.objects, for --done-balance"
    )
    args = parser.parse_args(argv)
    try:
        if args.done_balance:
            balances = done_balance(args.data, args.objects)
            Console().print(balance_table(balances))
            print(*advice(balances), sep="\n")
            return 0
        findings = check_dataset(args.data, fast=args.fast)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    Console().print(findings_table(findings))
    errors = sum(finding.severity == "error" for finding in findings)
    warnings = sum(finding.severity == "warning" for finding in findings)
    print(f"{args.data}: {errors} kinds of errors, {warnings} kinds of warnings")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
