"""Point sampling of mask logits and targets (PointRend, Kirillov et al., 2020, section 3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of maps [N, H, W] at points [N, P, 2] ((x, y) in [0, 1]) -> [N, P]."""
    grid = (points * 2 - 1).unsqueeze(2)
    values = F.grid_sample(maps.unsqueeze(1), grid, align_corners=False, padding_mode="border")
    return values[:, 0, :, 0]


def uncertain_points(
    logits: Tensor,
    num_points: int,
    *,
    oversample: float = 3.0,
    importance: float = 0.75,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Points [N, P, 2] drawn where mask logits [N, h, w] are nearest 0, the rest uniformly.

    ``oversample`` x P uniform candidates are drawn, the ``importance`` share of P with the smallest
    |logit| is kept, and the remainder of P is uniform. No gradient flows.
    """
    with torch.no_grad():
        n, device = logits.shape[0], logits.device
        candidates = torch.rand(n, int(num_points * oversample), 2, device=device, generator=generator)
        certainty = sample_points(logits.detach().float(), candidates).abs()
        kept = int(num_points * importance)
        nearest = certainty.topk(kept, dim=1, largest=False).indices
        chosen = candidates.gather(1, nearest.unsqueeze(-1).expand(-1, -1, 2))
        uniform = torch.rand(n, num_points - kept, 2, device=device, generator=generator)
        return torch.cat([chosen, uniform], dim=1)
