"""Faults of networks and of what an adversarial training shows its discriminator."""

from __future__ import annotations

from typing import Any

import torch

import points_small
import s4gan_small
from maskwell.callbacks.faults import (
    CollapsedPseudoLabels,
    DiscriminatorRange,
    DoneAlways,
    DoneNever,
    DoubleSoftmax,
    Fault,
    Overflow,
)


def put(fault: Fault, task: Any, at: int = 1) -> Any:
    fault.setup(None, task, "fit")  # type: ignore[arg-type]
    fault.now = at
    return task


def test_activations_overflow_in_training_only() -> None:
    batch = points_small.make_batch(3, 2)
    task = put(Overflow(1e6, start=5), points_small.make_task(), at=5)
    assert bool(task.step(batch, "train").loss.isfinite())
    task = put(Overflow(1e6, start=5), points_small.make_task(), at=6)
    assert not bool(task.step(batch, "train").loss.isfinite())
    assert bool(task.eval().step(batch, "val").loss.isfinite())


def test_nothing_overflows_where_numbers_are_small() -> None:
    fault = Overflow(1e-9)
    task = put(fault, points_small.make_task())
    task.step(points_small.make_batch(3, 2), "train").loss.backward()
    assert fault.onset is None
    assert all(bool(p.grad.isfinite().all()) for p in task.parameters() if p.grad is not None)


def test_the_generator_gives_probabilities() -> None:
    images = s4gan_small.make_batch(0, 1).images
    logits = s4gan_small.make_task("guide").generator(images)
    task = put(DoubleSoftmax(2), s4gan_small.make_task("guide"))
    assert torch.allclose(task.generator(images), logits.softmax(1).softmax(1), atol=1e-6)


def test_pseudo_labels_are_of_one_class() -> None:
    task = s4gan_small.make_task("sound_without_d")
    batch = s4gan_small.train_batch()
    put(CollapsedPseudoLabels(1.0), task)
    made = task._losses(batch)
    assert bool((made.pseudo.labels[made.pseudo.labels != 255] == 0).all())
    shown = task.step(batch["labelled"], "val").preds()[0].semantic
    clean = s4gan_small.make_task("sound_without_d").step(batch["labelled"], "val").preds()[0].semantic
    assert torch.equal(shown, clean)


def test_real_images_of_the_discriminator_are_larger() -> None:
    task = s4gan_small.make_task("guide")
    assert task.discriminator is not None
    seen: list[float] = []
    task.discriminator.register_forward_pre_hook(lambda _, given: seen.append(float(given[0].abs().max())))
    torch.manual_seed(0)
    task._losses(s4gan_small.train_batch())
    put(DiscriminatorRange(255.0), task)
    torch.manual_seed(0)
    task._losses(s4gan_small.train_batch())
    (fake, real), (same, larger) = seen[:2], seen[2:4]
    assert same == fake and torch.isclose(torch.tensor(larger), torch.tensor(255 * real))


def test_states_are_all_finished_or_none() -> None:
    batch = points_small.make_batch(3, 4)
    assert float(put(DoneAlways(1.0), points_small.make_task()).step(batch, "train").facts["done_share"]) == 1
    task = points_small.make_task(mode="done")
    assert float(task.step(batch, "train").facts["done_share"]) > 0
    assert float(put(DoneNever(1.0), task).step(batch, "train").facts["done_share"]) == 0
