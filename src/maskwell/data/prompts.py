"""Which phrases a promptable model is asked about an image, and which objects answer them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from maskwell.data.sample import Prompt
from maskwell.errors import UserError, nearest

_TRAINED_ABSENT = ("car", "book", "tree", "window", "shoe", "bridge")
"""Negatives of training where a one-category dataset has no absent category: a model that is only ever
asked for what is there learns to answer every word."""

_ABSENT = ("bicycle", "coffee cup", "zebra")
"""Likewise in evaluation; other words than in training, so that the answer is not learnt by heart."""


class PromptPolicy:
    """Turns the labels of an image into prompts.

    Positives are the categories present, negatives are absent categories and ``generic_words``.
    In training a seeded choice of at most ``num_negatives`` is asked; in evaluation every category
    is asked on every image. Data of one category, where none is ever absent, gets words of its own as
    negatives in both where ``generic_words`` is empty.

    Args:
        rename: category name -> phrase to ask instead ("nucleus" -> "cell nucleus").
        num_negatives: candidates per training image, chosen among absent categories and words.
        generic_words: phrases that name no category of the data and are never right.
    """

    def __init__(
        self,
        rename: Mapping[str, str] | None = None,
        num_negatives: int = 5,
        generic_words: Sequence[str] = (),
    ) -> None:
        self.rename = dict(rename or {})
        self.num_negatives = num_negatives
        self.generic_words = tuple(generic_words)

    def phrase(self, category: str) -> str:
        """The phrase that is asked for ``category``."""
        return self.rename.get(category, category)

    def check(self, categories: Sequence[str]) -> None:
        """Refuse renamed categories that do not exist, and phrases that stand for two categories.

        Raises:
            UserError: naming the key.
        """
        for name in self.rename:
            if name not in categories:
                known = nearest(name, categories) or f" The categories are: {', '.join(categories)}."
                raise UserError(
                    f"data.prompts.rename names '{name}', which is no category of the data.{known}"
                )
        phrases = [self.phrase(name) for name in categories] + list(self.generic_words)
        twice = next((phrase for phrase in phrases if phrases.count(phrase) > 1), None)
        if twice is not None:
            raise UserError(f"data.prompts asks '{twice}' for two things; give each category its own phrase.")

    def training(
        self,
        labels: Sequence[int],
        categories: Sequence[str],
        rng: np.random.Generator,
        unsure: Collection[int] = (),
    ) -> tuple[Prompt, ...]:
        """Positives of the image and a seeded choice of negatives, in a seeded order.

        ``unsure``: labels that are present only as a crowd, and so neither right nor wrong to ask.
        """
        positives = [self._positive(label, labels, categories) for label in sorted(set(labels))]
        known = set(labels) | set(unsure)
        absent = [
            Prompt(self.phrase(name), (), label)
            for label, name in enumerate(categories)
            if label not in known
        ]
        words = self.generic_words or (_TRAINED_ABSENT if len(categories) == 1 else ())
        candidates = [*absent, *phrase_prompts([(word, ()) for word in words])]
        count = min(self.num_negatives, len(candidates))
        chosen = [candidates[i] for i in rng.permutation(len(candidates))[:count]]
        prompts = positives + chosen
        return tuple(prompts[i] for i in rng.permutation(len(prompts)))

    def evaluation(self, labels: Sequence[int], categories: Sequence[str]) -> tuple[Prompt, ...]:
        """Every category, then the generic words; the same on every image."""
        asked = tuple(self._positive(label, labels, categories) for label in range(len(categories)))
        words = [(word, ()) for word in self.evaluation_words(categories)]
        return asked + phrase_prompts(words)

    def evaluation_words(self, categories: Sequence[str]) -> tuple[str, ...]:
        """Generic words of the evaluation: a default list for data of one category."""
        if self.generic_words or len(categories) > 1:
            return self.generic_words
        return _ABSENT

    def _positive(self, label: int, labels: Sequence[int], categories: Sequence[str]) -> Prompt:
        objects = tuple(row for row, other in enumerate(labels) if other == label)
        return Prompt(self.phrase(categories[label]), objects, label)


def phrase_prompts(phrases: Sequence[tuple[str, tuple[int, ...]]]) -> tuple[Prompt, ...]:
    """Prompts for free phrases (also where one is a category's name), labelled -1, -2, ... each its own."""
    return tuple(Prompt(text, objects, -1 - number) for number, (text, objects) in enumerate(phrases))
