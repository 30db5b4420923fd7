"""Pictures of a few fixed validation images: ground truth beside prediction."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from PIL import Image
from torch import Tensor

from maskwell import draw
from maskwell.callbacks.clock import iteration, log_step
from maskwell.data.sample import Batch, InputSpec, Prediction, Prompt, Sample


class Panels(Callback):
    """Writes ``panels/iter_<n>.png`` in the run folder at each validation, and to loggers that take images.

    The images are the same at every validation: the first of evenly spaced validation batches. The
    predictions are those of the validation itself; nothing is computed twice. Works for every
    family whose ``validation_step`` returns a StepOutput with ``preds`` (and, for ``base``, that
    has ``predict_batch``).

    Args:
        num_images: how many images are drawn.
        every_n_validations: draw at every n-th validation.
        base: draw what the model says before training too, as ``panels/base.png``.
        threshold: predictions below this score are left out.
    """

    def __init__(
        self, num_images: int = 4, every_n_validations: int = 1, base: bool = True, threshold: float = 0.3
    ) -> None:
        super().__init__()
        self.num_images = num_images
        self.every_n_validations = every_n_validations
        self.base = base
        self.threshold = threshold
        self.validations = 0
        self._panels: list[draw.Pixels] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        predict: Any = getattr(pl_module, "predict_batch", None)
        if self.base and predict is not None and iteration(trainer, pl_module) == 0:
            for index, batch in _val_batches(trainer, self.num_images):
                with _evaluating(pl_module), trainer.precision_plugin.val_step_context():
                    batch = trainer.strategy.batch_to_device(batch)
                    self._draw(trainer, pl_module, index, batch, predict(batch))
            self._publish(trainer, "base")

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        wanted = trainer.state.fn == "fit" and not trainer.sanity_checking and dataloader_idx == 0
        if wanted and self.validations % self.every_n_validations == 0:
            preds = getattr(outputs, "preds", None)
            if preds is not None and _share(trainer.num_val_batches[0], self.num_images, batch_idx):
                self._draw(trainer, pl_module, batch_idx, batch, preds())

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._publish(trainer, f"iter_{iteration(trainer, pl_module):06d}")
            self.validations += 1

    def _draw(
        self,
        trainer: Trainer,
        module: LightningModule,
        batch_idx: int,
        batch: Any,
        predictions: list[Prediction],
    ) -> None:
        if not isinstance(batch, Batch):
            return
        count = _share(trainer.num_val_batches[0], self.num_images, batch_idx)
        spec = module.input_spec
        assert isinstance(spec, InputSpec)
        names = tuple(getattr(module, "categories", ()))
        for row, (sample, prediction) in enumerate(zip(batch.samples, predictions, strict=True)):
            if row < count:
                image = window_image(batch.images[row], sample, spec)
                self._panels.append(_panel(image, sample, prediction, names, self.threshold))

    def _publish(self, trainer: Trainer, name: str) -> None:
        panels, self._panels = self._panels[: self.num_images], []
        if not panels or not trainer.is_global_zero:
            return
        sheet = draw.stack(panels)
        path = Path(trainer.default_root_dir) / "panels" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sheet).save(path)
        for logger in trainer.loggers:
            _send(logger, sheet, log_step(trainer))

    def state_dict(self) -> dict[str, Any]:
        return {"validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.validations = state_dict["validations"]


def _share(batches: int | float, images: int, batch_idx: int) -> int:
    """How many images to draw of batch ``batch_idx``, spreading ``images`` evenly over ``batches``."""
    if batches == float("inf"):
        return 1
    chosen = np.linspace(0, batches - 1, images).round().astype(int)
    return int((chosen == batch_idx).sum())


def _val_batches(trainer: Trainer, images: int) -> Iterator[tuple[int, Any]]:
    """(index, batch) of the validation batches that pictures come from, without loading the others."""
    loader: Any = trainer.val_dataloaders
    keys = getattr(loader, "batch_sampler", None)
    if keys is None:
        return
    for index, rows in enumerate(islice(keys, int(min(trainer.num_val_batches[0], sys.maxsize)))):
        if _share(trainer.num_val_batches[0], images, index):
            yield index, loader.collate_fn([loader.dataset[row] for row in rows])


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


def window_image(image: Tensor, sample: Sample, spec: InputSpec) -> draw.Pixels:
    """The window's picture, uint8 [h, w, 3] in file pixels, back from a network input [3, H, W]."""
    height, width = sample.geometry.content
    shape = (3, 1, 1)
    mean, std = image.new_tensor(spec.mean).reshape(shape), image.new_tensor(spec.std).reshape(shape)
    pixels = ((image[:, :height, :width].float() * std + mean) * 255).round().clamp(0, 255)
    content = Image.fromarray(pixels.byte().permute(1, 2, 0).cpu().numpy())
    window_height, window_width = sample.geometry.window_size
    return np.asarray(content.resize((window_width, window_height), Image.Resampling.BICUBIC))


def _panel(
    image: draw.Pixels, sample: Sample, prediction: Prediction, names: tuple[str, ...], threshold: float
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
        caption=_caption(sample, prediction) if prediction.present else "",  # the others read no prompts
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


def _send(logger: Logger, sheet: draw.Pixels, step: int) -> None:
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image("panels", sheet, step, dataformats="HWC")
    elif hasattr(logger, "log_image"):
        logger.log_image("panels", [sheet], step=step)
