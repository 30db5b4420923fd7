"""What is learnt from unlabelled images, and how: every switch of the family in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from maskwell.errors import UserError


@dataclass(frozen=True)
class Recipe:
    """How labelled and unlabelled images train the generator; conf/model/recipe holds the named ones.

    Args:
        unlabelled: use unlabelled images at all; False is the supervised control.
        adversarial: train a discriminator, and the generator to match its features.
        lambda_fm: weight of feature matching (Mittal et al., 2021: 0.1).
        lambda_st: weight of self-training (Mittal et al.: 1.0).
        st_start: iterations before self-training begins (the field notes: 1000).
        threshold_st: an image teaches if the discriminator's sigmoid score of its class map exceeds
            this (Mittal et al.: 0.6, the field notes: 0.2); null asks no discriminator.
        pixel_threshold: a pixel teaches if its confidence reaches this (FixMatch, Sohn et al., 2020;
            UniMatch: 0.95 on VOC); null takes every pixel.
        class_wise: lower that threshold for classes of which the model is less sure (FreeMatch, Wang
            et al., 2023), so that rare ones are taught too.
        pseudo_labels: from the ``student``'s own output, or from its averaged ``teacher`` (Tarvainen &
            Valpola, 2017).
        strong_views: the student learns from a photometrically distorted view of what gave the
            pseudo-label (FixMatch); False teaches the very output that the label was read from.
        cutmix: probability that a strong view gets a rectangle of another image (French et al., 2020).
        real_confidence: what the labelled class gets at least in the maps that the discriminator takes for
            real (Luc et al., 2016, "scale": 0.9); 1 gives hard one-hot maps, which betray themselves.
        fill_void: void pixels of those maps hold the generator's prediction; False leaves zeros, which
            no prediction ever has.
        spectral_norm: divide the discriminator's weights by their spectral norm (Miyato et al., 2018).
        r1: weight of the gradient penalty at real pairs (Mescheder et al., 2018); 0 for none.
    """

    unlabelled: bool
    adversarial: bool = False
    lambda_fm: float = 0.1
    lambda_st: float = 1.0
    st_start: int = 1000
    threshold_st: float | None = None
    pixel_threshold: float | None = None
    class_wise: bool = False
    pseudo_labels: Literal["student", "teacher"] = "teacher"
    strong_views: bool = False
    cutmix: float = 0.0
    real_confidence: float = 1.0
    fill_void: bool = False
    spectral_norm: bool = False
    r1: float = 0.0

    def __post_init__(self) -> None:
        for name in ("lambda_fm", "lambda_st", "st_start", "r1"):
            if getattr(self, name) < 0:
                raise UserError(f"model.recipe.{name}={getattr(self, name)}: give 0 or more.")
        for name in ("threshold_st", "pixel_threshold", "cutmix"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise UserError(f"model.recipe.{name}={value}: give a share in [0, 1].")
        if not 0 < self.real_confidence <= 1:
            raise UserError(f"model.recipe.real_confidence={self.real_confidence}: give a share in (0, 1].")
        if self.pseudo_labels not in ("student", "teacher"):
            raise UserError(f"model.recipe.pseudo_labels={self.pseudo_labels}: give student or teacher.")
        self._check_combination()

    def _check_combination(self) -> None:
        if not self.unlabelled and (self.adversarial or self.strong_views):
            raise UserError(
                "model.recipe.unlabelled=false leaves nothing for the discriminator or for strong views: "
                "set model.recipe.adversarial=false and model.recipe.strong_views=false."
            )
        if self.threshold_st is not None and not self.adversarial:
            raise UserError(
                f"model.recipe.threshold_st={self.threshold_st} asks a discriminator, and this recipe has "
                "none: set it to null, or choose model/recipe=sound or guide."
            )
        if self.cutmix and not self.strong_views:
            raise UserError(
                "model.recipe.cutmix mixes strong views: set model.recipe.strong_views=true, or cutmix=0."
            )
        if self.class_wise and self.pixel_threshold is None:
            raise UserError(
                "model.recipe.class_wise lowers model.recipe.pixel_threshold, which is null: give it."
            )
