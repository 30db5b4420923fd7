"""Two processes (gloo, Lightning's DDP) with different numbers of objects train as one with all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer
from torch import nn

from detr_small import Rectangles, make_task
from tests.ranks import together

BATCHES = ((1, 5, 2, 0), (0, 3, 0, 4))
"""Objects of the images of two steps; rank 0 has every other one, so 3 of 8 and then 0 of 7."""


class Still(Callback):
    """What makes ranks comparable with one process: BatchNorm as in evaluation, gradients kept."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.gradients: list[dict[str, torch.Tensor]] = []
        self.losses: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, module: Any, *_: Any) -> None:
        for part in module.net.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.eval()

    def on_before_optimizer_step(self, trainer: Trainer, module: Any, optimizer: Any) -> None:
        found = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
        self.gradients.append(found)

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, *_: Any) -> None:
        self.losses.append(float(outputs["loss"]))

    def on_train_end(self, trainer: Trainer, module: Any) -> None:
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        content = {
            "gradients": self.gradients,
            "losses": self.losses,
            "state": module.state_dict(),
            "threshold": module.threshold,
            "figures": figures,
        }
        torch.save(content, Path(self.folder) / f"{trainer.world_size}_{trainer.global_rank}.pt")


def run(devices: int, folder: str, architecture: str) -> None:
    """Train as one rank of so many."""
    torch.set_num_threads(1)
    task = make_task(architecture, ema_decay=0.9)
    if architecture == "rt_detr_v2":
        task.config.num_denoising = 0  # its noise is drawn per rank
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        callbacks=[Still(folder)],
    )
    trainer.fit(task, datamodule=Rectangles(*BATCHES))


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["rt_detr_v2", "detr"])
def test_two_ranks_have_the_gradient_of_one_process(architecture: str, tmp_path: Path) -> None:
    run(1, str(tmp_path), architecture)
    together(run, 2, str(tmp_path), architecture)
    one, first, second = (
        torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("1_0", "2_0", "2_1")
    )
    for step in range(len(BATCHES)):
        for name, gradient in one["gradients"][step].items():
            torch.testing.assert_close(
                first["gradients"][step][name], gradient, atol=2e-4 * (step + 1), rtol=2e-3, msg=name
            )
    # each rank's loss is its share of the objects of both: only their mean means anything
    assert first["losses"][0] != pytest.approx(second["losses"][0], rel=1e-2)
    mean = (first["losses"][0] + second["losses"][0]) / 2
    assert mean == pytest.approx(one["losses"][0], rel=1e-4)
    for name, value in first["state"].items():
        assert torch.equal(value, second["state"][name]), f"{name}: ranks or their averages differ"
    assert first["threshold"] == second["threshold"]
    assert first["figures"]["val/map"] == pytest.approx(second["figures"]["val/map"], nan_ok=True)
