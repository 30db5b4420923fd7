"""ONNX graphs of points, detr, s4gan and the vision part of sam_lora, held against PyTorch on real images.

A graph has the fixed input size it was exported for and a batch of one. Normalising and padding are as the
model card says; boxes and points come out in the frame of the network input, in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch import Tensor, nn

from maskwell.errors import UserError
from maskwell.models.base import BaseTask
from maskwell.models.detr.loss import SOFTMAX
from maskwell.models.detr.module import Detr
from maskwell.models.points.heads import Coordinates, PointerHead, Pointing, Proposals, XYHead
from maskwell.models.points.module import Points
from maskwell.models.points.net import STRIDE, Grid, PointNet
from maskwell.models.s4gan.module import S4Gan
from maskwell.models.sam_lora.module import SamLora

OPSET = 18
TOLERANCE = 1e-3
"""Largest difference from PyTorch, in probabilities and in parts of the input's side, that is let pass; of
features, which have no bounds, in parts of the largest of them."""

ONE_FILE = 2**31 - 2**24
"""Bytes of weights that fit into the one file of a graph beside the graph; protobuf allows 2 GiB."""

MARKS = 256
"""Rows of the marks that the decoder of points takes; those behind the count are ignored."""

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Graph:
    """One graph: ``name`` of the file; ``module`` traced; ``inputs`` by name, an example; ``outputs``.

    ``features``: the outputs have no bounds. ``unordered``: the rows (dimension 1) of all outputs are
    a set: two queries whose proposals score the same may change places between two kinds of arithmetic.
    """

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]
    features: bool = False
    unordered: bool = False

    def expected(self) -> Arrays:
        """What PyTorch answers to the example."""
        with torch.inference_mode():
            found = self.module(*self.inputs.values())
        answers = found if isinstance(found, tuple) else (found,)
        return {name: answer.numpy() for name, answer in zip(self.outputs, answers, strict=True)}


def export(task: BaseTask, images: Tensor, pixel_mask: Tensor, folder: Path) -> dict[str, float]:
    """Write the graphs of a task and compare them with PyTorch.

    Args:
        task: as :func:`maskwell.restore.restore` gives it: on the CPU, in evaluation mode, adapters merged.
        images: real ones, as the network takes them: float32 [N, 3, H, W]; the graphs take H x W.
        pixel_mask: bool [N, H, W].
        folder: where ``<graph>.onnx`` goes, with ``<graph>.onnx.data`` where the weights need a second file.

    Returns:
        Largest absolute difference of each graph's outputs over all images.

    Raises:
        UserError: the family has no graph, a package is missing, or the difference is too large.
    """
    runtime = _runtime()
    worst: dict[str, float] = {}
    bad: set[str] = set()
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(len(images)):
        for graph in graphs(task, images[index : index + 1], pixel_mask[index : index + 1]):
            path = folder / f"{graph.name}.onnx"
            if not index:
                _write(graph, path)
            session = runtime(str(path), providers=["CPUExecutionProvider"])
            found = session.run(None, {name: value.numpy() for name, value in _fed(graph, session)})
            expected = graph.expected()
            answers = dict(zip(graph.outputs, found, strict=True))
            off = difference(expected, paired(expected, answers) if graph.unordered else answers)
            worst[graph.name] = max(worst.get(graph.name, 0.0), off)
            unit = max(float(np.abs(one).max()) for one in expected.values()) if graph.features else 1.0
            if not off <= TOLERANCE * unit:
                bad.add(graph.name)
    if bad:
        told = {name: worst[name] for name in sorted(bad)}
        raise UserError(
            f"The ONNX graphs answer otherwise than PyTorch ({told}): those in {folder} must not be used."
        )
    return worst


def graphs(task: BaseTask, image: Tensor, pixel_mask: Tensor) -> list[Graph]:
    """The graphs of a family with one image [1, 3, H, W] as their example.

    Raises:
        UserError: the family has none.
    """
    if isinstance(task, S4Gan):
        return [Graph("model", _Classes(task), {"image": image}, ("probabilities",))]
    if isinstance(task, Detr):
        inputs = {"image": image, "pixel_mask": pixel_mask}
        return [Graph("model", _Boxes(task), inputs, ("scores", "boxes"), unordered=True)]
    if isinstance(task, Points):
        return _of_points(_averaged(task), image, pixel_mask)
    if isinstance(task, SamLora):
        encoder = _Vision(task)
        return [Graph("vision", encoder, {"image": image}, encoder.outputs, features=True)]
    raise UserError(
        f"A model of the family {task.family} has no ONNX graph; there are s4gan, detr, points and sam_lora."
    )


def _averaged(task: Detr | Points) -> Any:
    """The network that predicts: the average of the weights where there is one."""
    teacher = getattr(task, "teacher", None)
    return task.net if teacher is None else teacher.net


class _Classes(nn.Module):
    """image [1, 3, H, W] -> probabilities [1, C, H, W]."""

    def __init__(self, task: S4Gan) -> None:
        super().__init__()
        self.task = task.teacher if task.evaluated == "teacher" else task.generator

    def forward(self, image: Tensor) -> Tensor:
        probabilities: Tensor = self.task(image).float().softmax(1)
        return probabilities


class _Boxes(nn.Module):
    """image and pixel mask -> scores [1, Q, C] and boxes xyxy [1, Q, 4] in [0, 1] of the unmasked part."""

    def __init__(self, task: Detr) -> None:
        super().__init__()
        self.net = _averaged(task)
        self.softmax = task.criterion.classification == SOFTMAX

    def forward(self, image: Tensor, pixel_mask: Tensor) -> tuple[Tensor, Tensor]:
        layers = self.net(image, pixel_mask).layers
        logits, boxes = layers.logits[-1], layers.boxes[-1]
        scores = logits.softmax(-1)[..., :-1] if self.softmax else logits.sigmoid()
        centre, half = boxes[..., :2], boxes[..., 2:] / 2
        return scores, torch.cat([centre - half, centre + half], -1)


class _Vision(nn.Module):
    """image [1, 3, S, S] -> features [1, d, h, w] of every level, the finest first.

    They are the ``fpn_hidden_states`` of transformers' ``Sam3Model``. What follows, the text encoder and
    the decoder, has no graph: a tokenizer and prompts of any number and length stand between.
    """

    def __init__(self, task: SamLora) -> None:
        super().__init__()
        self.encoder = task.net.sam.vision_encoder
        levels = len(self.encoder.neck.fpn_layers)
        self.outputs = tuple(f"features_{level}" for level in range(levels))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = tuple(self.encoder(image).fpn_hidden_states)
        return found


def _of_points(net: PointNet, image: Tensor, pixel_mask: Tensor) -> list[Graph]:
    """The encoder, which runs once, and the decoder, which runs once per mark."""
    with torch.no_grad():
        cells = _parts(net.encode(image, pixel_mask))
    encoder = Graph("encoder", _Encoder(net), {"image": image, "pixel_mask": pixel_mask}, tuple(cells))
    made = torch.rand(1, MARKS, 2, generator=torch.Generator().manual_seed(0))
    state = {**cells, "marks": made, "count": torch.tensor([3])}
    size = (image.shape[-2] // STRIDE, image.shape[-1] // STRIDE)
    outputs: tuple[str, ...] = ("logits", "none", "places")
    if not isinstance(net.head, PointerHead):
        outputs = ("point", "done_logit") if isinstance(net.head, XYHead) else ("logits", "places")
    return [encoder, Graph("decoder", _Decoder(net, size, tuple(cells)), state, outputs)]


def _parts(grid: Grid) -> dict[str, Tensor]:
    """The tensors of a grid by name."""
    values = {field.name: getattr(grid, field.name) for field in fields(grid)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


class _Encoder(nn.Module):
    """image and pixel mask -> the tensors of its grid of cells."""

    def __init__(self, net: PointNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor, pixel_mask: Tensor) -> tuple[Tensor, ...]:
        return tuple(_parts(self.net.encode(image, pixel_mask)).values())


class _Decoder(nn.Module):
    """Cells, and marks [1, MARKS, 2] in [0, 1] of which the first ``count`` hold -> what comes next."""

    def __init__(self, net: PointNet, size: tuple[int, int], parts: tuple[str, ...]) -> None:
        super().__init__()
        self.net, self.size, self.parts = net, size, parts

    def forward(self, *state: Tensor) -> tuple[Tensor, ...]:
        *cells, marks, count = state
        grid = Grid(**dict(zip(self.parts, cells, strict=True)), size=self.size)
        out = self.net.decode(grid, torch.zeros(1, dtype=torch.int64), marks, count)
        if isinstance(out, Pointing):
            return out.logits, out.none, out.places
        if isinstance(out, Coordinates):
            return out.point, out.done_logit
        assert isinstance(out, Proposals)
        return out.logits, out.places


def paired(expected: Arrays, found: Arrays) -> Arrays:
    """The rows (dimension 1) of ``found`` in the order of those of ``expected`` that they are nearest to.

    One order serves all outputs, so that a row whose box moved to another row's score is not made good. Two
    sets of different sizes are left as they are.
    """
    sides = [np.concatenate([one[name][0] for name in expected], -1) for one in (expected, found)]
    if sides[0].shape != sides[1].shape:
        return found
    _, order = linear_sum_assignment(np.nan_to_num(cdist(*sides, "chebyshev"), nan=1e6, posinf=1e6))
    return {name: value[:, order] for name, value in found.items()}


def difference(expected: Arrays, found: Arrays) -> float:
    """Largest absolute difference; inf where one side is not finite and the other is."""
    worst = 0.0
    for name, value in expected.items():
        both = np.isfinite(value) & np.isfinite(found[name])
        if not np.array_equal(np.isfinite(value), np.isfinite(found[name])):
            return float("inf")
        gap = np.abs(value[both].astype(np.float64) - found[name][both].astype(np.float64))
        worst = max(worst, float(gap.max(initial=0.0)))
    return worst


def _write(graph: Graph, path: Path) -> None:
    with torch.no_grad():
        torch.onnx.export(
            graph.module.eval(),
            tuple(graph.inputs.values()),
            path,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            opset_version=OPSET,
            custom_translation_table={torch.ops.aten._is_all_true.default: _all_true()},
            external_data=_weight_bytes(graph.module) > ONE_FILE,
            verbose=False,
        )


def _weight_bytes(module: nn.Module) -> int:
    held = [*module.parameters(), *module.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in held)


def _all_true() -> Callable[..., Any]:
    """What transformers asks of its masks and the exporter does not translate itself."""
    from onnxscript import INT32, opset18

    operators: Any = opset18  # its types are those of whole models, not of a function's arguments

    def translated(values: Any) -> Any:
        least = operators.ReduceMin(operators.Cast(values, to=INT32.dtype), keepdims=False)
        return operators.Cast(least, to=9)  # BOOL

    return translated


def _fed(graph: Graph, session: Any) -> Sequence[tuple[str, Tensor]]:
    """Only the inputs that the graph reads: one that does not change the answer is dropped in export."""
    read = {one.name for one in session.get_inputs()}
    return [(name, value) for name, value in graph.inputs.items() if name in read]


def _runtime() -> Callable[..., Any]:
    try:
        import onnx
        import onnxscript  # noqa: F401 - the exporter of torch wants it
        from onnxruntime import InferenceSession
    except ImportError as error:
        raise UserError(
            f"ONNX needs the package {error.name}: pip install 'maskwell[export]', or --onnx not given."
        ) from error
    assert onnx.__version__
    session: Callable[..., Any] = InferenceSession
    return session
