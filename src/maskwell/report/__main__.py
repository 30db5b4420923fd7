"""Pages about runs.

python -m maskwell.report runs/sam_lora/2026-11-21_10-00-00
python -m maskwell.report compare runs/detr/* --output compare.html
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from maskwell import runs
from maskwell.errors import UserError
from maskwell.report import compare, page


def main(arguments: Sequence[str] | None = None) -> None:
    """``RUN [--output FILE]`` or ``compare RUN RUN ... [--output FILE]``."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="python -m maskwell.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", nargs="+", help="run folders, or 'last'; after 'compare' two or more")
    parser.add_argument("--output", type=Path, help="file of the page")
    given = parser.parse_args(words)
    try:
        if given.run[0] == "compare":
            compare.main([_folder(name) for name in given.run[1:]], given.output or Path("compare.html"))
            return
        if given.output and len(given.run) > 1:
            raise UserError("--output names one page: give one run, or compare.")
        for name in given.run:
            print(f"report: {page.write(_folder(name), given.output)}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _folder(name: str) -> Path:
    return runs.newest_checkpoint(Path("runs")).parents[1] if name == "last" else Path(name)


if __name__ == "__main__":
    main()
