"""ONNX graphs of small networks with random weights against PyTorch; skipped without the extra 'export'."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from maskwell import build, compose
from maskwell.errors import UserError
from maskwell.export import onnx
from maskwell.models.base import BaseTask
from trained import trained_task


def _task(*overrides: str) -> BaseTask:
    cfg, _ = compose.compose("train", ["data=cells", *overrides])
    task = build.task(cfg)
    task.bind(categories=("a", "b"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return task.eval()


def _input(count: int = 2) -> tuple[Tensor, Tensor]:
    mask = torch.ones(count, 64, 96, dtype=torch.bool)
    mask[:, :, 88:] = False
    return torch.randn(count, 3, 64, 96, generator=torch.Generator().manual_seed(1)), mask


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (("model=s4gan",), {"model"}),
        (("model=points",), {"encoder", "decoder"}),
        (("model=points", "model.head=xy"), {"encoder", "decoder"}),
        (("model=detr", "model.queries=20"), {"model"}),
    ],
    ids=["s4gan", "points", "points_xy", "detr"],
)
def test_graphs_answer_as_pytorch(tmp_path: Path, overrides: tuple[str, ...], names: set[str]) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    worst = onnx.export(_task(*overrides), *_input(), tmp_path)
    assert worst.keys() == names and max(worst.values()) < 1e-4
    assert {path.stem for path in tmp_path.glob("*.onnx")} == names


def test_the_decoder_reads_only_as_many_marks_as_count(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    task, (image, mask) = _task("model=points"), _input(1)
    onnx.export(task, image, mask, tmp_path)
    _, decoder = onnx.graphs(task, image, mask)
    session = runtime.InferenceSession(str(tmp_path / "decoder.onnx"), providers=["CPUExecutionProvider"])
    for count in (0, 1, 7):
        inputs = {**decoder.inputs, "count": torch.tensor([count])}
        with torch.no_grad():
            expected = decoder.module(*inputs.values())
        found = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        pairs = (
            dict(zip(decoder.outputs, one, strict=True)) for one in ([e.numpy() for e in expected], found)
        )
        assert onnx.difference(*pairs) < 1e-4


def test_the_vision_part_of_sam_lora_serves_the_rest_of_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    task = trained_task("model.base=tiny", "model.image_size=128")[0].eval()
    with torch.no_grad():
        for _, parameter in task.trainable_parameters():
            parameter.mul_(0.1)  # what is chaotic has no parity to lose
    image = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    asked = (image, torch.tensor([0]), ["cell nucleus"])
    with torch.no_grad():
        expected = task.net(*asked)  # the adapters beside the weights, as in training
    task.prepare_inference()
    worst = onnx.export(task, image, torch.ones(1, 128, 128, dtype=torch.bool), tmp_path)
    assert worst.keys() == {"vision"} and worst["vision"] < 1e-3
    session = runtime.InferenceSession(str(tmp_path / "vision.onnx"), providers=["CPUExecutionProvider"])
    found = session.run(None, {"image": image.numpy()})
    with torch.no_grad():
        vision = task.net.sam.get_vision_features(image)
        vision.fpn_hidden_states = tuple(torch.from_numpy(level) for level in found)
        monkeypatch.setattr(task.net.sam, "get_vision_features", lambda images: vision)
        answered = task.net(*asked)
    torch.testing.assert_close(answered.scores(), expected.scores(), atol=1e-4, rtol=0)
    torch.testing.assert_close(answered.boxes, expected.boxes, atol=1e-4, rtol=0)


def test_features_are_held_against_the_largest_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph that is off by 0.01 passes where its outputs reach 100 and have no bounds, and nowhere else."""

    class Session:
        def __init__(self, path: str, providers: list[str]) -> None: ...

        def get_inputs(self) -> list[Tensor]:
            return []

        def run(self, names: None, inputs: dict[str, object]) -> list[object]:
            return [np.array([100.01, 0.0])]

    def graph(features: bool) -> onnx.Graph:
        module = torch.nn.Linear(1, 1)
        module.forward = lambda image: torch.tensor([100.0, 0.0])  # type: ignore[method-assign]
        return onnx.Graph("g", module, {"image": torch.zeros(1)}, ("out",), features)

    monkeypatch.setattr(onnx, "_runtime", lambda: Session)
    monkeypatch.setattr(onnx, "_write", lambda graph, path: None)
    task, inputs = _task("model=s4gan"), _input(1)
    monkeypatch.setattr(onnx, "graphs", lambda *_: [graph(True)])
    assert onnx.export(task, *inputs, tmp_path)["g"] == pytest.approx(0.01)
    monkeypatch.setattr(onnx, "graphs", lambda *_: [graph(False)])
    with pytest.raises(UserError, match="otherwise than PyTorch"):
        onnx.export(task, *inputs, tmp_path)


def test_weights_too_large_for_one_file_lie_beside_the_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(onnx, "ONE_FILE", 1000)
    assert onnx.export(_task("model=s4gan"), *_input(1), tmp_path)["model"] < 1e-4
    assert (tmp_path / "model.onnx.data").stat().st_size > 1000


def test_queries_are_a_set_but_a_score_stays_with_its_box() -> None:
    boxes = np.array([[[0.1] * 4, [0.4] * 4, [0.8] * 4]])
    one = {"scores": np.array([[[0.9], [0.5], [0.1]]]), "boxes": boxes}
    swapped = {name: value[:, [0, 2, 1]] for name, value in one.items()}
    assert onnx.difference(one, onnx.paired(one, swapped)) == 0
    torn = {"scores": swapped["scores"], "boxes": one["boxes"]}
    assert onnx.difference(one, onnx.paired(one, torn)) == pytest.approx(0.4)
    broken = {"scores": one["scores"], "boxes": np.where(boxes == 0.8, np.nan, boxes)}
    assert onnx.difference(one, onnx.paired(one, broken)) == np.inf


def test_a_difference_is_the_largest_and_infinities_have_to_agree() -> None:
    one = {"a": np.array([1.0, -np.inf, 3.0])}
    assert onnx.difference(one, {"a": np.array([1.0, -np.inf, 2.5])}) == 0.5
    assert onnx.difference(one, {"a": np.array([1.0, 0.0, 3.0])}) == np.inf


def test_without_the_extra_the_sentence_names_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match="maskwell\\[export\\]"):
        onnx.export(_task("model=s4gan"), *_input(1), tmp_path)
