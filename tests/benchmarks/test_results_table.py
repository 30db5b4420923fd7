"""The README's results table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import harness, results_table
from benchmarks.results_table import BEGIN, END


def test_the_readme_shows_the_published_figures() -> None:
    page = (harness.ROOT / "README.md").read_text()
    table = results_table.render(results_table.read_results(harness.RESULTS))
    assert results_table.insert(page, table) == page, "run `make results`"


def test_figures_come_from_the_files(tmp_path: Path) -> None:
    nuclei = {
        "dsb2018.zero_shot": {"map_50": 0.1234},
        "dsb2018.adapter_10": {"map_50": 0.4321, "map_50.std": 0.01},
        "dsb2018.adapter_all": {"map_50": 0.6, "trainable_share": 0.123},
        "dsb2018.classical.map_50": 0.575,
        "retention": {"map_50": 0.7, "map_50_drop": -0.02, "no_rehearsal.map_50_drop": 0.3},
        "parameters": 4129000,
    }
    files = {
        "base": {"command": "python -m benchmarks.base", "figures": nuclei},
        "coco_map": {"command": "python -m benchmarks.coco_map", "figures": {"speedup": 23.4}},
    }
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    table = results_table.render(results_table.read_results(tmp_path))
    rows = {row.split("|")[1].strip(): row for row in table.splitlines() if row.startswith("|")}
    assert "| 0.123 |" in rows["small base, as shipped"]
    assert "0.432 ± 0.010" in rows["LoRA adapter from 10 images, three seeds"]
    assert "12.3%" in rows["LoRA adapter from all 383 images"]
    assert "0.575" in rows["Otsu and split, nothing trained"]
    assert "full fine-tuning" not in rows
    assert "blood cells" not in table  # a grid without any figure
    assert "| 0.700 | -0.020 |" in rows["the adapter from all images above"]
    assert "| 0.300 |" in rows["without generated scenes beside its batches"]
    assert "4,129,000" in rows["Small base, parameters"]
    assert results_table.MISSING in rows["Small base, one image and prompt on two cores"]
    assert "| 23× | ≥ 10× | `python -m benchmarks.coco_map` |" in rows["COCO mAP, speed against pycocotools"]
    assert results_table.MISSING in rows["COCO mAP, largest difference from pycocotools"]
    assert "Loader" not in table
    widths = {row.count("|") for row in table.splitlines() if "Otsu" in row or "mAP at .50 | mAP |" in row}
    assert len(widths) == 1


def test_only_the_part_between_the_markers_changes() -> None:
    page = f"# Title\n\n{BEGIN}\nold\n{END}\n\nend\n"
    once = results_table.insert(page, "new")
    assert once == f"# Title\n\n{BEGIN}\nnew\n{END}\n\nend\n"
    assert results_table.insert(once, "new") == once


@pytest.mark.parametrize("page", ["none", BEGIN, f"{END} {BEGIN}", f"{BEGIN} {BEGIN} {END}"])
def test_a_page_without_markers_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="needs the markers"):
        results_table.insert(page, "x")
