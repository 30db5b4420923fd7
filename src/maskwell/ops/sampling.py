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


def sample_masks(masks: Tensor, points: Tensor) -> Tensor:
    """As :func:`sample_points` for bool masks [N, H, W], without a copy of them in floats -> [N, P].

    At 1008 px such a copy is four megabytes an object, more than everything else that sampling needs.
    """
    height, width = masks.shape[-2:]
    limit = points.new_tensor([width - 1, height - 1])
    at = torch.minimum((points * points.new_tensor([width, height]) - 0.5).clamp(min=0), limit)
    low = at.floor()
    share_x, share_y = (at - low).unbind(-1)
    left, top = low.long().unbind(-1)
    right, bottom = (left + 1).clamp(max=width - 1), (top + 1).clamp(max=height - 1)
    flat = masks.flatten(1)

    def value(y: Tensor, x: Tensor) -> Tensor:
        return flat.gather(1, y * width + x).to(points.dtype)

    upper = torch.lerp(value(top, left), value(top, right), share_x)
    lower = torch.lerp(value(bottom, left), value(bottom, right), share_x)
    return torch.lerp(upper, lower, share_y)


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
