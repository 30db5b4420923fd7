"""Two processes (gloo, Lightning's DDP): ranks stay equal and train as one process with all images does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer

from maskwell.callbacks.step_seed import StepSeed
from maskwell.models.s4gan.recipe import Recipe
from s4gan_small import SyntheticStreams, make_task
from tests.ranks import together

ITERATIONS = 3

RECIPE = Recipe(
    True,
    True,
    threshold_st=0.2,
    pixel_threshold=0.34,
    class_wise=True,
    pseudo_labels="teacher",
    real_confidence=0.9,
    fill_void=True,
    spectral_norm=True,
    st_start=1,
)
"""Everything that is reduced over ranks, and nothing that is drawn per rank (views, CutMix)."""


class Keep(Callback):
    """Writes the last state and all logged steps of each rank."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.steps: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, *_: Any) -> None:
        merged = {**outputs["parts"], **outputs["facts"]}
        self.steps.append({name: float(value) for name, value in merged.items()})

    def on_train_end(self, trainer: Trainer, module: Any) -> None:
        miou = float(trainer.callback_metrics["val/miou"])
        content = {"state": module.state_dict(), "steps": self.steps, "miou": miou}
        torch.save(content, Path(self.folder) / f"{trainer.world_size}_{trainer.global_rank}.pt")


def run(devices: int, folder: str) -> None:
    """Train as one rank of so many."""
    torch.set_num_threads(1)
    task = make_task(RECIPE, iterations=ITERATIONS, evaluate_every=ITERATIONS)
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        max_epochs=1,
        val_check_interval=ITERATIONS,
        check_val_every_n_epoch=None,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        callbacks=[StepSeed(0), Keep(folder)],
    )
    trainer.fit(task, datamodule=SyntheticStreams(ITERATIONS))


def kept(folder: Path, devices: int, rank: int = 0) -> dict[str, Any]:
    result: dict[str, Any] = torch.load(folder / f"{devices}_{rank}.pt", weights_only=True)
    return result


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("two")
    together(run, 2, str(folder))
    return [kept(folder, 2, rank) for rank in range(2)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("one")
    run(1, str(folder))
    return kept(folder, 1)


def test_ranks_are_equal(ranks: list[dict[str, Any]]) -> None:
    first, second = (rank["state"] for rank in ranks)
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert ranks[0]["steps"] == ranks[1]["steps"]


def test_two_processes_train_as_one(ranks: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    two, one = ranks[0]["state"], alone["state"]
    assert two.keys() == one.keys()
    for name, value in one.items():
        assert torch.allclose(two[name].double(), value.double(), rtol=1e-3, atol=2e-5), name
    assert abs(ranks[0]["miou"] - alone["miou"]) < 1e-3


def test_counts_and_losses_are_those_of_all_ranks(ranks: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    for joined, single in zip(ranks[0]["steps"], alone["steps"], strict=True):
        assert joined["st_of"] == single["st_of"] == 4
        for name, value in single.items():
            assert joined[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    assert alone["steps"][-1]["loss_st"] > 0
