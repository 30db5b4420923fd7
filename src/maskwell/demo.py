"""A page on this machine alone: drop an image, ask for something, see what the model finds.

python -m maskwell.demo runs/sam_lora/2026-11-21_10-00-00
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskwell import api
from maskwell.data.sample import Prediction
from maskwell.errors import UserError
from maskwell.image_results import THRESHOLD
from maskwell.selection import prelabels

ADDRESS = "127.0.0.1"
"""Nobody else on the network sees the page."""


@dataclass(frozen=True)
class Answer:
    """``overlay`` uint8 [h, w, 3]; ``counts`` what was found and how much of it; ``coco`` a dataset."""

    overlay: NDArray[np.uint8]
    counts: list[tuple[str, str]]
    coco: dict[str, Any]


def answer(
    model: api.Model, image: NDArray[np.uint8], prompt: str = "", threshold: float = THRESHOLD
) -> Answer:
    """What the page shows of one image.

    Args:
        model: of any family.
        image: uint8 RGB [H, W, 3].
        prompt: phrases with commas between them; empty: what the model was trained with.
        threshold: lowest score of a detection; marks and class maps have none.

    Raises:
        UserError: the prompt names what the model cannot know.
    """
    if model.task.semantic:
        classes = model.segment(image)
        whole = classes.classes.numel()
        counts = [(name, f"{pixels / whole:.1%}") for name, pixels in classes.areas().items() if pixels]
        return Answer(classes.overlay(), counts, _coco(model, Prediction.of_classes(classes.classes)))
    if model.task.pointwise:
        marks = model.mark(image)
        ended = "" if marks.complete else " (more may be left)"
        return Answer(marks.overlay(), [("points", f"{marks.count}{ended}")], _coco(model, marks.prediction))
    phrases = [phrase.strip() for phrase in prompt.split(",") if phrase.strip()]
    found = model.predict(image, phrases or None, threshold=threshold)
    number = Counter(found.labels)
    counts = [(phrase, str(number[phrase])) for phrase in found.prompts]
    return Answer(found.overlay(), counts, _coco(model, found.prediction, found.prompts))


def _coco(model: api.Model, prediction: Prediction, phrases: Sequence[str] | None = None) -> dict[str, Any]:
    return prelabels(model, [("image.png", prediction)], phrases, least=0.0)


def page(model: api.Model, title: str) -> Any:
    """The page, a ``gradio.Blocks``.

    Raises:
        UserError: gradio is not installed.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when it is imported
    try:
        import gradio
    except ImportError as error:
        raise UserError("The page needs gradio: pip install 'maskwell[demo]'.") from error
    finds = not model.task.semantic and not model.task.pointwise
    chosen = THRESHOLD if model.task.threshold is None else model.task.threshold
    folder = Path(tempfile.mkdtemp(prefix="maskwell_demo_"))

    def show(image: NDArray[np.uint8] | None, prompt: str, threshold: float) -> tuple[Any, Any, Any]:
        if image is None:
            raise gradio.Error("Drop an image first.")
        try:
            found = answer(model, image, prompt, threshold)
        except UserError as error:
            raise gradio.Error(str(error)) from error
        path = folder / "annotations.json"
        path.write_text(json.dumps(found.coco), encoding="utf-8")
        return found.overlay, [list(row) for row in found.counts], str(path)

    with gradio.Blocks(title=f"maskwell: {title}") as blocks:
        gradio.Markdown(f"## {title}")
        with gradio.Row():
            with gradio.Column():
                image = gradio.Image(type="numpy", label="image", image_mode="RGB")
                prompt = gradio.Textbox(
                    value=", ".join(model.phrases),
                    label="what to find, with commas",
                    visible=finds,
                    interactive=model.task.promptable or len(model.phrases) > 1,
                )
                threshold = gradio.Slider(0, 1, value=chosen, step=0.01, label="lowest score", visible=finds)
                button = gradio.Button("Find", variant="primary")
            with gradio.Column():
                overlay = gradio.Image(label="found", format="png", buttons=["download", "fullscreen"])
                counts = gradio.Dataframe(headers=["what", "how much"], label="counts", interactive=False)
                file = gradio.File(label="COCO JSON")
        inputs, outputs = [image, prompt, threshold], [overlay, counts, file]
        button.click(show, inputs, outputs)
        threshold.release(show, inputs, outputs)
    return blocks


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; see above."""
    parser = argparse.ArgumentParser(
        prog="python -m maskwell.demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("ckpt", help="a run folder or a checkpoint file")
    parser.add_argument("--port", type=int, default=7860)
    given = parser.parse_args(arguments)
    try:
        blocks = page(api.load(given.ckpt), Path(given.ckpt).name)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    blocks.launch(server_name=ADDRESS, server_port=given.port, share=False, inbrowser=False)


if __name__ == "__main__":
    main()
