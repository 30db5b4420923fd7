"""Write the README's results from ``benchmarks/results/*.json``: ``python -m benchmarks.results_table``.

What is shown is declared in ``results_lines.py``. A file that does not exist yet is left out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.results_lines import GRIDS, LINES, Grid, Line

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
MISSING = "–"


def render(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown of all declared figures; ``results`` maps file names (without .json) to their content."""
    grids = [_grid(grid, results[grid.file]) for grid in GRIDS if grid.file in results]
    blocks = [block for block in grids if block]
    lines = [line for line in LINES if line.file in results]
    if lines:
        rows = [_row("", "figure", "goal", "command"), _row("---", "---:", "---:", "---")]
        rows += [_line(line, results[line.file]) for line in lines]
        blocks.append("\n".join(rows))
    return "\n\n".join(blocks)


def insert(page: str, table: str) -> str:
    """``page`` with ``table`` between the markers.

    Raises:
        ValueError: the page does not have both markers once, in this order.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise ValueError(f"The page needs the markers {BEGIN} and {END}, once each and in this order.")
    before, after = page[: page.index(BEGIN)], page[page.index(END) :]
    return f"{before}{BEGIN}\n{table}\n{after}"


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Every results file of a folder by its name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def _grid(grid: Grid, result: Mapping[str, Any]) -> str:
    """The table, empty where no figure of it is there."""
    figures = harness.flat(result["figures"])
    rows = [
        _row("", *(label for label, _ in grid.columns.values())),
        _row("---", *("---:" for _ in grid.columns)),
    ]
    for prefix, label in grid.rows.items():
        cells = [
            _cell(figures.get(f"{prefix}.{name}"), form, figures.get(f"{prefix}.{name}.std"))
            for name, (_, form) in grid.columns.items()
        ]
        if any(cell != MISSING for cell in cells):
            rows.append(_row(label, *cells))
    if len(rows) == 2:
        return ""
    return f"**{grid.title}** (`{result['command']}`)\n\n" + "\n".join(rows)


def _line(line: Line, result: Mapping[str, Any]) -> str:
    figures = harness.flat(result["figures"])
    return _row(line.text, _cell(figures.get(line.figure), line.form), line.goal, f"`{result['command']}`")


def _cell(value: float | None, form: str, spread: float | None = None) -> str:
    if value is None:
        return MISSING
    return form.format(value) + (f" ± {form.format(spread)}" if spread else "")


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether the README is up to date")
    args = parser.parse_args()
    readme = harness.ROOT / "README.md"
    old = readme.read_text()
    new = insert(old, render(read_results(harness.RESULTS)))
    if args.check and new != old:
        print("The README's results table is out of date; run `make results`.")
        return 1
    if not args.check:
        readme.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
