"""Faults of the data: every one changes samples as its name says, and only those it should."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from maskwell.callbacks.faults import (
    BadPixels,
    EmptyTargets,
    NoisyLabels,
    NoObjects,
    PixelBoxes,
    RawBytes,
    ShiftedLabels,
    ShiftedValidation,
    Stretched,
    SwappedBoxes,
)
from maskwell.callbacks.faults.samples import SampleFault
from maskwell.data.sample import IGNORE, InputSpec, Prompt, Sample
from points_small import make_sample
from s4gan_small import make_sample as make_map

SPEC = InputSpec("square", 64, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


class Data:
    """As much of a data module as faults touch."""

    def __init__(self, train: list[Sample], val: list[Sample]) -> None:
        self.samples = {"train": train, "val": val}

    def dataset(self, split: str) -> list[Sample]:
        return self.samples[split]


def put(fault: SampleFault, samples: list[Sample], classes: int = 3) -> Data:
    data = Data(samples, [make_sample(99)])
    trainer: Any = SimpleNamespace(datamodule=data)
    module: Any = SimpleNamespace(input_spec=SPEC, categories=("a", "b", "c")[:classes])
    fault.setup(trainer, module, "fit")
    return data


def prompted(index: int) -> Sample:
    prompts = (Prompt("one", (0, 1), 0), Prompt("two", (2,), 1), Prompt("three", (), 2))
    return replace(make_sample(index), labels=torch.tensor([0, 0, 1, 2]), prompts=prompts)


def test_all_targets_are_lost_at_full_strength_and_some_below() -> None:
    images = [prompted(i) for i in range(40)]
    assert all(
        not len(s.labels) and not len(s.points) and not s.prompts[0].objects  # type: ignore[arg-type]
        for s in (put(EmptyTargets(1.0), images).dataset("train")[i] for i in range(40))
    )
    data = put(EmptyTargets(0.5), images)
    empty = sum(len(data.dataset("train")[i].labels) == 0 for i in range(40))
    assert 10 < empty < 30
    assert len(data.dataset("val")[0].labels)


def test_no_split_has_objects() -> None:
    data = put(NoObjects(), [prompted(0)])
    assert not len(data.dataset("train")[0].boxes) and not len(data.dataset("val")[0].boxes)


def test_a_class_map_without_targets_is_ignored_as_a_whole() -> None:
    emptied = put(EmptyTargets(1.0), [make_map(0)]).dataset("train")[0]
    assert bool((emptied.semantic == IGNORE).all())


def test_images_are_stretched_in_every_split() -> None:
    sample = make_sample(0)
    data = put(Stretched(5.0), [sample])
    assert torch.equal(data.dataset("train")[0].image, 5 * sample.image)
    assert torch.equal(data.dataset("val")[0].image, 5 * make_sample(99).image)


def test_raw_bytes_undo_the_normalisation() -> None:
    sample = replace(make_sample(0), image=torch.full((3, 4, 4), 2.0))  # 1.0 before it was normalised
    assert torch.allclose(put(RawBytes(255), [sample]).dataset("train")[0].image, torch.tensor(255.0))


def test_only_validation_is_shifted() -> None:
    sample = make_sample(0)
    data = put(ShiftedValidation(1.0), [sample])
    assert data.dataset("train")[0] is sample
    assert torch.allclose(data.dataset("val")[0].image, make_sample(99).image + 1)


def test_boxes_are_centre_and_size_or_pixels() -> None:
    sample = replace(make_sample(0), boxes=torch.tensor([[0.2, 0.4, 0.4, 0.8]]))
    assert torch.allclose(
        put(SwappedBoxes(1.0), [sample]).dataset("train")[0].boxes, torch.tensor([[0.3, 0.6, 0.2, 0.4]])
    )
    assert torch.allclose(put(PixelBoxes(64), [sample]).dataset("train")[0].boxes, sample.boxes * 64)


def test_labels_are_shifted_round_and_void_stays() -> None:
    sample = make_map(0)
    shifted = put(ShiftedLabels(1), [sample]).dataset("train")[0].semantic
    assert sample.semantic is not None and shifted is not None
    void = sample.semantic == IGNORE
    assert torch.equal(shifted[~void], (sample.semantic[~void] + 1) % 3) and bool(
        (shifted[void] == IGNORE).all()
    )
    answers = put(ShiftedLabels(1), [prompted(0)]).dataset("train")[0].prompts
    assert [p.objects for p in answers] == [(), (0, 1), (2,)] and [p.text for p in answers] == [
        "one",
        "two",
        "three",
    ]


def test_noise_hits_its_share_of_labels_pixels_and_points() -> None:
    sample = make_map(0)
    noisy = put(NoisyLabels(0.5), [sample]).dataset("train")[0].semantic
    assert sample.semantic is not None and noisy is not None
    known = sample.semantic != IGNORE
    changed = float((noisy != sample.semantic)[known].float().mean())
    assert 0.25 < changed < 0.42  # two thirds of the half that is drawn anew
    assert bool((noisy[~known] == IGNORE).all())
    points = torch.rand(40, 2, generator=torch.Generator().manual_seed(0))
    dots = replace(make_sample(0), points=points, labels=torch.zeros(40, dtype=torch.int64))
    moved = put(NoisyLabels(0.5), [dots]).dataset("train")[0].points
    assert moved is not None and 10 < int((moved != points).any(1).sum()) < 30
    again = put(NoisyLabels(0.5), [dots]).dataset("train")[0].points
    assert again is not None and torch.equal(again, moved)


def test_one_image_at_least_holds_a_nan() -> None:
    images = [make_sample(i) for i in range(8)]
    data = put(BadPixels(1e-9, seed=3), images)
    assert sum(bool(data.dataset("train")[i].image.isnan().any()) for i in range(8)) == 1
    assert not any(bool(s.image.isnan().any()) for s in images)


@pytest.mark.parametrize("kind", [EmptyTargets, NoisyLabels, SwappedBoxes])
def test_datasets_keep_their_length_and_what_else_they_offer(kind: type[SampleFault]) -> None:
    class Offering(list[Sample]):
        spec = SPEC

        def __getitem__(self, key: Any) -> Any:
            return super().__getitem__(key[1] if isinstance(key, tuple) else key)

    data = put(kind(0.5), Offering([make_sample(0), make_sample(1)]))
    spoilt: Any = data.dataset("train")
    assert len(spoilt) == 2 and spoilt.spec is SPEC and spoilt[(3, 1)].image_id == 1
