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
        "base": {"map_50": 0.1234, "map_50.std": 0.01},
        "adapter": {"map_50": 0.6, "trainable_share": 0.123},
        "classical.map_50": 0.575,
    }
    files = {
        "sam_lora_dsb2018": {"command": "python -m benchmarks.sam_lora_dsb2018", "figures": nuclei},
        "coco_map": {"command": "python -m benchmarks.coco_map", "figures": {"speedup": 23.4}},
    }
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    table = results_table.render(results_table.read_results(tmp_path))
    rows = {row.split("|")[1].strip(): row for row in table.splitlines() if row.startswith("|")}
    assert "0.123 ± 0.010" in rows["small base, as shipped"]
    assert "12.3%" in rows["LoRA adapter on it"]
    assert "0.575" in rows["Otsu and split, nothing trained"]
    assert "full fine-tuning of it" not in rows
    assert "| 23× | ≥ 10× | `python -m benchmarks.coco_map` |" in rows["COCO mAP, speed against pycocotools"]
    assert results_table.MISSING in rows["COCO mAP, largest difference from pycocotools"]
    assert "Loader" not in table
    widths = {row.count("|") for row in table.splitlines() if "small base" in row or "mAP at .50" in row}
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
