"""Pictures of models that mark one object after another: the marked input beside the next mark."""

from __future__ import annotations

from typing import Any

from lightning import LightningModule
from torch import Tensor

from maskwell import draw
from maskwell.callbacks.pictures import Pictures, window_image
from maskwell.data.sample import Batch, Geometry, InputSpec, MarkedState


class PointPanels(Pictures):
    """Writes ``panels/points_iter_<n>.png`` at each validation and gives ``val/predictions`` to the loggers.

    Truth is green, the prediction red, a yellow line between them bears ``err=NNpx``. Truth is drawn
    only where something is left to mark, and is that of the very image shown. Pixels are those of the
    network input, as in ``val/pixel_error``. Acts on tasks with ``teacher_forced_examples`` alone.

    Args:
        num_images: how many images are drawn.
        every_n_validations: draw at every n-th validation.
    """

    def __init__(self, num_images: int = 8, every_n_validations: int = 1) -> None:
        super().__init__(num_images, every_n_validations, "val/predictions", "points_")

    def show(self, module: LightningModule, batch: Batch, outputs: Any, count: int) -> None:
        examples: Any = getattr(module, "teacher_forced_examples", None)
        if examples is None:
            return
        states: list[MarkedState] = examples(batch, outputs)
        if not states:  # a head that marks everything at once
            return
        spec = module.input_spec
        assert isinstance(spec, InputSpec)
        rows = zip(batch.images, batch.samples, states, strict=True)
        for image, sample, state in list(rows)[:count]:
            error = pixel_error(state, sample.geometry)
            text = caption(state, len(sample.labels), sample.geometry)
            pixels = window_image(image, sample, spec)
            self.pictures.append(draw.state_panel(pixels, state, error, f"{sample.file_name} | {text}"))
            self.captions.append(text)


def pixel_error(state: MarkedState, geometry: Geometry) -> float | None:
    """Pixels of the network input between the predicted and the true next mark; None where there is none."""
    if state.target is None:
        return None
    return float((_in_input(state.predicted, geometry) - _in_input(state.target, geometry)).norm())


def caption(state: MarkedState, objects: int, geometry: Geometry) -> str:
    """``5/20 marked | Pred:(12,34,done=0.05) | GT:(10,30,done=0)``, in pixels of the network input."""
    x, y = _in_input(state.predicted, geometry).tolist()
    said = f"{len(state.marks)}/{objects} marked | Pred:({x:.0f},{y:.0f},done={state.done:.2f})"
    if state.target is None:
        return f"{said} | GT:(done={int(state.finished)})"
    x, y = _in_input(state.target, geometry).tolist()
    return f"{said} | GT:({x:.0f},{y:.0f},done={int(state.finished)})"


def _in_input(point: Tensor, geometry: Geometry) -> Tensor:
    """Window pixels -> pixels of the network input."""
    (height, width), (window_height, window_width) = geometry.content, geometry.window_size
    return point * point.new_tensor([width / window_width, height / window_height])
