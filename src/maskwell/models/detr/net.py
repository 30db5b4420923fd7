"""A detector of transformers behind one call: the predictions of all its layers, whatever its kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from maskwell.ops import boxes as box_ops

MASKED = frozenset({"detr", "conditional_detr", "deformable_detr", "rf_detr"})
"""Kinds that read the pixel mask; their boxes are relative to the unmasked part of the input."""


@dataclass(frozen=True)
class Target:
    """Objects of one image: ``boxes`` [N, 4] xyxy in [0, 1] of the network's frame; ``labels`` int64 [N]."""

    boxes: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Layers:
    """Predictions of L layers, the last one best: ``logits`` [L, B, Q, C]; ``boxes`` [L, B, Q, 4].

    Boxes are (centre x, centre y, width, height) in [0, 1] of the network's frame.
    """

    logits: Tensor
    boxes: Tensor

    def float(self) -> Layers:
        """In float32."""
        return Layers(self.logits.float(), self.boxes.float())


@dataclass(frozen=True)
class Denoising:
    """What became of noisy copies of the objects (contrastive denoising; Zhang et al., DINO, 2023).

    ``queries``: per image the positive queries of its N objects, ``repeats`` copies one after another.
    """

    layers: Layers
    queries: Sequence[Tensor]
    repeats: int


@dataclass(frozen=True)
class DetectorOutputs:
    """``layers``: decoder layers, before them the encoder's proposals where the network makes any.

    ``groups``: the queries are so many independent sets (Group DETR; Chen et al., 2023), in training.
    """

    layers: Layers
    groups: int = 1
    denoising: Denoising | None = None


class Detector(nn.Module):
    """Wraps a ``...ForObjectDetection`` of transformers.

    Args:
        model: of one of the kinds in :data:`maskwell.models.detr.base_model.KINDS`.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.kind = str(self.model.config.model_type)
        self.reads_mask = self.kind in MASKED
        self.model.config.auxiliary_loss = True  # off in published DETR weights, which were trained with it
        self.model.loss_function = _collect  # the loss is ours: it counts the objects of all ranks

    def forward(
        self, images: Tensor, pixel_mask: Tensor, targets: Sequence[Target] | None = None
    ) -> DetectorOutputs:
        """Predictions for images [B, 3, H, W] with ``pixel_mask`` bool [B, H, W].

        With ``targets`` those of all layers, in training with denoising; without only the last layer's.
        """
        if targets is None:
            found = self.model(pixel_values=images, pixel_mask=pixel_mask)
            return DetectorOutputs(Layers(found.logits[None], found.pred_boxes[None]))
        labels = [
            {"class_labels": target.labels, "boxes": box_ops.xyxy_to_cxcywh(target.boxes)}
            for target in targets
        ]
        layers, denoising = self.model(pixel_values=images, pixel_mask=pixel_mask, labels=labels).loss
        groups = getattr(self.model.config, "group_detr", 1) if self.training else 1
        return DetectorOutputs(self._whole(layers, denoising), groups, denoising)

    def _whole(self, layers: Layers, denoising: Denoising | None) -> Layers:
        """With every trained parameter in the graph: data-parallel ranks wait for those that are not."""
        embedding = getattr(self.model.model, "denoising_class_embed", None)
        if not self.training or embedding is None or denoising is not None:
            return layers
        return Layers(layers.logits + 0 * embedding.weight.sum(), layers.boxes)


def _collect(
    logits: Tensor,
    labels: object,
    device: object,
    boxes: Tensor,
    config: Any,
    all_logits: Tensor,
    all_boxes: Tensor,
    encoder_logits: Tensor | None = None,
    encoder_boxes: Tensor | None = None,
    *,
    enc_topk_logits: Tensor | None = None,
    enc_topk_bboxes: Tensor | None = None,
    denoising_meta_values: Mapping[str, Any] | None = None,
    **_: object,
) -> tuple[tuple[Layers, Denoising | None], dict[str, Tensor], list[object]]:
    """In place of the library's loss: what that would have been computed from, as its loss."""
    if config.model_type == "rt_detr_v2":  # images before layers
        all_logits, all_boxes = all_logits.transpose(0, 1), all_boxes.transpose(0, 1)
        encoder_logits, encoder_boxes = enc_topk_logits, enc_topk_bboxes
    denoising = None
    if denoising_meta_values is not None:
        sizes = denoising_meta_values["dn_num_split"]
        noisy_logits, all_logits = all_logits.split(sizes, dim=2)
        noisy_boxes, all_boxes = all_boxes.split(sizes, dim=2)
        denoising = Denoising(
            Layers(noisy_logits, noisy_boxes),
            denoising_meta_values["dn_positive_idx"],
            int(denoising_meta_values["dn_num_group"]),
        )
    if encoder_logits is not None and encoder_boxes is not None:
        all_logits = torch.cat([encoder_logits[None], all_logits])
        all_boxes = torch.cat([encoder_boxes[None], all_boxes])
    return (Layers(all_logits, all_boxes), denoising), {}, []
