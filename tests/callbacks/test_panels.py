from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import LightningModule
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from maskwell.callbacks import panels
from maskwell.callbacks.panels import Panels, _caption
from maskwell.callbacks.pictures import share, window_image
from maskwell.data.sample import Geometry, InputSpec, Prediction, Prompt, Sample, Truth, collate
from tests.callbacks.modules import Memory, trainer

SPEC = InputSpec("pad", None, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), multiple=16)


def _sample(index: int) -> Sample:
    boxes = torch.tensor([[2.0, 2.0, 12.0, 10.0]])
    truth = Truth(
        (16, 20), boxes, torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.bool), torch.ones(1)
    )
    return Sample(
        image=torch.full((3, 16, 20), index / 10),
        boxes=boxes / 20,
        labels=truth.labels,
        geometry=Geometry((16, 20), (0, 0, 20, 16), (16, 20), (16, 20)),
        image_id=index,
        file_name=f"{index}.png",
        points=torch.tensor([[0.5, 0.5]]),
        truth=truth,
    )


class Output:
    def __init__(self, predictions: list[Prediction]) -> None:
        self.predictions = predictions
        self.calls = 0

    def preds(self) -> list[Prediction]:
        self.calls += 1
        return self.predictions


class Task(LightningModule):
    input_spec = SPEC
    categories = ("cell",)

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.iteration = 0
        self.outputs: list[Output] = []
        self.predicted: list[list[int]] = []
        self.modes: list[bool] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.iteration += 1
        return self.weight**2

    def predict_batch(self, batch: Any) -> list[Prediction]:
        self.predicted.append([s.image_id for s in batch.samples])
        self.modes.append(self.training)
        none = torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64)
        return [Prediction(s.geometry.window_size, *none) for s in batch.samples]

    def validation_step(self, batch: Any, batch_idx: int) -> Output:
        self.outputs.append(Output(self.predict_batch(batch)))
        self.predicted.pop()
        return self.outputs[-1]

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def _loader(count: int = 12, batch_size: int = 2) -> DataLoader[Any]:
    return DataLoader([_sample(i) for i in range(count)], batch_size=batch_size, collate_fn=collate)  # type: ignore[arg-type]


def _fit(folder: Path, callback: Panels, **more: Any) -> Task:
    task = Task()
    trainer(folder, callback, **{"max_epochs": 2, **more}).fit(task, _loader(4), _loader())
    return task


@pytest.mark.parametrize(
    ("batches", "images", "expected"),
    [(6, 3, [1, 0, 1, 0, 0, 1]), (2, 4, [2, 2]), (5, 5, [1] * 5), (1, 3, [3]), (float("inf"), 2, [1, 1])],
)
def test_images_are_spread_evenly_over_the_batches(batches: float, images: int, expected: list[int]) -> None:
    assert [share(batches, images, i) for i in range(len(expected))] == expected


def test_a_sheet_per_validation_and_one_before_training(tmp_path: Path) -> None:
    _fit(tmp_path, Panels(3))
    names = sorted(p.name for p in (tmp_path / "panels").iterdir())
    assert names == ["base.png", "iter_000002.png", "iter_000004.png"]
    sizes = {Image.open(tmp_path / "panels" / name).size for name in names}
    assert len(sizes) == 1


def test_the_same_images_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    original = panels._panel
    monkeypatch.setattr(
        panels,
        "_panel",
        lambda image, sample, *a: (drawn.append(sample.image_id), original(image, sample, *a))[1],
    )
    task = _fit(tmp_path, Panels(3))
    assert drawn == [0, 4, 10] * 3
    assert task.predicted == [[0], [4], [10]]  # the base: only the images that are drawn


def test_the_base_is_drawn_in_evaluation_mode_and_training_goes_on_in_its_own(tmp_path: Path) -> None:
    task = _fit(tmp_path, Panels(1), max_epochs=1)
    assert task.modes[0] is False and task.training


def test_predictions_of_other_batches_are_not_computed(tmp_path: Path) -> None:
    task = _fit(tmp_path, Panels(3, base=False), max_epochs=1)
    assert [o.calls for o in task.outputs] == [1, 0, 1, 0, 0, 1]
    assert not (tmp_path / "panels" / "base.png").exists()


def test_predictions_are_drawn_from_the_threshold_on_that_their_own_validation_chose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Choosing(Task):
        threshold: float | None = None

        def on_validation_epoch_end(self) -> None:
            self.threshold = 0.1 * (self.iteration + 1)

    drawn: list[float] = []
    original = panels._panel
    monkeypatch.setattr(panels, "_panel", lambda *a: (drawn.append(a[-1]), original(*a))[1])
    trainer(tmp_path, Panels(1), max_epochs=2).fit(Choosing(), _loader(4), _loader())
    assert drawn == pytest.approx([0.3, 0.3, 0.5])  # none is chosen yet; after 2 and 4 steps
    drawn.clear()
    trainer(tmp_path, Panels(1, threshold=0.7), max_epochs=1).fit(Choosing(), _loader(4), _loader())
    assert drawn == [0.7, 0.7]


def test_every_nth_validation(tmp_path: Path) -> None:
    _fit(tmp_path, Panels(1, every_n_validations=2, base=False), max_epochs=4)
    assert sorted(p.name for p in (tmp_path / "panels").iterdir()) == ["iter_000002.png", "iter_000006.png"]


def test_loggers_get_the_sheet_with_its_step(tmp_path: Path) -> None:
    memory = Memory()
    _fit(tmp_path, Panels(2, base=False), logger=memory)
    assert [step for step, _ in memory.images] == [1, 3] and memory.images[0][1].dtype == np.uint8


def test_a_foreign_module_is_left_alone(tmp_path: Path) -> None:
    class Foreign(Task):
        predict_batch = None  # type: ignore[assignment]

        def validation_step(self, batch: Any, batch_idx: int) -> Tensor:  # type: ignore[override]
            return torch.zeros(())

    trainer(tmp_path, Panels(), max_epochs=1).fit(Foreign(), _loader(4), _loader())
    assert not (tmp_path / "panels").exists()


def test_the_window_image_undoes_normalisation_padding_and_scale() -> None:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (16, 20, 3), dtype=np.uint8)
    normalised = (torch.from_numpy(pixels / 255) - torch.tensor(SPEC.mean)) / torch.tensor(SPEC.std)
    padded = torch.zeros(3, 32, 32)
    padded[:, :16, :20] = normalised.permute(2, 0, 1).float()
    sample = _sample(0)
    sample.geometry = Geometry((16, 20), (0, 0, 20, 16), (16, 20), (32, 32))
    assert (window_image(padded, sample, SPEC) == pixels).all()
    sample.geometry = Geometry((64, 80), (0, 0, 40, 32), (16, 20), (32, 32))
    assert window_image(padded, sample, SPEC).shape == (32, 40, 3)


def test_the_caption_names_prompts_and_the_strongest_false_belief() -> None:
    sample = _sample(0)
    sample.prompts = (Prompt("cell", (0,), 0), Prompt("dog", (), 1), Prompt("cat", (), 2))
    none = torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    prediction = Prediction((16, 20), *none, present={0: 0.9, 1: 0.1, 2: 0.3})
    assert _caption(sample, prediction).splitlines() == [
        'prompts (objects): "cell" 0.90 (1)',
        'not in the image: "cat" 0.30 and 1 more',
    ]
    assert _caption(_sample(0), prediction) == ""
