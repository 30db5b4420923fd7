"""From network outputs to predictions in the window frame, on outputs written by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from maskwell.data.sample import Batch, Geometry, Prompt, Sample, Truth
from maskwell.metrics.concept import named_by
from maskwell.models.sam_lora.answers import Answers, Detection
from maskwell.models.sam_lora.net import PromptOutputs
from maskwell.ops import masks

GEOMETRY = Geometry(file_size=(100, 200), window=(20, 10, 80, 40), content=(16, 16), input_size=(16, 16))
"""A window of 80 x 40 px, squeezed into 16 x 16."""


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def make_batch(*prompts: tuple[Prompt, ...]) -> Batch:
    samples = [
        Sample(
            torch.zeros(3, 0, 0), torch.zeros(0, 4), torch.zeros(0).long(), GEOMETRY, i, f"{i}.png", prompts=p
        )
        for i, p in enumerate(prompts)
    ]
    return Batch(torch.zeros(len(samples), 3, 16, 16), torch.ones(len(samples), 16, 16).bool(), samples)


def make_outputs(scores: list[list[float]], presence: list[float]) -> PromptOutputs:
    """Query q of every row has the box of column q of four, and that column as its mask.

    Two layers, of which the first is nonsense: only the last may be read.
    """
    rows, queries = len(scores), len(scores[0])
    last = torch.tensor([[logit(s) for s in row] for row in scores])
    present = torch.tensor([logit(p) for p in presence])
    corners = torch.tensor([[q / queries, 0.25, (q + 1) / queries, 0.75] for q in range(queries)])
    boxes = corners.expand(rows, -1, -1)
    grids = torch.full((rows, queries, 4, 4), -20.0)
    for q in range(queries):
        grids[:, q, 1:3, q] = 20.0
    return PromptOutputs(
        logits=torch.stack([torch.full_like(last, 9.0), last]),
        boxes=torch.stack([torch.zeros_like(boxes), boxes]),
        presence=torch.stack([torch.full_like(present, 9.0), present]),
        masks=grids,
        semantic=torch.zeros(rows, 4, 4),
    )


CELL, DEBRIS, WORD = Prompt("cell", (0,), 0), Prompt("debris", (), 1), Prompt("piano", (), -1)


def answers(
    scores: list[list[float]], presence: list[float], batch: Batch, detection: Detection | None = None
) -> Answers:
    rows = [(i, prompt) for i, sample in enumerate(batch.samples) for prompt in sample.prompts]
    return Answers(rows, make_outputs(scores, presence), batch, detection or Detection())


def test_score_is_the_product_with_presence() -> None:
    (prediction,) = answers([[0.9, 0.5, 0.2, 0.1]], [0.5], make_batch((CELL,)))()
    assert prediction.scores.tolist() == pytest.approx([0.45, 0.25, 0.1, 0.05])
    assert prediction.labels.tolist() == [0, 0, 0, 0]
    assert prediction.present == {0: pytest.approx(0.5)}


def test_detections_below_the_floor_are_dropped_and_the_best_are_kept() -> None:
    batch = make_batch((CELL,))
    (few,) = answers([[0.9, 0.5, 0.2, 0.1]], [0.5], batch, Detection(min_score=0.2))()
    assert few.scores.tolist() == pytest.approx([0.45, 0.25])
    (one,) = answers([[0.1, 0.5, 0.9, 0.2]], [0.5], batch, Detection(max_per_prompt=1))()
    assert one.scores.tolist() == pytest.approx([0.45])
    assert one.boxes.tolist() == [[40.0, 10.0, 60.0, 30.0]]  # third column of the window


def test_boxes_and_masks_are_in_pixels_of_the_window() -> None:
    (prediction,) = answers([[0.1, 0.9, 0.2, 0.3]], [0.9], make_batch((CELL,)))()
    assert prediction.size == (40, 80)
    assert prediction.boxes[0].tolist() == [20.0, 10.0, 40.0, 30.0]
    assert prediction.rles is not None
    mask = masks.decode(prediction.rles[:1], (40, 80))[0]
    expected = torch.zeros(40, 80, dtype=torch.bool)
    expected[10:30, 20:40] = True
    assert (mask & expected).sum() / (mask | expected).sum() > 0.75  # resizing rounds the corners
    assert masks.boxes(prediction.rles[:1])[0].tolist() == [20.0, 10.0, 40.0, 30.0]


def test_mask_threshold_moves_the_outline() -> None:
    areas: list[Tensor] = []
    for threshold in (0.2, 0.5, 0.8):
        outputs = answers([[0.9, 0.1]], [0.9], make_batch((CELL,)), Detection(mask_threshold=threshold))
        outputs.outputs.masks.div_(20)
        rles = outputs()[0].rles
        assert rles is not None
        areas.append(masks.area(rles[:1]))
    assert areas[0] > areas[1] > areas[2]


def test_prompts_of_an_image_are_merged_best_first() -> None:
    batch = make_batch((CELL, DEBRIS), (WORD,))
    scores = [[0.9, 0.3, 0.01, 0.01], [0.01, 0.01, 0.6, 0.4], [0.2, 0.4, 0.01, 0.01]]
    both = answers(scores, [0.5, 0.9, 0.5], batch, Detection(min_score=0.05))
    merged, other = both()
    assert merged.scores.tolist() == pytest.approx([0.54, 0.45, 0.36, 0.15])
    assert merged.labels.tolist() == [1, 0, 1, 0]
    assert merged.boxes[:, 0].tolist() == [40.0, 0.0, 60.0, 20.0]
    assert merged.present == {0: pytest.approx(0.5), 1: pytest.approx(0.9)}
    assert merged.rles is not None
    assert masks.boxes(merged.rles)[:, 0].tolist() == [40.0, 0.0, 60.0, 20.0]
    assert other.labels.tolist() == [-1, -1]
    assert [len(sample) for sample in both.by_prompt] == [2, 1]
    assert both.by_prompt is both.by_prompt


def test_an_image_without_a_detection_has_an_empty_prediction() -> None:
    (prediction,) = answers([[0.1, 0.1]], [0.01], make_batch((CELL,)))()
    assert prediction.boxes.shape == (0, 4)
    assert prediction.scores.shape == prediction.labels.shape == (0,)
    assert prediction.rles == []
    assert prediction.present == {0: pytest.approx(0.01)}


def test_boxes_are_clipped_to_the_window() -> None:
    found = answers([[0.9, 0.1]], [0.9], make_batch((CELL,)))
    found.outputs.boxes[-1, 0, 0] = torch.tensor([-0.5, -0.1, 1.5, 0.5])
    assert found()[0].boxes[0].tolist() == [0.0, 0.0, 80.0, 20.0]


@pytest.fixture
def truth() -> Truth:
    """Labels 0, 1, a crowd of 0, and a crowd that is all there is of 2."""
    squares = torch.zeros(4, 8, 8, dtype=torch.bool)
    for i in range(4):
        squares[i, 2 * i : 2 * i + 2, :3] = True
    rles = masks.encode(squares)
    crowd = torch.tensor([False, False, True, True])
    return Truth((8, 8), masks.boxes(rles), torch.tensor([0, 1, 0, 2]), crowd, masks.area(rles).float(), rles)


def test_a_category_names_its_objects_but_no_crowd(truth: Truth) -> None:
    named = named_by(Prompt("cell", (), 0), truth)
    assert named is not None
    assert named.labels.tolist() == [0]
    torch.testing.assert_close(named.boxes, truth.boxes[:1])
    assert named.rles == truth.rles[:1]  # type: ignore[index]
    assert named.iscrowd.tolist() == [False]
    assert named.size == (8, 8)


def test_an_absent_category_names_nothing(truth: Truth) -> None:
    named = named_by(Prompt("zebra", (), 3), truth)
    assert named is not None
    assert named.boxes.shape == (0, 4)
    assert named.rles == []


def test_a_category_that_is_only_a_crowd_is_not_judged(truth: Truth) -> None:
    assert named_by(Prompt("clump", (), 2), truth) is None


def test_a_free_phrase_names_the_objects_it_was_made_for(truth: Truth) -> None:
    named = named_by(Prompt("squares at the top", (0, 1), -1), truth)
    assert named is not None
    assert named.labels.tolist() == [0, 0]
    assert named.area.tolist() == [6.0, 6.0]
    nothing = named_by(Prompt("piano", (), -1), truth)
    assert nothing is not None
    assert len(nothing.boxes) == 0


def test_truth_without_masks_stays_without(truth: Truth) -> None:
    truth.rles = None
    named = named_by(Prompt("cell", (), 0), truth)
    assert named is not None
    assert named.rles is None


def test_an_object_that_is_named_twice_by_a_prompt_is_kept_once() -> None:
    batch = make_batch((CELL, DEBRIS))
    outputs = make_outputs([[0.5, 0.9, 0.2, 0.1], [0.5, 0.9, 0.2, 0.1]], [0.9, 0.9])
    outputs.masks[:, 0] = outputs.masks[:, 1]  # the first query of both prompts repeats the second
    rows = [(0, CELL), (0, DEBRIS)]
    (single,) = Answers(rows, outputs, batch, Detection())()
    (double,) = Answers(rows, outputs, batch, Detection(nms=None))()
    assert len(double.scores) == 8
    # The better of the two stays; two prompts may name the same object.
    assert single.scores.tolist() == pytest.approx([0.81, 0.81, 0.18, 0.18, 0.09, 0.09])
    assert single.rles is not None and len(single.rles) == len(single.boxes) == 6


def test_without_masks_boxes_answer_and_duplicates_are_boxes_that_overlap() -> None:
    batch = make_batch((CELL,))
    (prediction,) = answers([[0.9, 0.5, 0.2, 0.1]], [0.5], batch, Detection(masks=False))()
    assert prediction.rles is None
    assert len(prediction.boxes) == 4
    outputs = make_outputs([[0.9, 0.5, 0.2, 0.1]], [0.5])
    outputs.boxes[-1, 0, 1] = outputs.boxes[-1, 0, 0]
    rows = [(0, CELL)]
    (single,) = Answers(rows, outputs, batch, Detection(masks=False))()
    assert single.scores.tolist() == pytest.approx([0.45, 0.1, 0.05])
    (both,) = Answers(rows, outputs, batch, Detection(masks=False, nms=None))()
    assert len(both.boxes) == 4
