"""Suppression of duplicates among the answers to one question."""

from __future__ import annotations

import torch
from torch import Tensor


def greedy(overlaps: Tensor, threshold: float) -> Tensor:
    """Indices of the answers that stay, best first.

    Args:
        overlaps: [K, K] pairwise overlap of answers that are ordered best first.
        threshold: an answer that overlaps a better one that stays by more than this goes.

    Returns:
        int64 [kept], ascending.
    """
    rivals = (overlaps > threshold).cpu().numpy()
    kept: list[int] = []
    for index in range(len(rivals)):
        if not rivals[index, kept].any():
            kept.append(index)
    return torch.tensor(kept, dtype=torch.int64)
