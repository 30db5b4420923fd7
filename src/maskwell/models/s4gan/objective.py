"""One iteration of S4GAN as losses: what the generator and the discriminator minimise on a batch.

The algorithm (Mittal et al., 2021) puts four batches through the discriminator: predictions and
labels for the generator's feature matching, and both again for the discriminator's own loss. Here each
goes through once; :func:`~maskwell.models.s4gan.optimisation.set_gradients` reads both gradients from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from maskwell.data.sample import IGNORE, Batch, InputSpec
from maskwell.models.s4gan import loss, pseudo
from maskwell.models.s4gan.discriminator import Discriminator, real_maps
from maskwell.models.s4gan.pseudo import PseudoLabels
from maskwell.models.s4gan.recipe import Recipe
from maskwell.ops import cutmix
from maskwell.ops.views import strong_view

R1_EVERY = 16
"""Iterations between two gradient penalties, each weighted by this (Karras et al., 2020)."""


@dataclass(frozen=True)
class Networks:
    """What an iteration runs; ``discriminator`` is None where the recipe has none."""

    generator: nn.Module
    teacher: nn.Module
    discriminator: Discriminator | None


@dataclass(frozen=True)
class Losses:
    """``generator`` and ``discriminator`` are minimised; ``parts`` are raw terms by log name.

    ``discriminator`` None where the recipe has none, ``pseudo`` None where nothing is unlabelled.
    """

    generator: Tensor
    discriminator: Tensor | None = None
    parts: dict[str, Tensor] = field(default_factory=dict)
    pseudo: PseudoLabels | None = None


@dataclass(frozen=True)
class _Match:
    """What the discriminator says of a batch: the two losses and its logits [B] for the predictions."""

    features: Tensor
    own: Tensor
    penalty: Tensor | None
    fake_logits: Tensor


class Objective:
    """The losses of a recipe.

    Args:
        recipe: its switches.
        spec: mean and std that images were normalised with.
    """

    def __init__(self, recipe: Recipe, spec: InputSpec) -> None:
        self.recipe = recipe
        self.spec = spec

    def __call__(
        self,
        networks: Networks,
        labelled: Batch,
        unlabelled: Batch | None,
        iteration: int,
        mean_confidence: Tensor,
    ) -> Losses:
        """All losses of one iteration.

        Args:
            networks: in training mode.
            labelled: with ``semantic`` labels.
            unlabelled: None in a recipe that takes none.
            iteration: finished ones: 0 in the first.
            mean_confidence: running mean of the confidence of each class, [C].
        """
        logits = networks.generator(labelled.images)
        labels = labelled.semantic()
        entropy = loss.cross_entropy(logits, labels)
        parts = {"loss_ce": entropy}
        if unlabelled is None:
            return Losses(entropy, parts=parts)
        with parametrize.cached():  # one power iteration, and the same weights for both batches
            return self._with_unlabelled(
                networks, labelled, logits, unlabelled, iteration, mean_confidence, parts
            )

    def _with_unlabelled(
        self,
        networks: Networks,
        labelled: Batch,
        logits: Tensor,
        unlabelled: Batch,
        iteration: int,
        mean_confidence: Tensor,
        parts: dict[str, Tensor],
    ) -> Losses:
        recipe, images = self.recipe, unlabelled.images
        total, own = parts["loss_ce"], None
        if recipe.adversarial or recipe.pseudo_labels == "student":
            own = networks.generator(images)
        source = own if recipe.pseudo_labels == "student" else networks.teacher(images)
        assert source is not None
        probabilities = loss.full_precision(source.detach()).softmax(1)
        match, gate = None, None
        if networks.discriminator is not None:
            assert own is not None
            match = self._match(networks.discriminator, labelled, logits, images, own, iteration)
            parts["loss_fm"] = match.features
            total = total + recipe.lambda_fm * match.features
            gate = self._gate(networks.discriminator, images, probabilities, match)
        thresholds = self._thresholds(mean_confidence)
        found = pseudo.choose(probabilities, unlabelled.pixel_mask, gate, thresholds)
        parts["loss_st"] = total.new_zeros(())
        if recipe.lambda_st and iteration >= recipe.st_start:
            parts["loss_st"] = self._self_training(networks.generator, unlabelled, own, found)
            total = total + recipe.lambda_st * parts["loss_st"]
        if match is None:
            return Losses(total, None, parts, found)
        parts["loss_d"] = match.own
        if match.penalty is None:
            return Losses(total, match.own, parts, found)
        return Losses(total, match.own + recipe.r1 * R1_EVERY * match.penalty, parts, found)

    def _match(
        self,
        discriminator: Discriminator,
        labelled: Batch,
        logits: Tensor,
        images: Tensor,
        own: Tensor,
        iteration: int,
    ) -> _Match:
        recipe, real_images = self.recipe, self.colours(labelled.images)
        fake = loss.full_precision(own).softmax(1)
        fake_logits, fake_features = discriminator(self.colours(images), fake)
        real = real_maps(
            labelled.semantic(),
            loss.full_precision(logits.detach()).softmax(1),
            confidence=recipe.real_confidence,
            fill_void=recipe.fill_void,
        )
        real_logits, real_features = discriminator(real_images, real)
        penalty = None
        if recipe.r1 and iteration % R1_EVERY == 0:
            inputs = (real_images.requires_grad_(), real.requires_grad_())
            penalty = loss.r1(discriminator(*inputs)[0], inputs)
        return _Match(
            loss.feature_matching(real_features, fake_features),
            loss.discriminator(real_logits, fake_logits),
            penalty,
            fake_logits,
        )

    def _gate(
        self, discriminator: Discriminator, images: Tensor, probabilities: Tensor, match: _Match
    ) -> Tensor | None:
        """Which images the discriminator takes for real, by the maps that give the pseudo-labels."""
        if self.recipe.threshold_st is None:
            return None
        logits = match.fake_logits
        if self.recipe.pseudo_labels == "teacher" or discriminator.dropout:
            with torch.no_grad():
                logits = discriminator(self.colours(images), probabilities, scoring=True)[0]
        return pseudo.image_gate(logits, self.recipe.threshold_st)

    def _thresholds(self, mean_confidence: Tensor) -> Tensor | None:
        threshold = self.recipe.pixel_threshold
        if threshold is None:
            return None
        if self.recipe.class_wise:
            return pseudo.class_thresholds(mean_confidence, threshold)
        return torch.full_like(mean_confidence, threshold)

    def _self_training(
        self, generator: nn.Module, unlabelled: Batch, own: Tensor | None, found: PseudoLabels
    ) -> Tensor:
        labels, logits, valid = found.labels, own, unlabelled.pixel_mask
        if self.recipe.strong_views:
            view = strong_view(unlabelled.images, self.spec.mean, self.spec.std)
            view = view * valid[:, None]
            height, width = view.shape[-2:]
            inside = cutmix.rectangles(len(view), (height, width), self.recipe.cutmix, view.device)
            labels, valid = cutmix.mix(inside, labels), cutmix.mix(inside, valid)
            logits = generator(cutmix.mix(inside, view))
        elif logits is None:
            logits = generator(unlabelled.images)
        # With a threshold few sure pixels shall weigh little: all that could be sure are the divisor.
        of = valid.sum() if self.recipe.pixel_threshold is not None else None
        return loss.cross_entropy(logits, labels, of)

    def colours(self, images: Tensor) -> Tensor:
        """Normalised images in [-1, 1]: one fixed scale for real and predicted pairs."""
        mean = images.new_tensor(self.spec.mean)[:, None, None]
        std = images.new_tensor(self.spec.std)[:, None, None]
        return (images * std + mean) * 2 - 1


def hidden_labels(batch: Batch) -> Tensor:
    """True labels int64 [B, H, W] that training must not use, 255 where there are none."""
    empty = torch.full(batch.images.shape[-2:], IGNORE, dtype=torch.int64, device=batch.images.device)
    return torch.stack([empty if sample.hidden is None else sample.hidden for sample in batch.samples])
