"""Runs every notebook from first to last cell, as plain Python, and takes the time: `make notebooks`."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import harness

FOLDER = harness.ROOT / "notebooks"
REDUCED = {"MASKWELL_NOTEBOOK_STEPS": "2", "MASKWELL_NOTEBOOK_IMAGES": "10"}
"""Sizes with which a notebook shows only that it runs."""


def source(path: Path) -> str:
    """All code cells of a notebook, one after another."""
    content = json.loads(path.read_text(encoding="utf-8"))
    cells = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    return "\n\n".join("".join(cell["source"]) for cell in cells)


def run(path: Path, reduced: bool) -> float:
    """Execute a notebook in a process of its own; seconds.

    Raises:
        subprocess.CalledProcessError: a cell failed; its traceback is printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / f"{path.stem}.py"
        script.write_text(source(path), encoding="utf-8")
        environment = {**os.environ, **(REDUCED if reduced else {}), "TMPDIR": folder}
        started = time.monotonic()
        subprocess.run([sys.executable, script], check=True, env=environment, cwd=folder)
        return time.monotonic() - started


def main() -> None:
    parser = harness.arguments(__doc__ or "")
    parser.add_argument("--only", action="append", help="a notebook by name, such as points")
    args: argparse.Namespace = parser.parse_args()
    started = time.monotonic()
    names = args.only or sorted(path.stem for path in FOLDER.glob("*.ipynb"))
    figures = {f"{name}.seconds": run(FOLDER / f"{name}.ipynb", args.quick) for name in names}
    harness.publish(
        args,
        "notebooks",
        figures,
        command=harness.command_line("benchmarks.notebooks"),
        seeds=[0],
        minutes=(time.monotonic() - started) / 60,
        notes="Wall time of all code cells of each notebook, run as plain Python in a process of its own.",
    )


if __name__ == "__main__":
    main()
