"""Pictures of a few fixed validation images: ground truth beside prediction."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lightning import LightningModule, Trainer

from maskwell import draw
from maskwell.callbacks.clock import iteration
from maskwell.callbacks.pictures import Pictures, share, window_image
from maskwell.data.sample import Batch, InputSpec, Prediction, Prompt, Sample

THRESHOLD = 0.3
"""Least score that is drawn of a model that has chosen none."""


class Panels(Pictures):
    """Writes ``panels/iter_<n>.png`` in the run folder at each validation, and to loggers that take images.

    The images are the same at every validation: the first of evenly spaced validation batches. The
    predictions are those of the validation itself; nothing is computed twice. Works for every
    family whose ``validation_step`` returns a StepOutput with ``preds`` (and, for ``base``, that
    has ``predict_batch``).

    Args:
        num_images: how many images are drawn.
        every_n_validations: draw at every n-th validation.
        base: draw what the model says before training too, as ``panels/base.png``.
        threshold: predictions below this score are left out; None: that which the model has chosen, at this
            validation, else 0.3.
    """

    def __init__(
        self,
        num_images: int = 4,
        every_n_validations: int = 1,
        base: bool = True,
        threshold: float | None = None,
    ) -> None:
        super().__init__(num_images, every_n_validations, "panels")
        self.base = base
        self.threshold = threshold
        self._waiting: list[Callable[[float], draw.Pixels]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        predict: Any = getattr(pl_module, "predict_batch", None)
        if self.base and predict is not None and iteration(trainer, pl_module) == 0:
            for batch in _shown(trainer, self.num_images):
                with _evaluating(pl_module), trainer.precision_plugin.val_step_context():
                    batch = trainer.strategy.batch_to_device(batch)
                    if isinstance(batch, Batch):
                        self._add(pl_module, batch, predict(batch), len(batch))
            self.publish(trainer, "base")

    def show(self, module: LightningModule, batch: Batch, outputs: Any, count: int) -> None:
        """Add a panel for each of the first ``count`` samples, with the predictions of the validation."""
        preds = getattr(outputs, "preds", None)
        if preds is not None:
            self._add(module, batch, preds(), count)

    def _add(self, module: LightningModule, batch: Batch, predictions: list[Prediction], count: int) -> None:
        spec = module.input_spec
        assert isinstance(spec, InputSpec)
        names = tuple(getattr(module, "categories", ()))
        promptable = getattr(module, "promptable", True)
        for row, (sample, prediction) in enumerate(zip(batch.samples, predictions, strict=True)):
            if row < count:
                image = window_image(batch.images[row], sample, spec)
                caption = _caption(sample, prediction) if promptable else ""
                self._waiting.append(partial(_panel, image, sample, prediction, names, caption))

    def publish(self, trainer: Trainer, name: str) -> None:
        """Draw at the threshold, which is known when the validation has ended."""
        chosen = getattr(trainer.lightning_module, "threshold", None)
        threshold = next(value for value in (self.threshold, chosen, THRESHOLD) if value is not None)
        waiting, self._waiting = self._waiting[: self.num_images], []
        self.pictures = [draw_at(threshold) for draw_at in waiting]
        super().publish(trainer, name)


def _shown(trainer: Trainer, images: int) -> Iterator[Any]:
    """The part that is drawn of each validation batch; nothing else is loaded or predicted."""
    loader: Any = trainer.val_dataloaders
    keys = getattr(loader, "batch_sampler", None)
    if keys is None:
        return
    for index, rows in enumerate(islice(keys, int(min(trainer.num_val_batches[0], sys.maxsize)))):
        count = share(trainer.num_val_batches[0], images, index)
        if count:
            yield loader.collate_fn([loader.dataset[row] for row in list(rows)[:count]])


@contextmanager
def _evaluating(module: LightningModule) -> Iterator[None]:
    """Evaluation mode without gradients inside; each submodule's own mode again afterwards."""
    modes = {inner: inner.training for inner in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for inner, mode in modes.items():
            inner.training = mode


def _panel(
    image: draw.Pixels,
    sample: Sample,
    prediction: Prediction,
    names: tuple[str, ...],
    caption: str,
    threshold: float,
) -> draw.Pixels:
    assert sample.truth is not None, "validation samples carry their truth"
    points: npt.NDArray[np.floating] | None = None
    if prediction.points is not None and sample.points is not None:
        points = sample.geometry.points_to_window(sample.points.cpu()).numpy()
    return draw.panel(
        image,
        sample.truth,
        prediction,
        names,
        title=sample.file_name,
        caption=caption,
        threshold=threshold,
        truth_points=points,
    )


def _caption(sample: Sample, prediction: Prediction) -> str:
    """Prompts that name objects, and the most believed one that names none, with the scores of presence."""
    present = prediction.present or {}

    def entry(prompt: Prompt) -> str:
        score = f" {present[prompt.label]:.2f}" if prompt.label in present else ""
        return f'"{prompt.text}"{score}'

    named = [f"{entry(prompt)} ({len(prompt.objects)})" for prompt in sample.prompts if prompt.objects]
    absent = [prompt for prompt in sample.prompts if not prompt.objects]
    lines = ["prompts (objects): " + " · ".join(named)] if named else []
    if absent:
        believed = max(absent, key=lambda prompt: present.get(prompt.label, 0.0))
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        lines.append(f"not in the image: {entry(believed)}{more}")
    return "\n".join(lines)
