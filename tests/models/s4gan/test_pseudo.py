"""Pseudo-labels: gates, thresholds, counts."""

from __future__ import annotations

import torch

from maskwell.models.s4gan import pseudo
from maskwell.models.s4gan.tally import PseudoTally

PROBABILITIES = torch.tensor(
    [  # two images of 1 x 3 pixels, two classes
        [[[0.9, 0.6, 0.2]], [[0.1, 0.4, 0.8]]],
        [[[0.5, 0.3, 0.7]], [[0.5, 0.7, 0.3]]],
    ]
)
ALL = torch.ones(2, 1, 3, dtype=torch.bool)


def test_without_gates_every_valid_pixel_teaches() -> None:
    valid = ALL.clone()
    valid[0, 0, 0] = False
    found = pseudo.choose(PROBABILITIES, valid, None, None)
    assert found.labels.tolist() == [[[255, 0, 1]], [[0, 1, 0]]]
    assert int(found.count) == 2


def test_the_image_gate_compares_the_sigmoid_score() -> None:
    logits = torch.tensor([0.0, -1.3, -1.5])  # sigmoid: .5, .214, .182
    assert pseudo.image_gate(logits, 0.2).tolist() == [True, True, False]
    found = pseudo.choose(PROBABILITIES, ALL, torch.tensor([False, True]), None)
    assert (found.labels[0] == 255).all() and (found.labels[1] != 255).all()
    assert int(found.count) == 1


def test_class_wise_thresholds() -> None:
    thresholds = torch.tensor([0.9, 0.65])
    found = pseudo.choose(PROBABILITIES, ALL, None, thresholds)
    assert found.labels.tolist() == [[[0, 255, 1]], [[255, 1, 255]]]
    lowered = pseudo.class_thresholds(torch.tensor([0.8, 0.4, 0.0]), 0.9)
    assert torch.allclose(lowered, torch.tensor([0.9, 0.45, 0.9]))  # the last was never predicted
    assert torch.equal(pseudo.class_thresholds(torch.zeros(2), 0.9), torch.full((2,), 0.9))


def test_running_mean_moves_only_classes_that_were_predicted() -> None:
    found = pseudo.choose(PROBABILITIES, ALL, None, None)
    sums, counts = pseudo.confidence_sums(found, ALL, 3)
    assert torch.allclose(sums, torch.tensor([0.9 + 0.6 + 0.5 + 0.7, 0.8 + 0.7, 0.0]))
    assert counts.tolist() == [4, 2, 0]
    mean = pseudo.running_mean(torch.ones(3), sums, counts, 0.9)
    assert torch.allclose(mean, torch.tensor([0.9 + 0.1 * 2.7 / 4, 0.9 + 0.1 * 0.75, 1.0]))
    first = pseudo.running_mean(torch.zeros(3), sums, counts, 0.9)
    assert torch.allclose(first, torch.tensor([2.7 / 4, 0.75, 0.0]))


def test_a_broken_image_does_not_end_the_running_mean() -> None:
    broken = PROBABILITIES.clone()
    broken[0, :, 0, 0] = torch.nan
    found = pseudo.choose(broken, ALL, None, None)
    sums, counts = pseudo.confidence_sums(found, ALL, 3)
    assert torch.isfinite(sums).all() and int(counts.sum()) == ALL.sum() - 1


def test_the_surest_class_keeps_the_threshold_where_another_was_never_predicted() -> None:
    tally = PseudoTally(3)
    found = pseudo.choose(PROBABILITIES, ALL, None, None)
    sums, counts = pseudo.confidence_sums(found, ALL, 3)
    tally.add(torch.cat([torch.zeros(6), torch.zeros(3), sums, counts]))
    thresholds = pseudo.class_thresholds(tally.mean_confidence, 0.9)
    assert torch.allclose(thresholds, torch.tensor([0.9 * 0.675 / 0.75, 0.9, 0.9]))


def test_agreement_and_histogram_leave_void_out() -> None:
    labels = torch.tensor([[[0, 1, 255, 1]]])
    hidden = torch.tensor([[[0, 0, 1, 255]]])
    right, checked = pseudo.agreement(labels, hidden)
    assert (int(right), int(checked)) == (1, 2)
    assert pseudo.histogram(labels, 3).tolist() == [1, 2, 0]
