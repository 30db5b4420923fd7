"""Two processes (gloo): the averaged gradient is that of one process with all images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from maskwell.models.sam_lora.adaptation import Lora, adapt
from maskwell.models.sam_lora.base_model import load_base
from maskwell.models.sam_lora.loss import Normalisation, RowTarget, SetLoss
from maskwell.models.sam_lora.net import PromptedSam
from maskwell.ops.losses import global_count

SIZE = 32
SHARES = {
    "unequal": [{"nucleus": 2, "dog": 0}, {"red circle": 5}],
    "one_rank_without_objects": [{"nucleus": 3}, {"dog": 0, "cat": 0}],
    "no_objects_at_all": [{"dog": 0}, {"cat": 0}],
}
"""Per case and rank: what is asked of the rank's one image, and how many objects answer."""

COUNTS = [(3, 5), (0, 7), (0, 1), (0, 0)]
"""Objects on the two ranks, for the count alone."""


class NetWithLoss(nn.Module):
    """Everything between a batch and its loss in one forward, as DDP wants it."""

    def __init__(self, normalisation: Normalisation) -> None:
        super().__init__()
        sam, tokenizer = load_base("scratch", image_size=SIZE)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in sam.parameters():
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
        model = adapt(sam, "lora", Lora(rank=2), train_text=False, train_semantic=False)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:  # drawn anew: a fresh B is zero and peft draws A unseeded
                    parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        self.net = PromptedSam(model.double(), tokenizer)  # rounding must not hide a wrong divisor
        self.criterion = replace(SetLoss(), normalisation=normalisation)

    def forward(self, images: Tensor, rows: Tensor, prompts: list[str], targets: list[RowTarget]) -> Tensor:
        return self.criterion(self.net(images, rows, prompts), targets)[0]

    def gradients(self) -> dict[str, Tensor]:
        return {n: p.grad.clone() for n, p in self.named_parameters() if p.grad is not None}


def batch_of(case: str, ranks: list[int]) -> tuple[Tensor, Tensor, list[str], list[RowTarget]]:
    """Images, rows, prompts and targets of the given ranks together."""
    images, rows, prompts, targets = [], [], [], []
    for place, rank in enumerate(ranks):
        generator = torch.Generator().manual_seed(10 + rank)
        images.append(torch.randn(3, SIZE, SIZE, generator=generator, dtype=torch.float64))
        for prompt, objects in SHARES[case][rank].items():
            centre = 0.25 + 0.5 * torch.rand(objects, 2, generator=generator)
            size = 0.1 + 0.3 * torch.rand(objects, 2, generator=generator)
            masks = torch.rand(objects, SIZE, SIZE, generator=generator) < 0.3
            targets.append(RowTarget(torch.cat([centre - size / 2, centre + size / 2], dim=-1), masks))
            rows.append(place)
            prompts.append(prompt)
    return torch.stack(images), torch.tensor(rows), prompts, targets


def _rank(rank: int, rendezvous: str, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    found: dict[str, Any] = {"counts": [float(global_count(pair[rank])) for pair in COUNTS]}
    for normalisation in ("global", "local"):
        model = NetWithLoss(normalisation)  # type: ignore[arg-type]
        # Unused parameters are an error here: a rank without objects must reach all of them.
        wrapped = DistributedDataParallel(model)
        for case in SHARES:
            model.zero_grad()
            loss = wrapped(*batch_of(case, [rank]))
            loss.backward()
            found[f"{normalisation}/{case}"] = {"loss": float(loss), "gradients": model.gradients()}
    torch.save(found, Path(folder) / f"rank_{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank found."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(_rank, args=(str(folder / "rendezvous"), str(folder)), nprocs=2)
    return [torch.load(folder / f"rank_{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def alone() -> NetWithLoss:
    """The same model in this process, for all images at once."""
    torch.set_num_threads(1)
    return NetWithLoss("global")


def single_process(model: NetWithLoss, case: str) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    loss = model(*batch_of(case, [0, 1]))
    loss.backward()
    return float(loss), model.gradients()


def distance(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """Norm of the difference of two gradients over the norm of the second."""
    assert first.keys() == second.keys()
    apart = sum(float((first[n] - second[n]).square().sum()) for n in first)
    return float((apart / sum(float(v.square().sum()) for v in second.values())) ** 0.5)


def test_count_is_the_mean_over_ranks_and_at_least_one(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["counts"] == ranks[1]["counts"] == [4.0, 3.5, 1.0, 1.0]


@pytest.mark.parametrize("case", SHARES)
def test_two_processes_train_as_one(case: str, ranks: list[dict[str, Any]], alone: NetWithLoss) -> None:
    loss, gradients = single_process(alone, case)
    results = [rank[f"global/{case}"] for rank in ranks]
    assert sum(result["loss"] for result in results) / 2 == pytest.approx(loss, rel=1e-4)
    assert gradients
    for result in results:
        assert distance(result["gradients"], gradients) < 1e-4


def test_local_counts_train_otherwise_than_one_process(
    ranks: list[dict[str, Any]], alone: NetWithLoss
) -> None:
    """Why the global count is the default: with local ones, objects of a crowded rank weigh less."""
    _, gradients = single_process(alone, "unequal")
    assert distance(ranks[0]["local/unequal"]["gradients"], gradients) > 0.02


def test_ranks_hold_the_same_gradient(ranks: list[dict[str, Any]]) -> None:
    for key in ranks[0].keys() - {"counts"}:
        first, second = (rank[key]["gradients"] for rank in ranks)
        assert distance(first, second) == 0.0
