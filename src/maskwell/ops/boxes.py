"""Box arithmetic. Boxes are float tensors [..., 4]; xyxy = (left, top, right, bottom)."""

from __future__ import annotations

import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(centre x, centre y, width, height) [..., 4] -> xyxy [..., 4], same units."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """xyxy [..., 4] -> (centre x, centre y, width, height) [..., 4], same units."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def area(boxes: Tensor) -> Tensor:
    """xyxy [..., 4] -> area [...]; 0 where a box is inverted."""
    size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return size[..., 0] * size[..., 1]


def _iou_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    low = torch.maximum(a[..., :2], b[..., :2])
    high = torch.minimum(a[..., 2:], b[..., 2:])
    overlap = (high - low).clamp(min=0)
    intersection = overlap[..., 0] * overlap[..., 1]
    union = area(a) + area(b) - intersection
    return intersection / union.clamp(min=1e-9), union


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of broadcastable xyxy boxes [..., 4] -> [...]."""
    return _iou_union(a, b)[0]


def generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """GIoU in [-1, 1] of broadcastable xyxy boxes [..., 4] -> [...] (Rezatofighi et al., 2019, eq. 1)."""
    overlap, union = _iou_union(a, b)
    low = torch.minimum(a[..., :2], b[..., :2])
    high = torch.maximum(a[..., 2:], b[..., 2:])
    hull = (high - low).clamp(min=0)
    hull_area = (hull[..., 0] * hull[..., 1]).clamp(min=1e-9)
    return overlap - (hull_area - union) / hull_area


def pairwise(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Views of [..., N, 4] and [..., M, 4] that broadcast against each other to [..., N, M, 4]."""
    return a.unsqueeze(-2), b.unsqueeze(-3)
