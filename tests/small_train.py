"""train.py for the small family of support.py: what tests start as a program of its own."""

from __future__ import annotations

from maskwell import build, cli

build.TRUSTED = (*build.TRUSTED, "support.")

if __name__ == "__main__":
    cli.main("train")
