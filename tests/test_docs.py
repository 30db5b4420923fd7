"""The page "What happens when...": every line names a test that is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def names_in(path: Path) -> set[str]:
    """Names of the test functions of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_line_of_what_happens_when_is_a_test() -> None:
    lines = (ROOT / "docs" / "what_happens_when.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("|") and not line.startswith(("| when", "|---"))]
    assert len(rows) >= 30
    for row in rows:
        when, then, named = (cell.strip() for cell in row.strip("|").split("|"))
        assert when and then, row
        found = re.fullmatch(r"`(tests/\S+\.py)::(test_\w+)`", named)
        assert found, row
        assert found[2] in names_in(ROOT / found[1]), named
