"""COCO mean average precision as a torchmetrics Metric over run-length masks.

The figures are those of pycocotools (T.-Y. Lin et al., "Microsoft COCO", and its reference
evaluator), computed by faster-coco-eval. Between ranks travel plain tensors only: lists of bytes
would silently stay on their rank.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from faster_coco_eval import COCO, COCOeval_faster
from torch import Tensor
from torchmetrics import Metric

from maskwell.data.sample import Prediction, Truth
from maskwell.ops import masks
from maskwell.ops.masks import Rle

IouType = Literal["bbox", "segm"]
Figures = dict[str, Tensor]

PHRASES = "phrases"
"""Category of the answers to free phrases, behind those of the data."""

_LOG = logging.getLogger(__name__)
_AREAS = ("all", "small", "medium", "large")
# (state, dtype, columns): what is kept of every image, detection and object, rank after rank.
_STATES: tuple[tuple[str, torch.dtype, tuple[int, ...]], ...] = (
    ("image_rows", torch.int64, (4,)),  # height, width, number of detections, number of objects
    ("detection_rows", torch.int64, (2,)),  # label, bytes of the mask (0: none)
    ("detection_values", torch.float32, (5,)),  # x1, y1, x2, y2, score
    ("detection_bytes", torch.uint8, ()),
    ("object_rows", torch.int64, (3,)),  # label, bytes of the mask (0: none), iscrowd
    ("object_values", torch.float32, (5,)),  # x1, y1, x2, y2, area
    ("object_bytes", torch.uint8, ()),
)


class CocoMap(Metric):
    """Mean average precision over ``categories``, as COCO defines it.

    Args:
        categories: names in the order of the labels.
        iou_types: ``segm`` needs a mask on every object and every detection; where the data has
            none, only ``bbox`` is computed.
        max_dets: detections per image and category, ascending; all figures use the last one.
            COCO's 100 is too few for crowded images, [1, 10, 400] suits nuclei.

    Detections with a negative label (words that are no category) are left out.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True

    def __init__(
        self,
        categories: Sequence[str],
        iou_types: Sequence[IouType] = ("bbox", "segm"),
        max_dets: Sequence[int] = (1, 10, 100),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not set(iou_types) <= {"bbox", "segm"} or not iou_types:
            raise ValueError(f"iou_types are 'bbox' and 'segm', not {list(iou_types)}.")
        self.categories = tuple(categories)
        self.iou_types = tuple(iou_types)
        self.max_dets = tuple(sorted(max_dets))
        for name, _, _ in _STATES:
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, predictions: Sequence[Prediction], truths: Sequence[Truth]) -> None:
        """Add images: one prediction and one truth each, in the same order and the same frame."""
        if len(predictions) != len(truths):
            raise ValueError(f"{len(predictions)} predictions do not pair with {len(truths)} truths.")
        for prediction, truth in zip(predictions, truths, strict=True):
            self._add(prediction, truth)

    def _add(self, prediction: Prediction, truth: Truth) -> None:
        if tuple(prediction.size) != tuple(truth.size):
            raise ValueError(f"Prediction {prediction.size} and truth {truth.size} are in different frames.")
        kept = prediction.labels >= 0
        labels = prediction.labels[kept]
        rles = prediction.rles
        if rles is not None:
            rles = [rle for rle, keep in zip(rles, kept.tolist(), strict=True) if keep]
        lengths, data = _pack(rles, len(labels))
        values = torch.cat([prediction.boxes[kept], prediction.scores[kept].unsqueeze(1)], dim=1)
        self._append("image_rows", torch.tensor([[*truth.size, len(labels), len(truth.labels)]]))
        self._append("detection_rows", torch.stack([labels.cpu(), lengths], dim=1))
        self._append("detection_values", values)
        self._append("detection_bytes", data)
        lengths, data = _pack(truth.rles, len(truth.labels))
        self._append(
            "object_rows", torch.stack([truth.labels.cpu(), lengths, truth.iscrowd.cpu().long()], dim=1)
        )
        self._append("object_values", torch.cat([truth.boxes, truth.area.unsqueeze(1)], dim=1))
        self._append("object_bytes", data)

    def _append(self, name: str, rows: Tensor) -> None:
        dtype = next(dtype for state, dtype, _ in _STATES if state == name)
        getattr(self, name).append(rows.detach().to(self.device, dtype))

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the states of all ranks; a rank without images joins with rows of the right type."""
        for name, dtype, columns in _STATES:
            if getattr(self, name) == []:
                setattr(self, name, [torch.zeros(0, *columns, dtype=dtype, device=self.device)])
        super().sync(*args, **kwargs)

    def compute(self) -> Figures:
        """Figures over all ranks, float32 scalars in [0, 1].

        ``map``, ``map_50``, ``map_75``, ``map_small``, ``map_medium``, ``map_large`` and
        ``ap/<category>``: of the masks where there are masks, else of the boxes; with masks also
        ``bbox_map`` ... for the boxes. ``map``, ``map_50`` and ``map_75`` are NaN where there is no
        object at all; sizes and categories without an object are left out.
        """
        truth, results, has_masks = self._datasets()
        types = [kind for kind in ("segm", "bbox") if kind in self.iou_types] if has_masks else ["bbox"]
        figures: dict[str, float] = {}
        for kind in types:
            prefix = "" if kind == types[0] else f"{kind}_"
            precision = _precision(truth, results, kind, self.max_dets)
            figures |= {prefix + name: value for name, value in _summary(precision).items()}
            if not prefix:
                figures |= _per_category(precision, self.categories)
        return {name: torch.tensor(value, dtype=torch.float32) for name, value in figures.items()}

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The states by name (see ``_STATES``), of all ranks where they are synchronised."""
        return {name: _joined(getattr(self, name), dtype, columns) for name, dtype, columns in _STATES}

    def _datasets(self) -> tuple[dict[str, Any], list[dict[str, Any]], bool]:
        """(COCO truth, COCO results, whether every object and detection has a mask)."""
        state = self.arrays()
        images = state["image_rows"]
        sizes = images[:, :2]
        results = _annotations(
            images[:, 2], sizes, state["detection_rows"], state["detection_values"], state["detection_bytes"]
        )
        objects = _annotations(
            images[:, 3], sizes, state["object_rows"], state["object_values"], state["object_bytes"]
        )
        for result, score in zip(results, state["detection_values"][:, 4].tolist(), strict=True):
            result |= {"score": score, "iscrowd": 0}
        for entry, area, crowd in zip(
            objects, state["object_values"][:, 4].tolist(), state["object_rows"][:, 2].tolist(), strict=True
        ):
            entry |= {"area": area, "iscrowd": crowd}
        truth = {
            "info": {},
            "images": [{"id": i, "height": h, "width": w} for i, (h, w) in enumerate(sizes.tolist())],
            "categories": [{"id": i, "name": name} for i, name in enumerate(self.categories)],
            "annotations": objects,
        }
        lengths = np.concatenate([state["detection_rows"][:, 1], state["object_rows"][:, 1]])
        return truth, results, bool((lengths > 0).all())


