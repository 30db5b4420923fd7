"""Train a model: ``python train.py model=... data=...`` (``--help`` lists the groups and their choices)."""

from maskwell.cli import main

if __name__ == "__main__":
    main("train")
