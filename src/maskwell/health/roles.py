"""Which role a part of a loss has, by what it is called."""

from __future__ import annotations

import re
from functools import cache

from maskwell.health.signals import Role

PATTERNS: tuple[tuple[str, Role], ...] = (
    (r"(^|_)(d|fm|adv|adversarial|gan|generator|discriminator|disc|critic)($|_)", "adversarial"),
    (r"(^|_)(st|u|unsup|unsupervised|consistency|pseudo|ssl|distill|contrastive)($|_)", "consistency"),
    (r"(^|_)(reg|kl|kld|weight_decay|l2|commit|balance|penalty|r1|entropy)($|_)", "regulariser"),
)
"""Words of names, first match; everything else is supervised."""


@cache
def role_of(part: str) -> Role:
    """``loss_fm`` -> adversarial, ``loss_st`` -> consistency, ``kl`` -> regulariser, else supervised."""
    name = part.lower().rpartition("/")[2].removeprefix("loss_").removesuffix("_loss")
    for pattern, role in PATTERNS:
        if re.search(pattern, name):
            return role
    return "supervised"
