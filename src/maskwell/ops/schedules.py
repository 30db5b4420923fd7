"""Learning-rate schedules as pure functions: share of the base rate at an iteration."""

from __future__ import annotations

import math


def warmup_cosine(iteration: int, total: int, *, warmup: int, final_share: float) -> float:
    """Linear rise over ``warmup`` iterations, then half a cosine down to ``final_share`` at ``total``.

    (Loshchilov & Hutter, 2017, eq. 5, without restarts.) Beyond ``total`` the last value is kept.
    """
    if iteration < warmup:
        return (iteration + 1) / (warmup + 1)
    progress = min(1.0, (iteration - warmup) / max(1, total - warmup))
    return final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * progress))


def polynomial(iteration: int, total: int, *, power: float = 0.9) -> float:
    """``(1 - iteration / total) ** power`` (DeepLab, Chen et al., 2018): 0 at ``total``, not before."""
    share: float = max(0.0, 1 - iteration / max(1, total)) ** power
    return share


def ema_decay(iteration: int, final: float) -> float:
    """Decay of an exponential moving average: the plain mean of all iterations so far, up to ``final``."""
    return min(1 - 1 / (iteration + 1), final)
