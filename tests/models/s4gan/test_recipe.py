"""The named recipes: what each switches, and combinations that make no sense."""

from __future__ import annotations

from dataclasses import asdict

import pytest
from hydra.utils import instantiate

from maskwell import compose
from maskwell.errors import UserError
from maskwell.models.s4gan.recipe import Recipe

NAMES = ("guide", "sound", "sound_without_d", "supervised", "consistency")


def named(name: str) -> Recipe:
    cfg, _ = compose.compose("train", ["model=s4gan", f"model/recipe={name}"])
    recipe = instantiate(cfg.model.recipe)
    assert isinstance(recipe, Recipe)
    return recipe


def test_each_file_sets_every_switch() -> None:
    """So that any of them can be overridden from the shell without a plus."""
    for name in NAMES:
        cfg, _ = compose.compose("train", ["model=s4gan", f"model/recipe={name}"])
        assert set(cfg.model.recipe) - {"_target_"} == set(asdict(named(name)))


def test_guide_is_the_notes() -> None:
    recipe = named("guide")
    assert (recipe.lambda_fm, recipe.lambda_st, recipe.st_start, recipe.threshold_st) == (0.1, 1.0, 1000, 0.2)
    assert recipe.real_confidence == 1.0 and recipe.pseudo_labels == "student"
    assert not (recipe.fill_void or recipe.spectral_norm or recipe.strong_views or recipe.pixel_threshold)


def test_the_twin_of_sound_differs_by_the_discriminator_alone() -> None:
    sound, twin = asdict(named("sound")), asdict(named("sound_without_d"))
    differing = {key for key in sound if sound[key] != twin[key]}
    of_the_discriminator = {"adversarial", "threshold_st", "real_confidence", "fill_void", "spectral_norm"}
    assert differing == of_the_discriminator
    assert not twin["adversarial"] and twin["threshold_st"] is None


def test_sound_is_the_default_and_controls_have_no_discriminator() -> None:
    cfg, _ = compose.compose("train", ["model=s4gan"])
    assert instantiate(cfg.model.recipe) == named("sound")
    assert not named("supervised").unlabelled
    assert not named("consistency").adversarial and named("consistency").unlabelled


def test_a_recipe_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UserError, match="Did you mean 'guide'"):
        compose.compose("train", ["model=s4gan", "model/recipe=gude"])
    with pytest.raises(UserError, match="the chosen model has no 'recipe'"):
        compose.compose("train", ["model=sam_lora", "model/recipe=guide"])
    with pytest.raises(UserError, match=r"model\.recipe\.lambda_st"):
        compose.compose("train", ["model=s4gan", "model.recipe.lambda_stt=1"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"unlabelled": False, "adversarial": True}, "leaves nothing"),
        ({"unlabelled": True, "threshold_st": 0.2}, "asks a discriminator"),
        ({"unlabelled": True, "cutmix": 0.5}, "mixes strong views"),
        ({"unlabelled": True, "class_wise": True}, "pixel_threshold"),
        ({"unlabelled": True, "lambda_st": -1.0}, "0 or more"),
        ({"unlabelled": True, "pixel_threshold": 1.5}, "share in"),
        ({"unlabelled": True, "real_confidence": 0.0}, "share in"),
        ({"unlabelled": True, "pseudo_labels": "both"}, "student or teacher"),
    ],
)
def test_combinations_without_sense_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Recipe(**settings)  # type: ignore[arg-type]
