"""The shared-pass step against the plain four-pass algorithm, and who gets which gradient."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskwell.data.sample import Batch
from maskwell.models.s4gan import objective
from maskwell.models.s4gan.module import S4Gan
from maskwell.models.s4gan.objective import Losses, Networks
from maskwell.models.s4gan.optimisation import set_gradients
from maskwell.models.s4gan.recipe import Recipe
from s4gan_small import RECIPES, doubled, make_batch, make_task, train_batch

MEAN = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64)[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64)[:, None, None]


def losses(task: S4Gan, batch: dict[str, Batch], iteration: int = 100) -> Losses:
    networks = Networks(task.generator, task.teacher, task.discriminator)
    return task.objective(
        networks, batch["labelled"], batch.get("unlabelled"), iteration, task.tally.mean_confidence
    )


def shared(task: S4Gan, batch: dict[str, Batch]) -> tuple[list[Tensor], list[Tensor], Losses]:
    """Gradients of generator and discriminator from one shared graph."""
    found = losses(task, batch)
    assert found.discriminator is not None and task.discriminator is not None
    generator, discriminator = list(task.generator.parameters()), list(task.discriminator.parameters())
    set_gradients([(found.generator, generator), (found.discriminator, discriminator)])
    assert all(p.grad is not None for p in [*generator, *discriminator])
    return [p.grad for p in generator], [p.grad for p in discriminator], found  # type: ignore[misc]


def plain(task: S4Gan, batch: dict[str, Batch]) -> tuple[list[Tensor], list[Tensor], list[float]]:
    """The algorithm as published: four discriminator passes, two backward passes, D frozen in the first."""
    generator, discriminator = copy.deepcopy(task.generator), copy.deepcopy(task.discriminator)
    assert discriminator is not None
    lab, unl = batch["labelled"].images, batch["unlabelled"].images
    labels = torch.stack([s.semantic for s in batch["labelled"].samples])  # type: ignore[misc]
    colour = lambda x: (x * STD + MEAN) * 2 - 1  # noqa: E731

    discriminator.requires_grad_(False)
    loss_ce = F.cross_entropy(generator(lab), labels, ignore_index=255)
    logits = generator(unl)
    fake = logits.softmax(1)
    score, fake_features = discriminator(colour(unl), fake)
    one_hot = torch.stack([(labels == c) for c in range(3)], dim=1).double()
    _, real_features = discriminator(colour(lab), one_hot)
    loss_fm = (real_features.mean(0) - fake_features.mean(0)).abs().mean()
    chosen = torch.sigmoid(score) > 0.2
    assert chosen.any()
    loss_st = F.cross_entropy(logits[chosen], logits[chosen].argmax(1).detach())
    (loss_ce + 0.1 * loss_fm + loss_st).backward()

    discriminator.requires_grad_(True)
    on_fake = discriminator(colour(unl), fake.detach())[0]
    on_real = discriminator(colour(lab), one_hot)[0]
    bce = nn.BCEWithLogitsLoss()
    loss_d = 0.5 * (bce(on_fake, torch.zeros_like(on_fake)) + bce(on_real, torch.ones_like(on_real)))
    loss_d.backward()
    figures = [float(v) for v in (loss_ce.detach(), loss_fm.detach(), loss_st.detach(), loss_d.detach())]
    found = [[p.grad for p in net.parameters()] for net in (generator, discriminator)]
    return found[0], found[1], figures  # type: ignore[return-value]


def in_double(recipe: str | Recipe) -> tuple[S4Gan, dict[str, Batch]]:
    task = make_task(recipe).double().train()
    return task, {name: doubled(part) for name, part in train_batch(count=3).items()}


@pytest.mark.parametrize("spectral", [False, True])
def test_gradients_are_those_of_the_four_pass_algorithm(spectral: bool) -> None:
    task, batch = in_double(replace(RECIPES["guide"], spectral_norm=spectral))
    assert task.discriminator is not None
    task.discriminator.eval()  # power iterations would move the weights between the four passes
    for wanted, found in zip(plain(task, batch)[:2], shared(task, batch)[:2], strict=True):
        for a, b in zip(wanted, found, strict=True):
            assert (a - b).abs().max() <= 1e-6 * max(1.0, float(a.abs().max()))
    parts = shared(task, batch)[2].parts
    for name, value in zip(("loss_ce", "loss_fm", "loss_st", "loss_d"), plain(task, batch)[2], strict=True):
        assert math.isclose(float(parts[name].detach()), value, rel_tol=1e-6), name


def test_feature_matching_reaches_the_generator_and_never_the_discriminator() -> None:
    task, batch = in_double("guide")
    value = losses(task, batch).parts["loss_fm"]
    head = task.generator.head.classifier.weight  # type: ignore[union-attr]
    (gradient,) = torch.autograd.grad(value, [head], retain_graph=True)
    assert gradient.abs().max() > 0
    set_gradients([(value, list(task.generator.parameters()))])
    assert task.discriminator is not None
    assert all(p.grad is None for p in task.discriminator.parameters())


def test_the_discriminators_loss_leaves_the_generator_alone() -> None:
    task, batch = in_double("guide")
    found = losses(task, batch)
    assert found.discriminator is not None and task.discriminator is not None
    set_gradients([(found.discriminator, list(task.discriminator.parameters()))])
    assert all(p.grad is None for p in task.generator.parameters())


@pytest.mark.parametrize("recipe", ["guide", "sound"])
def test_the_discriminator_starts_by_guessing(recipe: str) -> None:
    task = make_task(recipe)
    assert abs(float(losses(task, train_batch(), 0).parts["loss_d"].detach()) - math.log(2)) < 0.05


@pytest.mark.parametrize("recipe", ["guide", "sound", "sound_without_d"])
def test_self_training_waits_for_its_iteration(recipe: str) -> None:
    task = make_task(replace(RECIPES[recipe], st_start=1000, pixel_threshold=None, class_wise=False))
    before, after = (losses(task, train_batch(), i) for i in (999, 1000))
    assert float(before.parts["loss_st"]) == 0.0
    assert float(after.parts["loss_st"].detach()) > 0.0
    assert before.pseudo is not None and int(before.pseudo.count) == 2  # counted all the same


def test_the_threshold_meets_the_sigmoid_score() -> None:
    """At the start every score is about one half: above 0.2, and not above 0.9."""
    for threshold, count in ((0.2, 2), (0.9, 0)):
        found = losses(make_task(replace(RECIPES["guide"], threshold_st=threshold)), train_batch())
        assert found.pseudo is not None and int(found.pseudo.count) == count
    assert float(found.parts["loss_st"].detach()) == 0.0


def test_without_unlabelled_images_there_is_cross_entropy_alone() -> None:
    found = losses(make_task("supervised"), {"labelled": make_batch(0, 1)})
    assert set(found.parts) == {"loss_ce"} and found.discriminator is None and found.pseudo is None


def test_an_all_void_batch_costs_nothing_and_is_finite() -> None:
    batch = train_batch()
    for sample in batch["labelled"].samples:
        assert sample.semantic is not None
        sample.semantic.fill_(255)
    task = make_task("sound")
    found = losses(task, batch)
    assert float(found.parts["loss_ce"].detach()) == 0.0
    assert all(torch.isfinite(value) for value in found.parts.values())
    found = losses(make_task("supervised"), batch)
    set_gradients([(found.generator, list(task.generator.parameters()))])
    assert float(found.generator.detach()) == 0.0


def test_padding_never_teaches() -> None:
    batch = train_batch()
    batch["unlabelled"].pixel_mask[:, 16:] = False
    found = losses(make_task(RECIPES["guide"]), batch)
    assert found.pseudo is not None
    assert (found.pseudo.labels[:, 16:] == 255).all() and (found.pseudo.labels[:, :16] != 255).any()


def test_self_training_divides_by_the_pixels_that_are_left_after_cutmix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    divisors = []

    def spy(logits: Tensor, labels: Tensor, of: Tensor | None = None) -> Tensor:
        divisors.append(of)
        return plain_entropy(logits, labels, of)

    plain_entropy = objective.loss.cross_entropy
    monkeypatch.setattr(objective.loss, "cross_entropy", spy)
    inside = torch.zeros(2, 32, 32, dtype=torch.bool)
    inside[1] = True  # the second image becomes the first, of which half is padding
    monkeypatch.setattr(objective.cutmix, "rectangles", lambda *_: inside)
    batch = train_batch()
    batch["unlabelled"].pixel_mask[0, 16:] = False
    losses(make_task("sound_without_d"), batch)
    assert int(divisors[-1]) == 2 * 16 * 32


def test_the_gradient_penalty_reaches_the_discriminator_every_sixteenth_iteration() -> None:
    task = make_task(replace(RECIPES["guide"], r1=1.0))
    with_penalty, without = (losses(task, train_batch(), i) for i in (16, 17))
    assert with_penalty.discriminator is not None and without.discriminator is not None
    assert float(with_penalty.discriminator.detach()) > float(with_penalty.parts["loss_d"].detach())
    assert float(without.discriminator.detach()) == float(without.parts["loss_d"].detach())


def test_dropout_of_the_discriminator_does_not_touch_its_scores() -> None:
    from maskwell.models.s4gan.discriminator import DiscriminatorSpec

    task = make_task("guide", discriminator=DiscriminatorSpec(4, 0.5))
    assert task.discriminator is not None
    calls: list[bool] = []
    task.discriminator.register_forward_hook(
        lambda module, args, kwargs, output: calls.append(kwargs.get("scoring", False)), with_kwargs=True
    )
    losses(task, train_batch())
    assert calls == [False, False, True]


def test_gradients_lie_in_memory_as_their_parameters() -> None:
    weight = nn.Parameter(torch.randn(6, 5))
    set_gradients([((torch.randn(5, 6) * weight.t()).sum() + weight.sum(), [weight])])
    assert weight.grad is not None and weight.grad.stride() == weight.stride()
