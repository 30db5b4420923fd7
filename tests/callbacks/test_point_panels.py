from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from maskwell import draw
from maskwell.callbacks.point_panels import PointPanels, caption, pixel_error
from maskwell.data.sample import Batch, Geometry, MarkedState, Sample, collate
from tests.callbacks.modules import Memory, trainer
from tests.callbacks.test_panels import Task

PLACE = Geometry((16, 20), (0, 0, 20, 16), (32, 40), (32, 64))
"""A window of 20 x 16 px, doubled, at the left of its network input."""


def _sample(index: int) -> Sample:
    """``index`` objects in a row, an object each 3 px."""
    return Sample(
        image=torch.full((3, 32, 64), 0.0),
        boxes=torch.zeros(index, 4),
        labels=torch.zeros(index, dtype=torch.int64),
        geometry=PLACE,
        image_id=index,
        file_name=f"{index}.png",
        points=torch.tensor([[(2 + 3 * i) / 32, 0.5] for i in range(index)]).reshape(-1, 2),
    )


class Marking(Task):
    """Two marks are set, then the third object comes next, where there is one; 3 px beside it, it says."""

    def teacher_forced_examples(self, batch: Batch, output: Any) -> list[MarkedState]:
        states = []
        for sample in batch.samples:
            points = sample.geometry.points_to_window(sample.points)
            target = points[2] if len(points) > 2 else None
            said = torch.tensor([3.0, 3.0]) if target is None else target + torch.tensor([3.0, 0.0])
            states.append(MarkedState(points[:2], said, 0.25, target, target is None))
        return states


def _fit(folder: Path, callback: PointPanels, task: Task | None = None, **more: Any) -> None:
    samples: Any = DataLoader([_sample(i) for i in range(6)], batch_size=2, collate_fn=collate)  # type: ignore[arg-type]
    trainer(folder, callback, **{"max_epochs": 1, **more}).fit(task or Marking(), samples, samples)


def _colours(picture: np.ndarray) -> dict[str, int]:
    """Pixels of each colour that stands for something."""
    inks = {"truth": draw._TRUE, "prediction": draw._FALSE, "error": draw._ERROR}
    return {name: int((picture == np.array(ink)).all(-1).sum()) for name, ink in inks.items()}


def _halves(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    middle = picture.shape[1] // 2
    return picture[:, : middle - 3], picture[:, middle + 3 :]


def _state(target: tuple[float, float] | None, finished: bool = False) -> MarkedState:
    goal = None if target is None else torch.tensor(target)
    return MarkedState(torch.tensor([[4.0, 4.0]]), torch.tensor([10.0, 8.0]), 0.12, goal, finished)


def test_truth_prediction_and_error_are_drawn_beside_the_marks() -> None:
    image = np.full((16, 20, 3), 90, np.uint8)
    left, right = _halves(draw.state_panel(image, _state((16.0, 8.0)), 12.0, "caption"))
    assert not any(_colours(left).values())
    found = _colours(right)
    assert min(found.values()) > 50
    scale = draw.MIN_SIDE / 16
    top = right.shape[0] - 25 - round(16 * scale)  # below the heading, above the caption
    row = right[top + round(8 * scale) + 1]
    inked = [int(x) for x in np.flatnonzero((row == np.array(draw._ERROR)).all(-1))]
    assert min(inked) >= 10 * scale and max(inked) <= 16 * scale  # from the prediction to the truth
    green = np.flatnonzero((row == np.array(draw._TRUE)).all(-1))
    assert abs(green.mean() - 16 * scale) < 3


def test_nothing_true_is_drawn_where_all_is_marked() -> None:
    image = np.full((16, 20, 3), 90, np.uint8)
    _, done = _halves(draw.state_panel(image, _state(None, finished=True), None, ""))
    _, more = _halves(draw.state_panel(image, _state((16.0, 8.0)), 12.0, ""))
    assert _colours(done)["error"] == 0 and _colours(done)["prediction"] > 50
    assert 0 < _colours(done)["truth"] < _colours(more)["truth"] / 2  # the words gt_done=1 alone


def test_pixels_are_those_of_the_network_input() -> None:
    state = _state((16.0, 16.0))
    assert pixel_error(state, PLACE) == pytest.approx(2 * (6**2 + 8**2) ** 0.5)
    assert caption(state, 20, PLACE) == "1/20 marked | Pred:(20,16,done=0.12) | GT:(32,32,done=0)"
    done = _state(None, finished=True)
    assert pixel_error(done, PLACE) is None
    assert caption(done, 1, PLACE) == "1/1 marked | Pred:(20,16,done=0.12) | GT:(done=1)"


def test_pictures_go_to_the_run_folder_and_the_loggers(tmp_path: Path) -> None:
    memory = Memory()
    _fit(tmp_path, PointPanels(3), logger=memory)
    assert [p.name for p in (tmp_path / "panels").iterdir()] == ["points_iter_000003.png"]
    assert [(key, said) for key, _, said in memory.sets] == [
        (
            "val/predictions",
            [
                "0/0 marked | Pred:(6,6,done=0.25) | GT:(done=1)",
                "2/2 marked | Pred:(6,6,done=0.25) | GT:(done=1)",
                "2/4 marked | Pred:(22,16,done=0.25) | GT:(16,16,done=0)",
            ],
        )
    ]
    assert Image.open(tmp_path / "panels" / "points_iter_000003.png").size[0] > 768


def test_truth_is_that_of_the_image_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[str, MarkedState]] = []
    original = draw.state_panel
    monkeypatch.setattr(
        draw,
        "state_panel",
        lambda image, state, error, text: (shown.append((text, state)), original(image, state, error, text))[
            1
        ],
    )
    _fit(tmp_path, PointPanels(6))
    assert len(shown) == 6
    for text, state in shown:
        sample = _sample(int(text.split(".png")[0]))
        points = PLACE.points_to_window(sample.points)
        assert state.finished == (len(state.marks) == len(points))
        assert torch.equal(state.marks, points[:2])
        if state.target is not None:
            assert (points == state.target).all(1).any() and not (state.marks == state.target).all(1).any()


def test_other_tasks_are_left_alone(tmp_path: Path) -> None:
    _fit(tmp_path, PointPanels(), Task())
    assert not (tmp_path / "panels").exists()
