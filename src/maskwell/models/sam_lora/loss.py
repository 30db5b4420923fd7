"""The set loss of SAM 3's training, on a batch of (image, prompt) rows.

Terms and weights follow upstream's fine-tuning configuration (facebookresearch/sam3): L1 5, GIoU 2,
IoU-aware classification 20, presence 20, mask focal 200, mask dice 10; auxiliary decoder layers carry
the box, classification and presence terms with weight 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from maskwell.models.sam_lora.net import PromptOutputs
from maskwell.ops import boxes as box_ops
from maskwell.ops.losses import ALONE, Accumulation, Divisor, dice, iou_aware_bce, sigmoid_focal
from maskwell.ops.matcher import MatchCosts, assign, match_cost
from maskwell.ops.sampling import sample_masks, sample_points, uncertain_points

Normalisation = Literal["global", "local", "one"]


@dataclass
class RowTarget:
    """Objects that one prompt names in one image.

    ``boxes`` [N, 4] xyxy in [0, 1]; ``masks`` bool [N, H, W], None where the data has boxes only: such
    a row teaches no masks.
    """

    boxes: Tensor
    masks: Tensor | None


@dataclass(frozen=True)
class LossWeights:
    """Weights of the raw terms; the semantic terms are off in fine-tuning, as upstream."""

    box: float = 5.0
    giou: float = 2.0
    cls: float = 20.0
    presence: float = 20.0
    mask: float = 200.0
    dice: float = 10.0
    semantic: float = 0.0
    semantic_dice: float = 0.0


@dataclass(frozen=True)
class SetLoss:
    """Matches queries to objects and sums the weighted terms.

    ``normalisation``: what sum-type terms are divided by. ``global``: objects in the batch over all
    ranks (right); ``local``: those of this rank (the field notes' repair, wrong under DDP); ``one``:
    nothing, which reproduces losses like 69,300. Box and mask terms are divided by objects;
    classification and presence are means over prompts, as upstream, counted over all ranks too.

    ``one_to_many``: queries that each object is matched to in all decoder layers but the last, which
    stays one-to-one (mixed matching as in Align-DETR, Cai et al., 2023). An object weighs as much as
    with one query. 1: plain Hungarian matching in every layer, as in upstream's fine-tuning.

    ``mask_points``: masks with more than four times as many pixels are supervised at this many sampled
    points, others densely; ``mask_supervision="dense"`` never samples.
    """

    weights: LossWeights = field(default_factory=LossWeights)
    costs: MatchCosts = field(default_factory=MatchCosts)
    normalisation: Normalisation = "global"
    mask_supervision: Literal["sampled", "dense"] = "sampled"
    mask_points: int = 12_544
    one_to_many: int = 1

    @staticmethod
    def counts(targets: Sequence[RowTarget]) -> dict[str, float]:
        """What terms are divided by: objects and rows, of all and of those with masks."""
        masked = [target for target in targets if target.masks is not None]
        return {
            "objects": sum(len(target.boxes) for target in targets),
            "rows": len(targets),
            "masked_objects": sum(len(target.boxes) for target in masked),
            "masked_rows": len(masked),
        }

    def __call__(
        self, outputs: PromptOutputs, targets: Sequence[RowTarget], together: Accumulation = ALONE
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss and raw terms of the last layer (``loss_aux``: weighted sum of the other layers).

        Args:
            outputs: of P rows and L decoder layers.
            targets: one per row, P in all.
            together: with which batches gradients are accumulated.
        """
        with torch.autocast(outputs.logits.device.type, enabled=False):
            outputs = outputs.float()
            counts = [len(target.boxes) for target in targets]
            divisors = {
                name: together.divisor(name, count, outputs.logits.device, self._count())
                for name, count in self.counts(targets).items()
            }
            match = _match_layers(outputs, targets, counts, self.costs, self.one_to_many)
            layers = self._layer_terms(outputs, match, counts, divisors)
            parts = {name: values[-1] for name, values in layers.items()}
            parts |= self._mask_terms(outputs, targets, match, divisors["masked_objects"])
            if self.weights.semantic or self.weights.semantic_dice:
                parts |= self._semantic_terms(outputs, targets, divisors["masked_rows"])
            auxiliary = sum((self._weight(n) * v[:-1].sum() for n, v in layers.items()), torch.zeros(()))
            total = sum((self._weight(n) * v for n, v in parts.items()), auxiliary)
            return total, {**parts, "loss_aux": auxiliary}

    def _weight(self, name: str) -> float:
        return float(getattr(self.weights, name.removeprefix("loss_")))

    def _count(self) -> Callable[[float | Tensor, torch.device | str], Tensor] | None:
        """How a count on this rank becomes a divisor; None: over all ranks."""
        if self.normalisation == "one":
            return lambda count, device: torch.ones((), device=device)
        if self.normalisation == "local":
            return lambda count, device: torch.tensor(max(float(count), 1.0), device=device)
        return None

    def _layer_terms(
        self, outputs: PromptOutputs, match: _Match, counts: Sequence[int], divisors: Mapping[str, Divisor]
    ) -> dict[str, Tensor]:
        """Box, GIoU, classification and presence of every decoder layer: name -> [L]."""
        num_layers = outputs.logits.shape[0]
        predicted = outputs.boxes[match.layer, match.row, match.query]
        distance = box_ops.xyxy_to_cxcywh(predicted) - box_ops.xyxy_to_cxcywh(match.boxes)
        per_layer = outputs.logits.new_zeros(num_layers)
        l1 = per_layer.index_add(0, match.layer, distance.abs().sum(-1) * match.share)
        overlap_loss = 1 - box_ops.generalised_iou(predicted, match.boxes)
        giou = per_layer.index_add(0, match.layer, overlap_loss * match.share)

        positive = torch.zeros_like(outputs.logits, dtype=torch.bool)
        overlap = torch.zeros_like(outputs.logits)
        positive[match.layer, match.row, match.query] = True
        overlap[match.layer, match.row, match.query] = box_ops.iou(predicted, match.boxes).detach()
        visible = torch.tensor([count > 0 for count in counts], device=outputs.logits.device)
        per_query = iou_aware_bce(outputs.logits, positive, overlap) * visible[None, :, None]
        objects, rows = divisors["objects"], divisors["rows"]
        present = visible.float().expand_as(outputs.presence)
        presence = F.binary_cross_entropy_with_logits(outputs.presence, present, reduction="none")
        return {
            "loss_box": objects.mean(l1),
            "loss_giou": objects.mean(giou),
            "loss_cls": rows.mean(per_query.mean(-1).sum(-1)),
            "loss_presence": rows.mean(0.5 * presence.sum(-1)),
        }

    def _mask_terms(
        self, outputs: PromptOutputs, targets: Sequence[RowTarget], match: _Match, objects: Divisor
    ) -> dict[str, Tensor]:
        """Focal (mean over pixels) and dice of the last layer's matched masks, per object with a mask."""
        with_masks = torch.tensor([t.masks is not None for t in targets], device=match.row.device)
        kept = (match.layer == outputs.logits.shape[0] - 1) & with_masks[match.row]
        row, query, target = match.row[kept], match.query[kept], match.target[kept]
        logits = outputs.masks[row, query]
        if not len(row):
            nothing = logits.sum()  # of no element: 0, and the graph stays whole for DDP
            return {"loss_mask": nothing, "loss_dice": nothing}
        wanted = torch.cat([t.masks[target[row == r]] for r, t in enumerate(targets) if t.masks is not None])
        size = wanted.shape[-2:]
        if self.mask_supervision == "sampled" and size[0] * size[1] > 4 * self.mask_points:
            points = uncertain_points(logits, self.mask_points)
            flat, flat_wanted = sample_points(logits, points), sample_masks(wanted, points)
        else:
            flat = F.interpolate(logits[:, None], size, mode="bilinear", align_corners=False).flatten(1)
            flat_wanted = wanted.flatten(1).float()
        return {
            "loss_mask": objects.mean(sigmoid_focal(flat, flat_wanted).mean(-1).sum()),
            "loss_dice": objects.mean(dice(flat, flat_wanted).sum()),
        }

    def _semantic_terms(
        self, outputs: PromptOutputs, targets: Sequence[RowTarget], rows: Divisor
    ) -> dict[str, Tensor]:
        """Cross-entropy and dice of the semantic output against the union of the objects' masks."""
        place = [i for i, target in enumerate(targets) if target.masks is not None]
        logits = outputs.semantic[place]
        union = [_union(m, logits.shape[-2:]) for t in targets if (m := t.masks) is not None]
        wanted = torch.stack(union) if union else torch.zeros_like(logits)
        entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        return {
            "loss_semantic": rows.mean(entropy.mean((-2, -1)).sum()),
            "loss_semantic_dice": rows.mean(dice(logits.flatten(1), wanted.flatten(1)).sum()),
        }


@dataclass
class _Match:
    """Matched pairs of all layers, ordered by layer, then row: int64 indices [M] and boxes [M, 4].

    ``share`` [M]: 1 / (queries of the pair's object in that layer).
    """

    layer: Tensor
    row: Tensor
    query: Tensor
    target: Tensor
    boxes: Tensor
    share: Tensor


def _union(masks: Tensor, size: torch.Size) -> Tensor:
    """Float [h, w]: 1 where any mask [N, H, W], area-averaged to ``size``, covers at least half."""
    if not len(masks):
        return torch.zeros(size, device=masks.device)
    small = F.interpolate(masks[:, None].float(), tuple(size), mode="area")[:, 0] >= 0.5
    return small.any(0).float()


def _match_layers(
    outputs: PromptOutputs,
    targets: Sequence[RowTarget],
    counts: Sequence[int],
    costs: MatchCosts,
    one_to_many: int,
) -> _Match:
    """Matching of every layer and row; padded targets keep it one cost computation."""
    device = outputs.logits.device
    num_layers, num_rows, num_queries = outputs.logits.shape
    widest = max([*counts, 1])
    padded = outputs.boxes.new_zeros(num_rows, widest, 4)
    for place, target in enumerate(targets):
        padded[place, : counts[place]] = target.boxes
    cost = match_cost(outputs.logits, outputs.boxes, padded.expand(num_layers, -1, -1, -1), costs)
    # At most half of the queries are given away, so that the others learn to be background.
    copies = [max(1, min(one_to_many, num_queries // (2 * count))) if count else 1 for count in counts]
    repeats = [*copies] * (num_layers - 1) + [1] * num_rows
    pairs = assign(cost.flatten(0, 1), list(counts) * num_layers, repeats)
    sizes = torch.tensor([len(query) for query, _ in pairs])
    problem = torch.repeat_interleave(torch.arange(len(pairs)), sizes)
    query = torch.cat([q for q, _ in pairs]).to(device)
    target_index = torch.cat([t for _, t in pairs]).to(device)
    share = (1 / torch.tensor(repeats, dtype=torch.float32))[problem].to(device)
    layer, row = (problem // num_rows).to(device), (problem % num_rows).to(device)
    return _Match(layer, row, query, target_index, padded[row, target_index], share)
