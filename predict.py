"""Find objects in images: ``python predict.py ckpt=last input=IMAGE_OR_FOLDER prompt="nucleus"``."""

from maskwell.cli import main

if __name__ == "__main__":
    main("predict")