def _pack(rles: Sequence[Rle] | None, count: int) -> tuple[Tensor, Tensor]:
    """(bytes of each mask int64 [N], all bytes uint8): zeros and nothing where there are no masks."""
    if rles is None:
        return torch.zeros(count, dtype=torch.int64), torch.zeros(0, dtype=torch.uint8)
    counts = [rle["counts"] for rle in rles]
    data = np.frombuffer(b"".join(counts), dtype=np.uint8).copy()
    return torch.tensor([len(c) for c in counts], dtype=torch.int64), torch.from_numpy(data)


def _joined(state: list[Tensor] | Tensor, dtype: torch.dtype, columns: tuple[int, ...]) -> npt.NDArray[Any]:
    parts = [state] if isinstance(state, Tensor) else state
    empty = torch.zeros(0, *columns, dtype=dtype)
    joined: npt.NDArray[Any] = torch.cat([empty, *(part.cpu() for part in parts)]).numpy()
    return joined


def _annotations(
    per_image: npt.NDArray[Any],
    sizes: npt.NDArray[Any],
    rows: npt.NDArray[Any],
    values: npt.NDArray[Any],
    data: npt.NDArray[Any],
) -> list[dict[str, Any]]:
    """COCO annotations from the packed states; image ids are running numbers over all ranks."""
    images = np.repeat(np.arange(len(per_image)), per_image).tolist()
    frames = sizes.tolist()
    xywh = np.concatenate([values[:, :2], values[:, 2:4] - values[:, :2]], axis=1).astype(np.float64).tolist()
    text = data.tobytes()
    annotations: list[dict[str, Any]] = []
    end = 0
    for index, (image, row, box) in enumerate(zip(images, rows.tolist(), xywh, strict=True)):
        start, end = end, end + row[1]
        # COCO's evaluator takes id 0 for "not matched".
        entry = {"id": index + 1, "image_id": image, "category_id": row[0], "bbox": box}
        if row[1]:
            entry["segmentation"] = {"size": frames[image], "counts": text[start:end]}
        annotations.append(entry)
    return annotations


def _precision(
    truth: dict[str, Any], results: list[dict[str, Any]], kind: str, max_dets: Sequence[int]
) -> npt.NDArray[np.float64]:
    """Precision [IoU thresholds, recalls, categories, areas] at the last of ``max_dets``; -1: undefined."""
    areas = _areas(results, kind)
    detections = [dict(result, area=area) for result, area in zip(results, areas, strict=True)]
    evaluation = COCOeval_faster(
        COCO(truth), COCO(truth | {"annotations": detections}), iouType=kind, print_function=_LOG.debug
    )
    evaluation.params.maxDets = list(max_dets)
    evaluation.evaluate()
    evaluation.accumulate()
    precision: npt.NDArray[np.float64] = np.asarray(evaluation.eval["precision"])[..., -1]
    return precision


def _areas(results: list[dict[str, Any]], kind: str) -> list[float]:
    """The area by which COCO sorts a detection into small, medium, large: that of what is compared."""
    if kind == "bbox":
        return [result["bbox"][2] * result["bbox"][3] for result in results]
    areas: list[float] = masks.area([result["segmentation"] for result in results]).tolist()
    return areas


def _mean(precision: npt.NDArray[np.float64]) -> float:
    defined = precision[precision > -1]
    return float(defined.mean()) if defined.size else float("nan")


def _summary(precision: npt.NDArray[np.float64]) -> dict[str, float]:
    figures = {
        "map": _mean(precision[..., 0]),
        "map_50": _mean(precision[0, ..., 0]),
        "map_75": _mean(precision[5, ..., 0]),
    }
    by_size = {f"map_{name}": _mean(precision[..., i]) for i, name in enumerate(_AREAS) if i > 0}
    return figures | {name: value for name, value in by_size.items() if not np.isnan(value)}


def _per_category(precision: npt.NDArray[np.float64], categories: Sequence[str]) -> dict[str, float]:
    figures = {f"ap/{name}": _mean(precision[:, :, i, 0]) for i, name in enumerate(categories)}
    return {name: value for name, value in figures.items() if not np.isnan(value)}
