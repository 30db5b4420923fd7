"""The set loss of the DETR kinds, divided by the objects of all ranks.

Terms, weights and matching costs of each kind are those of its criterion in transformers, against
which the tests hold them. What differs is the divisor, and that predictions which are not finite give
a loss that is not, for the monitor to see, instead of an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from maskwell.models.detr.net import DetectorOutputs, Layers, Target
from maskwell.ops import boxes as box_ops
from maskwell.ops.losses import ALONE, Accumulation, Divisor, iou_aware_bce, sigmoid_focal
from maskwell.ops.matcher import MatchCosts, assign, focal_cost, match_cost

QUALITY, FOCAL, IOU_BCE, SOFTMAX = "quality", "focal", "iou_bce", "softmax"


@dataclass(frozen=True)
class Matched:
    """M pairs of a query and an object: int64 indices ``layer``, ``image``, ``query`` [M].

    ``boxes`` [M, 4] (centre x, centre y, width, height) and ``labels`` [M] of the objects; ``share`` [M]:
    1 / (queries that the pair's object has in that layer).
    """

    layer: Tensor
    image: Tensor
    query: Tensor
    boxes: Tensor
    labels: Tensor
    share: Tensor


@dataclass(frozen=True)
class SetLoss:
    """Matches queries to objects in every layer and sums the weighted terms.

    ``classification``: ``quality`` (a varifocal loss: IoU as the target of the matched), ``focal``,
    ``iou_bce`` (IoU-aware cross-entropy) or ``softmax`` (with a class "nothing", weighted by ``nothing``).

    ``one_to_many``: queries that each object is matched to in all layers but the last, which stays
    one-to-one (mixed matching as in Align-DETR, Cai et al., 2023): its boxes weigh as much as with one.
    """

    classification: str
    costs: MatchCosts
    cls: float = 1.0
    box: float = 5.0
    giou: float = 2.0
    alpha: float = 0.25
    gamma: float = 2.0
    nothing: float = 0.1
    one_to_many: int = 1

    @classmethod
    def of(cls, config: Any, one_to_many: int = 1) -> SetLoss:
        """That of a configuration of transformers."""
        if config.model_type == "rt_detr_v2":
            costs = MatchCosts(config.matcher_class_cost, config.matcher_bbox_cost, config.matcher_giou_cost)
            return cls(
                QUALITY,
                costs,
                config.weight_loss_vfl,
                config.weight_loss_bbox,
                config.weight_loss_giou,
                config.focal_loss_alpha,
                config.focal_loss_gamma,
                one_to_many=one_to_many,
            )
        costs = MatchCosts(config.class_cost, config.bbox_cost, config.giou_cost)
        weights: dict[str, Any] = {"box": config.bbox_loss_coefficient, "giou": config.giou_loss_coefficient}
        weights["one_to_many"] = one_to_many
        if config.model_type == "detr":
            return cls(SOFTMAX, costs, nothing=config.eos_coefficient, **weights)
        kind = IOU_BCE if config.model_type == "rf_detr" else FOCAL
        return cls(kind, costs, alpha=config.focal_alpha, **weights)

    def counts(self, objects: Sequence[int], queries: int, layers: int) -> dict[str, float]:
        """What terms are divided by, of images with so many objects each.

        Args:
            objects: of each image.
            queries: of each group.
            layers: decoder layers, and the encoder's where it makes proposals.
        """
        counted = {"objects": float(sum(objects))}
        if self.classification == SOFTMAX:  # weights of all queries in the first layer
            given = [min(queries, n * (self._copies(n, queries) if layers > 1 else 1)) for n in objects]
            counted["queries"] = sum(n + self.nothing * (queries - n) for n in given)
        return counted

    def _copies(self, count: int, queries: int) -> int:
        """Queries of each object in all layers but the last.

        At most half of the queries are given away, so that the others learn to be background.
        """
        return max(1, min(self.one_to_many, queries // (2 * count))) if count else 1

    def __call__(
        self, outputs: DetectorOutputs, targets: Sequence[Target], together: Accumulation = ALONE
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss and raw terms of the last layer.

        ``loss_aux``: weighted sum of the other layers; ``loss_dn``: that of denoising, where there is any.
        ``together``: with which batches gradients are accumulated.
        """
        with torch.autocast(outputs.layers.logits.device.type, enabled=False):
            layers = outputs.layers.float()
            num_layers, _, num_queries = layers.logits.shape[:3]
            counts = self.counts(
                [len(target.labels) for target in targets], num_queries // outputs.groups, num_layers
            )
            divisors = {name: together.divisor(name, n, layers.logits.device) for name, n in counts.items()}
            objects = divisors["objects"]
            matched = match(layers, targets, outputs.groups, self.costs, self._class_cost(), self._copies)
            queries = divisors.get("queries", objects * outputs.groups)
            terms = self._terms(layers, matched, objects * outputs.groups, queries)
            parts = {name: values[-1] for name, values in terms.items()}
            parts["loss_aux"] = self._sum({name: values[:-1].sum() for name, values in terms.items()})
            total = self._sum(parts) + parts["loss_aux"]
            if outputs.denoising is not None:
                noisy = outputs.denoising
                pairs = denoised(noisy.layers, noisy.queries, noisy.repeats, targets)
                copied = objects * noisy.repeats
                terms = self._terms(noisy.layers.float(), pairs, copied, copied)
                parts["loss_dn"] = self._sum({name: values.sum() for name, values in terms.items()})
                total = total + parts["loss_dn"]
            return total, parts

    def _sum(self, terms: dict[str, Tensor]) -> Tensor:
        return self.cls * terms["loss_cls"] + self.box * terms["loss_box"] + self.giou * terms["loss_giou"]

    def _class_cost(self) -> Callable[[Tensor], Tensor]:
        if self.classification == SOFTMAX:
            return lambda logits: -logits.softmax(-1)
        return focal_cost

    def _terms(
        self, layers: Layers, matched: Matched, objects: Divisor, queries: Divisor
    ) -> dict[str, Tensor]:
        """Name -> [L]; ``queries`` divides the classification."""
        place = (matched.layer, matched.image, matched.query)
        predicted = layers.boxes[place]
        corners, wanted = box_ops.cxcywh_to_xyxy(predicted), box_ops.cxcywh_to_xyxy(matched.boxes)
        zeros = layers.boxes.new_zeros(len(layers.boxes))
        distance = (predicted - matched.boxes).abs().sum(-1)
        overlap_loss = 1 - box_ops.generalised_iou(corners, wanted)
        classified = self._classify(layers.logits, matched, box_ops.iou(corners, wanted).detach())
        return {
            "loss_cls": queries.mean(classified),
            "loss_box": objects.mean(zeros.index_add(0, matched.layer, distance * matched.share)),
            "loss_giou": objects.mean(zeros.index_add(0, matched.layer, overlap_loss * matched.share)),
        }

    def _classify(self, logits: Tensor, matched: Matched, overlap: Tensor) -> Tensor:
        """Sum over images, queries and classes, [L]."""
        place = (matched.layer, matched.image, matched.query)
        if self.classification == SOFTMAX:
            return self._softmax(logits, matched)
        positive = torch.zeros_like(logits, dtype=torch.bool)
        positive[(*place, matched.labels)] = True
        quality = torch.zeros_like(logits)
        quality[(*place, matched.labels)] = overlap
        if self.classification == IOU_BCE:
            values = iou_aware_bce(
                logits, positive, quality, pos_weight=1.0, alpha=self.alpha, gamma=self.gamma
            )
        elif self.classification == FOCAL:
            values = sigmoid_focal(logits, positive.float(), alpha=self.alpha, gamma=self.gamma)
        else:
            background = self.alpha * logits.detach().sigmoid() ** self.gamma
            weight = torch.where(positive, quality, background)
            values = F.binary_cross_entropy_with_logits(logits, quality, weight=weight, reduction="none")
        return values.sum((1, 2, 3))

    def _softmax(self, logits: Tensor, matched: Matched) -> Tensor:
        """Weighted sum over queries, unmatched ones being "nothing", the last class."""
        last = logits.shape[-1] - 1
        wanted = torch.full(logits.shape[:-1], last, dtype=torch.int64, device=logits.device)
        wanted[matched.layer, matched.image, matched.query] = matched.labels
        weight = torch.where(wanted == last, self.nothing, 1.0)
        values = F.cross_entropy(logits.flatten(0, 2), wanted.flatten(), reduction="none").view_as(weight)
        return (values * weight).sum((1, 2))


def match(
    layers: Layers,
    targets: Sequence[Target],
    groups: int,
    costs: MatchCosts,
    class_cost: Callable[[Tensor], Tensor],
    copies: Callable[[int, int], int] = lambda count, queries: 1,
) -> Matched:
    """Optimal assignment in every layer, image and group of queries.

    ``class_cost``: [..., C] logits -> [..., C] cost of calling a query an object of each class.
    ``copies``: objects of an image, queries of a group -> queries of each object in all layers but the last.
    """
    logits, boxes = (value.detach() for value in (layers.logits, layers.boxes))
    num_layers, num_images, num_queries = logits.shape[:3]
    counts = [len(target.labels) for target in targets]
    widest = max([*counts, 1])
    wanted = boxes.new_zeros(num_images, widest, 4)
    labels = torch.zeros(num_images, widest, dtype=torch.int64, device=logits.device)
    for place, target in enumerate(targets):
        wanted[place, : counts[place]] = box_ops.xyxy_to_cxcywh(target.boxes)
        labels[place, : counts[place]] = target.labels
    index = labels[:, None, :].expand(num_layers, num_images, num_queries, widest)
    cost = match_cost(
        logits,
        box_ops.cxcywh_to_xyxy(boxes),
        box_ops.cxcywh_to_xyxy(wanted).expand(num_layers, -1, -1, -1),
        costs,
        classification=class_cost(logits).gather(-1, index),
    )
    size = num_queries // groups
    problems = cost.reshape(-1, size, widest)  # layer, then image, then group
    repeated = [count for count in counts for _ in range(groups)]
    repeats = [copies(count, size) for count in repeated] * (num_layers - 1) + [1] * len(repeated)
    pairs = assign(problems, repeated * num_layers, repeats)
    number = torch.repeat_interleave(
        torch.arange(len(pairs)), torch.tensor([len(query) for query, _ in pairs])
    )
    query = torch.cat([query for query, _ in pairs]) + number % groups * size
    target_index = torch.cat([target for _, target in pairs]).to(logits.device)
    image = (number // groups % num_images).to(logits.device)
    return Matched(
        (number // (groups * num_images)).to(logits.device),
        image,
        query.to(logits.device),
        wanted[image, target_index],
        labels[image, target_index],
        (1 / torch.tensor(repeats, dtype=torch.float32))[number].to(logits.device),
    )


def denoised(layers: Layers, queries: Sequence[Tensor], repeats: int, targets: Sequence[Target]) -> Matched:
    """Noisy copies belong to the objects that they are copies of, in every layer."""
    num_layers, device = len(layers.logits), layers.logits.device
    image = torch.cat([torch.full_like(query, place) for place, query in enumerate(queries)])
    boxes = torch.cat([box_ops.xyxy_to_cxcywh(target.boxes).repeat(repeats, 1) for target in targets])
    labels = torch.cat([target.labels.repeat(repeats) for target in targets])
    return Matched(
        torch.arange(num_layers, device=device).repeat_interleave(len(image)),
        image.repeat(num_layers),
        torch.cat(list(queries)).repeat(num_layers),
        boxes.repeat(num_layers, 1).to(layers.boxes.dtype),
        labels.repeat(num_layers),
        torch.ones(num_layers * len(image), device=device),
    )
