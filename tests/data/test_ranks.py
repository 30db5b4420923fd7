"""Two processes share the samples: training evenly, evaluation without duplicates."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from maskwell.data.datamodule import DataModule
from maskwell.data.generated import ScenesSource
from maskwell.data.sample import Batch, InputSpec

SPEC = InputSpec("square", 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class Writer(LightningModule):
    """Writes down the images that each rank saw in each epoch."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: dict[str, list[int]] = {}

    def _note(self, stage: str, batch: Batch) -> None:
        self.seen.setdefault(stage, []).extend(sample.image_id for sample in batch.samples)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self._note(f"train{self.current_epoch}", batch)
        return (batch.images.mean() - self.weight) ** 2

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._note(f"val{self.current_epoch}", batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_fit_end(self) -> None:
        (self.folder / f"{self.global_rank}.json").write_text(json.dumps(self.seen))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the processes are forked")
@pytest.mark.filterwarnings("ignore")
def test_two_ranks(tmp_path: Path) -> None:
    data = DataModule(ScenesSource(32, 1, 2, epoch_size=7, num_val=1, num_test=1), batch_size=2, seed=1)
    data.bind(SPEC)
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp_fork",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        default_root_dir=tmp_path,
    )
    trainer.fit(Writer(tmp_path), datamodule=data)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    for epoch in (0, 1):
        trained = [rank[f"train{epoch}"] for rank in ranks]
        assert [len(ids) for ids in trained] == [4, 4]
        assert set(trained[0] + trained[1]) == set(range(7 * epoch, 7 * epoch + 7))
        assert [rank.get(f"val{epoch}", []) for rank in ranks] == [[0], []]
