"""A family small enough to be trained in a test, and how a test composes and runs it."""

from __future__ import annotations

from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from maskwell import app, compose, runs
from maskwell.data.sample import Batch, InputSpec
from maskwell.models.base import BaseTask, Stage, StepOutput

CONF = Path(__file__).parent / "conf"

TINY = (
    "model=tiny_conv",
    "data=tiny_scenes",
    "trainer=cpu",
    "health=none",
    "callbacks.panels=null",
    "callbacks.progress=null",
)
"""A training of two epochs of three batches."""


class TinyConv(BaseTask):
    """Counts objects with one convolution; dropout makes it depend on the random state."""

    family = "tiny_conv"
    monitor = "val/error"
    mode = "min"

    def __init__(self, width: int = 4, seed: int = 0) -> None:
        super().__init__()
        self.input_spec = InputSpec("square", 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        torch.manual_seed(seed)
        self.net = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.LazyLinear(1)
        )
        self.net(torch.zeros(1, 3, 32, 32))
        self.errors: list[Tensor] = []

    def step(self, batch: Batch, stage: Stage) -> StepOutput:
        wanted = torch.tensor([float(len(sample.labels)) for sample in batch.samples])
        loss = (self.net(batch.images)[:, 0] - wanted).square().mean()
        return StepOutput(loss, {"loss_count": loss}, {"num_objects": wanted.sum()})

    def update_metrics(self, batch: Batch, output: StepOutput, stage: Stage) -> None:
        self.errors.append(output.loss.detach())

    def compute_metrics(self, stage: Stage) -> dict[str, Tensor]:
        errors, self.errors = self.errors, []
        return {"error": torch.stack(errors).mean()}


def composed(*overrides: str, name: str = "train") -> tuple[DictConfig, runs.Origin]:
    """A configuration with the test's own groups beside the shipped ones."""
    return compose.compose(name, overrides, [f"file://{CONF}"])


def train(root: Path, *overrides: str) -> Path:
    """Train the small family below ``root``; the run folder that was written last."""
    cfg, origin = composed(*TINY, f"paths.runs={root}", *overrides)
    app.train(cfg, origin)
    return max((root / "tiny_conv").iterdir(), key=lambda folder: (folder / "results.json").stat().st_mtime)
