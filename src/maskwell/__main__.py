"""``python -m maskwell VERB key=value ...``: the same as ``maskwell VERB key=value ...``."""

from maskwell.cli import console

if __name__ == "__main__":
    console()
