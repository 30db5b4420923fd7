"""Pictures of a few fixed validation images: where they come from, and where they go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from PIL import Image
from torch import Tensor

from maskwell import draw
from maskwell.callbacks.clock import iteration, log_step
from maskwell.data.sample import Batch, InputSpec, Sample


class Pictures(Callback):
    """Draws the same images at each validation into one sheet, in the run folder and for loggers.

    The images are the first of evenly spaced validation batches. A subclass says in :meth:`show` what is
    shown of them.

    Args:
        num_images: how many images are drawn.
        every_n_validations: draw at every n-th validation.
        key: under which loggers get the pictures.
        prefix: of the files ``panels/<prefix>iter_<n>.png``.
    """

    def __init__(self, num_images: int, every_n_validations: int, key: str, prefix: str = "") -> None:
        super().__init__()
        self.num_images = num_images
        self.every_n_validations = every_n_validations
        self.key = key
        self.prefix = prefix
        self.validations = 0
        self.pictures: list[draw.Pixels] = []
        self.captions: list[str] = []

    def show(self, module: LightningModule, batch: Batch, outputs: Any, count: int) -> None:
        """Add pictures of the first ``count`` samples; with captions, where loggers get each on its own.

        Args:
            module: the task.
            batch: on the task's device.
            outputs: what its ``validation_step`` returned.
            count: at least 1.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no show.")

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
        if wanted and self.validations % self.every_n_validations == 0 and isinstance(batch, Batch):
            count = share(trainer.num_val_batches[0], self.num_images, batch_idx)
            if count:
                self.show(pl_module, batch, outputs, min(count, len(batch)))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.publish(trainer, f"iter_{iteration(trainer, pl_module):06d}")
            self.validations += 1

    def publish(self, trainer: Trainer, name: str) -> None:
        """Write what was drawn as a sheet, and give it to the loggers."""
        pictures, self.pictures = self.pictures[: self.num_images], []
        captions, self.captions = self.captions[: self.num_images], []
        if not pictures or not trainer.is_global_zero:
            return
        sheet = draw.stack(pictures)
        path = Path(trainer.default_root_dir) / "panels" / f"{self.prefix}{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sheet).save(path)
        for logger in trainer.loggers:
            _send(logger, self.key, sheet, pictures, captions, log_step(trainer))

    def state_dict(self) -> dict[str, Any]:
        return {"validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.validations = state_dict["validations"]


def share(batches: int | float, images: int, batch_idx: int) -> int:
    """How many images to draw of batch ``batch_idx``, spreading ``images`` evenly over ``batches``."""
    if batches == float("inf"):
        return 1
    chosen = np.linspace(0, batches - 1, images).round().astype(int)
    return int((chosen == batch_idx).sum())


def window_image(image: Tensor, sample: Sample, spec: InputSpec) -> draw.Pixels:
    """The window's picture, uint8 [h, w, 3] in file pixels, back from a network input [3, H, W]."""
    height, width = sample.geometry.content
    shape = (3, 1, 1)
    mean, std = image.new_tensor(spec.mean).reshape(shape), image.new_tensor(spec.std).reshape(shape)
    pixels = ((image[:, :height, :width].float() * std + mean) * 255).round().clamp(0, 255)
    content = Image.fromarray(pixels.byte().permute(1, 2, 0).cpu().numpy())
    window_height, window_width = sample.geometry.window_size
    return np.asarray(content.resize((window_width, window_height), Image.Resampling.BICUBIC))


def _send(
    logger: Logger, key: str, sheet: draw.Pixels, pictures: list[draw.Pixels], captions: list[str], step: int
) -> None:
    """A logger that takes lists of images gets those with captions one by one."""
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(key, sheet, step, dataformats="HWC")
    elif hasattr(logger, "log_image"):
        if captions:
            logger.log_image(key, pictures, step=step, caption=captions)
        else:
            logger.log_image(key, [sheet], step=step)
