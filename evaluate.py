"""Score a model on whole images: ``python evaluate.py ckpt=last split=test tile=96``."""

from maskwell.cli import main

if __name__ == "__main__":
    main("evaluate")
