"""The loader's benchmark compares two ways to the same samples."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.loader import PlainSource, check_equal, dataset, measure
from maskwell.data.coco import CocoSource
from maskwell.data.synthetic import write_cells


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "cells"
    write_cells(root, seed=0, counts=(8, 1, 1), size=96)
    return root


@pytest.mark.parametrize("crop", [None, 64])
def test_both_ways_make_equal_samples(cells: Path, crop: int | None) -> None:
    ours, plain = dataset(CocoSource(str(cells)), crop), dataset(PlainSource(str(cells)), crop)
    for index in range(8):
        check_equal(ours[3, index], plain[3, index])


def test_figures(cells: Path) -> None:
    figures = measure(cells, None, images=8, repeats=2)
    assert figures["images_per_second"] > 0 and figures["plain_images_per_second"] > 0
    assert figures["speedup"] > 0
