"""Checkpoints as training writes them, without training, and a model that is exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from scipy import ndimage

from maskwell import build, checkpoint, compose, runs
from maskwell.data.sample import Batch, InputSpec, Prediction, Sample
from maskwell.models.base import BaseTask
from maskwell.models.sam_lora.module import SamLora
from maskwell.ops import masks as mask_ops

SMALL = (
    "model.base=scratch",
    "model.image_size=64",
    "model.lora.rank=2",
    "model.detection.nms=null",  # a model that knows nothing says the same everywhere
    "data=cells",
    "data.num_train=1",
    "data.num_val=1",
    "data.num_test=2",
    "data.size=64",
    "data.num_workers=0",
    "+data.prompts.rename.nucleus=cell nucleus",
)
CATEGORIES = ("nucleus", "fibre", "debris")


def trained_task(*overrides: str) -> tuple[SamLora, str, runs.Origin]:
    """A small SAM-LoRA whose adapter is no longer zero, its resolved configuration, and its origin."""
    cfg, origin = compose.compose("train", [*SMALL, *overrides])
    with torch.random.fork_rng():
        torch.manual_seed(0)  # of the adapter's fresh weights
        task = build.task(cfg)
    assert isinstance(task, SamLora)
    task.bind(categories=CATEGORIES)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, parameter in task.trainable_parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return task, OmegaConf.to_yaml(cfg, resolve=True), origin


def write_checkpoint(task: SamLora, config: str, path: Path, **changes: Any) -> Path:
    """What AtomicCheckpointIO writes of a training; ``changes`` replace entries or those of its header."""
    content: dict[str, Any] = {"state_dict": task.state_dict()}
    task.on_save_checkpoint(content)
    header = {"format": checkpoint.FORMAT, "family": task.family, "config": config}
    header |= {key: changes.pop(key) for key in list(changes) if key in header}
    checkpoint.write({**content, checkpoint.HEADER: header, **changes}, path)
    return path


def write_run(folder: Path, *overrides: str) -> Path:
    """A run folder with its configuration and checkpoints."""
    task, config, origin = trained_task(f"paths.run_dir={folder}", *overrides)
    folder.mkdir(parents=True)
    stored = OmegaConf.create(config)
    runs.save(folder, stored, origin)
    for name in ("best", "last"):
        write_checkpoint(task, config, folder / "checkpoints" / f"{name}.ckpt")
    return folder


class Oracle(BaseTask):
    """Finds every connected bright region, exactly, for prompts with a label of 0 or none at all."""

    family = "oracle"

    def __init__(self) -> None:
        super().__init__()
        self.input_spec = InputSpec("pad", None, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), multiple=16)
        self.batches: list[int] = []

    def predict_batch(self, batch: Batch) -> list[Prediction]:
        self.batches.append(len(batch))
        assert not self.training
        return [
            self._answer(image, sample) for image, sample in zip(batch.images, batch.samples, strict=True)
        ]

    def _answer(self, image: torch.Tensor, sample: Sample) -> Prediction:
        height, width = sample.geometry.window_size
        regions, count = ndimage.label(image[0, :height, :width].numpy() > 0.5)
        if sample.prompts and all(prompt.label != 0 for prompt in sample.prompts):
            count = 0
        planes = np.stack([regions == i + 1 for i in range(count)]) if count else np.zeros((0, height, width))
        rles = mask_ops.encode(planes)
        return Prediction(
            size=(height, width),
            boxes=mask_ops.boxes(rles),
            scores=torch.full((count,), 0.8),
            labels=torch.zeros(count, dtype=torch.int64),
            rles=rles,
        )


def spots(size: tuple[int, int], step: int = 20, radius: int = 5) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A picture uint8 [H, W, 3] of bright discs on a grid that touches no border."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    near = ((rows % step - step // 2) ** 2 + (columns % step - step // 2) ** 2) <= radius**2
    whole = (rows // step < size[0] // step) & (columns // step < size[1] // step)
    return np.repeat((near & whole)[..., None], 3, axis=2).astype(np.uint8) * 230 + 10
