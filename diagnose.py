"""Say what is wrong with a training from its log: ``python diagnose.py RUN_OR_CSV_OR_FOLDER``."""

from maskwell.cli import main

if __name__ == "__main__":
    main("diagnose")
