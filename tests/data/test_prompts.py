"""Which phrases are asked, in training and in evaluation."""

from __future__ import annotations

import numpy as np
import pytest

from maskwell.data.prompts import PromptPolicy, phrase_prompts
from maskwell.data.sample import Prompt
from maskwell.errors import UserError

NAMES = ("cell", "debris", "fibre", "bubble")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_training_asks_what_is_there_and_some_of_what_is_not() -> None:
    policy = PromptPolicy({"cell": "living cell"}, num_negatives=2, generic_words=["cat"])
    seen = set()
    for seed in range(40):
        prompts = policy.training([2, 0, 2], NAMES, rng(seed))
        positives = {p for p in prompts if p.objects}
        assert positives == {Prompt("living cell", (1,), 0), Prompt("fibre", (0, 2), 2)}
        negatives = [p for p in prompts if not p.objects]
        assert len(negatives) == 2
        seen |= {(p.text, p.label) for p in negatives}
    assert seen == {("debris", 1), ("bubble", 3), ("cat", -1)}
    assert policy.training([2], NAMES, rng(3)) == policy.training([2], NAMES, rng(3))


def test_no_negatives_and_empty_images() -> None:
    assert PromptPolicy(num_negatives=0).training([], NAMES, rng()) == ()
    prompts = PromptPolicy(num_negatives=9).training([], NAMES, rng())
    assert {p.text for p in prompts} == set(NAMES) and not any(p.objects for p in prompts)


def test_a_category_present_only_as_a_crowd_is_not_asked_in_training() -> None:
    prompts = PromptPolicy(num_negatives=9).training([0], NAMES, rng(), unsure={1})
    assert {p.text for p in prompts} == {"cell", "fibre", "bubble"}


def test_evaluation_asks_every_category_on_every_image() -> None:
    prompts = PromptPolicy({"debris": "dirt"}).evaluation([1, 1], NAMES)
    assert prompts == (
        Prompt("cell", (), 0),
        Prompt("dirt", (0, 1), 1),
        Prompt("fibre", (), 2),
        Prompt("bubble", (), 3),
    )


def test_data_of_one_category_has_negatives_in_evaluation() -> None:
    prompts = PromptPolicy().evaluation([0], ("cell",))
    assert prompts[0] == Prompt("cell", (0,), 0)
    assert len(prompts) > 3 and all(p.label < 0 and not p.objects for p in prompts[1:])
    assert PromptPolicy(generic_words=["cat"]).evaluation([], ("cell",))[1:] == (Prompt("cat", ()),)


def test_phrases_of_the_data_are_free_also_where_they_name_a_category() -> None:
    prompts = phrase_prompts((("red cell", (1,)), (NAMES[1], ())))
    assert prompts == (Prompt("red cell", (1,), -1), Prompt(NAMES[1], (), -2))


def test_bad_settings_are_refused() -> None:
    with pytest.raises(UserError, match=r"rename names 'cel'.*Did you mean 'cell'"):
        PromptPolicy({"cel": "x"}).check(NAMES)
    with pytest.raises(UserError, match=r"rename names 'horse'.*cell, debris, fibre, bubble"):
        PromptPolicy({"horse": "x"}).check(NAMES)
    with pytest.raises(UserError, match="asks 'debris' for two things"):
        PromptPolicy({"cell": "debris"}).check(NAMES)
    PromptPolicy({"cell": "nucleus"}, generic_words=["cat"]).check(NAMES)


def test_data_of_one_category_is_asked_for_absent_things_in_training_too() -> None:
    policy = PromptPolicy(num_negatives=2)
    asked = policy.training([0, 0], ("cell",), rng())
    negatives = {prompt.text for prompt in asked if not prompt.objects}
    assert len(negatives) == 2 and all(prompt.label < 0 for prompt in asked if not prompt.objects)
    evaluated = {prompt.text for prompt in policy.evaluation([0], ("cell",)) if not prompt.objects}
    assert evaluated and not evaluated & negatives
    assert PromptPolicy(num_negatives=2, generic_words=["cat"]).training([0], ("cell",), rng()) != asked
