"""Semantic segmentation: a confusion matrix over all pixels, and the figures that follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from maskwell.data.sample import IGNORE, Prediction, Truth


def confusion_matrix(predicted: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Pixels by their true class (row) and their predicted one (column), int64 [C, C].

    Args:
        predicted: int64, any shape, in [0, C).
        truth: int64 of the same shape; 255 counts nowhere.
        classes: C.

    Raises:
        ValueError: the shapes differ, or a label is no class.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"The prediction has the shape {list(predicted.shape)}, truth {list(truth.shape)}.")
    counted = truth != IGNORE
    rows, columns = truth[counted].long(), predicted[counted].long()
    for name, labels in (("truth", rows), ("prediction", columns)):
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise ValueError(f"The {name} has labels outside 0..{classes - 1} (and {IGNORE} for void).")
    return torch.bincount(rows * classes + columns, minlength=classes**2).reshape(classes, classes)


def class_ious(matrix: Tensor) -> Tensor:
    """Intersection over union of each class, float64 [C]; nan where it neither occurs nor is predicted."""
    counts = matrix.double()
    hits = counts.diagonal()
    return hits / (counts.sum(0) + counts.sum(1) - hits)


def row_shares(matrix: Tensor) -> Tensor:
    """Of the pixels of each true class, the share of each prediction, float64 [C, C]; 0 without pixels."""
    counts = matrix.double()
    return counts / counts.sum(1, keepdim=True).clamp(min=1)


class SegmentationScores(Metric):
    """Mean IoU, IoU of each class and pixel accuracy as fractions, from one confusion matrix of all pixels.

    Classes that neither occur nor are predicted are left out of the mean; pixels labelled 255 count
    nowhere.

    Args:
        categories: class names by label.
        background: whether class 0 takes part in the mean.

    Attributes:
        confusion: int64 [C, C] on the CPU, pixels by true class (row) and predicted class (column), over
            all ranks, as of the last :meth:`compute`.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True
    matrix: Tensor

    def __init__(self, categories: Sequence[str], background: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.categories = tuple(categories)
        self.background = background
        self.confusion: Tensor | None = None
        count = len(self.categories)
        self.add_state("matrix", default=torch.zeros(count, count, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predictions: Sequence[Prediction], truths: Sequence[Truth]) -> None:
        """Add images, in the window frame.

        Raises:
            ValueError: a prediction or a truth has no class map, their sizes differ, or a label is no class.
        """
        for prediction, truth in zip(predictions, truths, strict=True):
            if prediction.semantic is None or truth.semantic is None:
                raise ValueError(
                    "Segmentation is scored on class maps; the prediction or the truth has none."
                )
            device = self.matrix.device
            found, true = prediction.semantic.to(device), truth.semantic.to(device)
            self.matrix += confusion_matrix(found, true, len(self.categories))

    def compute(self) -> dict[str, Tensor]:
        """``miou``, ``pixel_accuracy``, ``iou/<class>``, float32 scalars; what is undefined is left out."""
        matrix = self.confusion = self.matrix.to("cpu", copy=True)  # the sum over ranks, in here alone
        if not int(matrix.sum()):
            return {}
        ious = class_ious(matrix)
        figures = {"pixel_accuracy": (matrix.diagonal().sum() / matrix.sum()).float()}
        counted = ious if self.background else ious[1:]
        if not counted.isnan().all():
            figures["miou"] = counted.nanmean().float()
        named = zip(self.categories, ious, strict=True)
        return figures | {f"iou/{name}": iou.float() for name, iou in named if not iou.isnan()}
