"""The Python interface: ``maskwell.load(ckpt)`` and, by family, its ``.predict(image, prompt="nucleus")``,
``.segment(image)`` or ``.mark(image)``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import Tensor

from maskwell import draw, restore, semantic_results
from maskwell.data.images import from_pil, read_image
from maskwell.data.sample import Prediction, Prompt
from maskwell.errors import UserError
from maskwell.inference import Request, predict_images
from maskwell.models.base import BaseTask
from maskwell.ops import masks as mask_ops
from maskwell.ops.masks import Rle
from maskwell.tiling import OVERLAP

Picture = str | Path | Image.Image | NDArray[np.uint8]
"""A file, a PIL image, or uint8 RGB [H, W, 3]."""


@dataclass(frozen=True)
class Detections:
    """What was found in one image, best score first.

    ``image`` uint8 RGB [H, W, 3]; ``prompts``: the phrases asked; ``prediction``: the detections in
    pixels of the image, their labels being indices into ``prompts``; ``max_confidence``: the best
    score of all, below the threshold too.
    """

    image: NDArray[np.uint8]
    prompts: tuple[str, ...]
    prediction: Prediction
    max_confidence: float

    @property
    def count(self) -> int:
        """Number of objects."""
        return len(self.prediction.scores)

    @property
    def boxes(self) -> Tensor:
        """float32 [K, 4], xyxy in pixels."""
        return self.prediction.boxes

    @property
    def scores(self) -> Tensor:
        """float32 [K] in [0, 1]."""
        return self.prediction.scores

    @property
    def labels(self) -> tuple[str, ...]:
        """The phrase that each of the K objects answers."""
        return tuple(self.prompts[label] for label in self.prediction.labels.tolist())

    @property
    def rles(self) -> list[Rle]:
        """K masks as compressed COCO run lengths."""
        return self.prediction.rles or []

    @property
    def masks(self) -> Tensor:
        """bool [K, H, W], decoded at each access."""
        return mask_ops.decode(self.rles, self.prediction.size)

    def overlay(self) -> NDArray[np.uint8]:
        """The image with masks and scores drawn on it, uint8 [h, w, 3], enlarged where it is small."""
        return draw.overlay(self.image, self.prediction, self.prompts, max_side=_OVERLAY_SIDE)


@dataclass(frozen=True)
class ClassMap:
    """The class of every pixel of one image.

    ``image`` uint8 RGB [H, W, 3]; ``categories``: the names of the classes; ``classes`` int64 [H, W],
    indices into them.
    """

    image: NDArray[np.uint8]
    categories: tuple[str, ...]
    classes: Tensor

    def areas(self) -> dict[str, int]:
        """Pixels of every class."""
        return semantic_results.areas(self.classes, self.categories)

    def overlay(self) -> NDArray[np.uint8]:
        """The image tinted by class, with a legend, uint8 [h, w, 3], enlarged where it is small."""
        prediction = Prediction.of_classes(self.classes)
        return draw.overlay(self.image, prediction, self.categories, max_side=_OVERLAY_SIDE)


@dataclass(frozen=True)
class Marks:
    """The points of one image in the order in which they were marked.

    ``image`` uint8 RGB [H, W, 3]; ``prediction``: the points in its pixels.
    """

    image: NDArray[np.uint8]
    prediction: Prediction

    @property
    def count(self) -> int:
        """Number of points."""
        return len(self.prediction.scores)

    @property
    def points(self) -> Tensor:
        """float32 [K, 2], (x, y) in pixels."""
        assert self.prediction.points is not None
        return self.prediction.points

    @property
    def scores(self) -> Tensor:
        """Confidence of each, float32 [K] in [0, 1]."""
        return self.prediction.scores

    @property
    def complete(self) -> bool:
        """Whether the model ended the marking, and not the largest number of points or a repeated one."""
        return self.prediction.stopped is not False

    def overlay(self) -> NDArray[np.uint8]:
        """The image with numbered marks, uint8 [h, w, 3], enlarged where it is small."""
        return draw.overlay(self.image, self.prediction, max_side=_OVERLAY_SIDE)


_OVERLAY_SIDE = 4096  # px; larger images are drawn smaller
_THRESHOLD = 0.3  # lowest score of a detection of a model that has chosen none


class Model:
    """A model ready to answer prompts about images, to give every pixel a class, or to mark points.

    Args:
        task: on its device.
        phrases: what is asked where the caller gives no prompt; the classes of a semantic task.
    """

    def __init__(self, task: BaseTask, phrases: Sequence[str] = ()) -> None:
        self.task = task
        self.phrases = tuple(phrases)

    def segment(
        self, image: Picture, *, tile: int | None = None, overlap: float = OVERLAP, batch_size: int = 8
    ) -> ClassMap:
        """The class of every pixel; of semantic models (s4gan).

        Args:
            image: path, PIL image or uint8 RGB [H, W, 3].
            tile: side in px of the windows into which a large image is cut; None: the whole image.
            overlap: least share of a tile that its neighbour sees too; probabilities are averaged there.
            batch_size: tiles that go through the network at once.

        Raises:
            UserError: the image cannot be read, or the model finds objects.
        """
        [found] = self.segment_all([image], tile=tile, overlap=overlap, batch_size=batch_size)
        return found

    def segment_all(
        self,
        images: Iterable[Picture],
        *,
        tile: int | None = None,
        overlap: float = OVERLAP,
        batch_size: int = 8,
    ) -> Iterator[ClassMap]:
        """:meth:`segment` for many images, in order; they are read as needed."""
        self._check("segment")
        waiting: deque[Request] = deque()
        answers = predict_images(
            self.task, _requests(images, (), waiting), tile=tile, overlap=overlap, batch_size=batch_size
        )
        for prediction in answers:
            assert prediction.semantic is not None
            yield ClassMap(waiting.popleft().image, self.phrases, prediction.semantic)

    def mark(self, image: Picture) -> Marks:
        """A point on every object, one after another; of models of points.

        Args:
            image: path, PIL image or uint8 RGB [H, W, 3].

        Raises:
            UserError: the image cannot be read, or the model marks no points.
        """
        [found] = self.mark_all([image])
        return found

    def mark_all(self, images: Iterable[Picture], *, batch_size: int = 8) -> Iterator[Marks]:
        """:meth:`mark` for many images, in order, ``batch_size`` at once; they are read as needed."""
        self._check("mark")
        waiting: deque[Request] = deque()
        answers = predict_images(self.task, _requests(images, (), waiting), batch_size=batch_size)
        for prediction in answers:
            yield Marks(waiting.popleft().image, prediction)

    def predict(
        self,
        image: Picture,
        prompt: str | Sequence[str] | None = None,
        *,
        threshold: float | None = None,
        tile: int | None = None,
        overlap: float = OVERLAP,
        batch_size: int = 8,
    ) -> Detections:
        """Find the objects that one or several phrases name.

        Args:
            image: path, PIL image or uint8 RGB [H, W, 3].
            prompt: phrase or phrases; None for those the model was trained with.
            threshold: lowest score of a detection; None: the one that validation chose, else 0.3.
            tile: side in px of the windows into which a large image is cut; None: the whole image.
            overlap: least share of a tile that its neighbour sees too.
            batch_size: tiles that go through the network at once.

        Raises:
            UserError: the image cannot be read, or a prompt has no word in it.
        """
        [found] = self.predict_all(
            [image], prompt, threshold=threshold, tile=tile, overlap=overlap, batch_size=batch_size
        )
        return found

    def predict_all(
        self,
        images: Iterable[Picture],
        prompt: str | Sequence[str] | None = None,
        *,
        threshold: float | None = None,
        tile: int | None = None,
        overlap: float = OVERLAP,
        batch_size: int = 8,
    ) -> Iterator[Detections]:
        """:meth:`predict` for many images, in order; they are read as needed."""
        self._check("predict")
        texts = self._texts(prompt)
        if threshold is None:
            threshold = _THRESHOLD if self.task.threshold is None else self.task.threshold
        if not 0 <= threshold <= 1:
            raise UserError(f"threshold={threshold} is no score between 0 and 1.")
        prompts = tuple(Prompt(text, (), label) for label, text in enumerate(texts))
        waiting: deque[Request] = deque()
        answers = predict_images(
            self.task, _requests(images, prompts, waiting), tile=tile, overlap=overlap, batch_size=batch_size
        )
        for prediction in answers:
            if not self.task.promptable:
                prediction = _of_classes(prediction, [self.phrases.index(text) for text in texts])
            best = float(prediction.scores.max()) if len(prediction.scores) else 0.0
            yield Detections(waiting.popleft().image, texts, _above(prediction, threshold), best)

    def _check(self, verb: str) -> None:
        """Refuse the verb of another kind of model, with its own."""
        kind = "mark" if self.task.pointwise else "segment" if self.task.semantic else "predict"
        if verb != kind:
            does = {
                "mark": "marks objects with points",
                "segment": "gives every pixel a class and finds no objects",
                "predict": "finds objects and has no classes of pixels",
            }[kind]
            raise UserError(f"This model {does}: use {kind}().")

    def _texts(self, prompt: str | Sequence[str] | None) -> tuple[str, ...]:
        texts = self.phrases if prompt is None else (prompt,) if isinstance(prompt, str) else tuple(prompt)
        if not texts:
            raise UserError("No prompt was given and the model knows no categories; name what to look for.")
        if odd := [text for text in texts if not isinstance(text, str) or not text.strip()]:
            raise UserError(
                f"The prompt {odd[0]!r} has no word in it; give a short noun phrase such as 'nucleus'."
            )
        unknown = [text for text in texts if text not in self.phrases]
        if unknown and not self.task.promptable:
            raise UserError(
                f"This model takes no words: it knows {', '.join(self.phrases) or 'no class'}, and not "
                f"'{unknown[0]}'. prompt= chooses among its classes."
            )
        return tuple(dict.fromkeys(texts))


def load(ckpt: str | Path, *, device: str | torch.device | None = None) -> Model:
    """The model of a checkpoint.

    Args:
        ckpt: a ``.ckpt`` file or the folder of a run, of which the best checkpoint is taken.
        device: where it runs; None: the GPU where there is one.

    Raises:
        UserError: the checkpoint is missing, damaged, holds pickled code or was trained on another base.
    """
    path = restore.find(str(ckpt), Path(), "")
    return from_restored(restore.restore(path), device)


def from_restored(restored: restore.Restored, device: str | torch.device | None = None) -> Model:
    """A model that asks for the categories it was trained with, under the names it was trained with."""
    task = restored.task.to(device or restore.best_device())
    if not task.promptable:  # its classes have no other names: words are not asked of it
        return Model(task, restored.categories)
    return Model(task, _phrases(restored.cfg, restored.categories))


def _phrases(cfg: DictConfig, categories: Sequence[str]) -> tuple[str, ...]:
    rename = OmegaConf.select(cfg, "data.prompts.rename") or {}
    return tuple(str(rename.get(name, name)) for name in categories)


def _requests(
    images: Iterable[Picture], prompts: tuple[Prompt, ...], waiting: deque[Request]
) -> Iterator[Request]:
    """Requests as they are needed; those that are not answered yet are in ``waiting``."""
    for image in images:
        waiting.append(Request(_pixels(image), prompts))
        yield waiting[-1]


def _pixels(image: Picture) -> NDArray[np.uint8]:
    if isinstance(image, str | Path):
        return read_image(image)
    if isinstance(image, Image.Image):
        return from_pil(image)
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        what = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
        raise UserError(f"An image is a path, a PIL image or a uint8 RGB array [H, W, 3], not {what}.")
    if 0 in image.shape:
        raise UserError(f"The image {list(image.shape)} has no pixel.")
    return image


def _of_classes(prediction: Prediction, classes: Sequence[int]) -> Prediction:
    """The detections of some classes, whose labels become their places among them."""
    labels = torch.full_like(prediction.labels, -1)
    for place, label in enumerate(classes):
        labels[prediction.labels == label] = place
    keep = labels >= 0
    return replace(
        prediction,
        boxes=prediction.boxes[keep],
        scores=prediction.scores[keep],
        labels=labels[keep],
        rles=_kept_rles(prediction, keep),
    )


def _kept_rles(prediction: Prediction, keep: Tensor) -> list[Rle] | None:
    if prediction.rles is None:
        return None
    return [rle for rle, kept in zip(prediction.rles, keep.tolist(), strict=True) if kept]


def _above(prediction: Prediction, threshold: float) -> Prediction:
    """The detections of at least ``threshold``; they come first, being sorted."""
    count = int((prediction.scores >= threshold).sum())
    return replace(
        prediction,
        boxes=prediction.boxes[:count],
        scores=prediction.scores[:count],
        labels=prediction.labels[:count],
        rles=None if prediction.rles is None else prediction.rles[:count],
    )
