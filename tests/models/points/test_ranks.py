"""Two processes (gloo) with unequal images: the mean of their gradients is that of one process."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from maskwell.data.sample import collate
from points_small import make_batch, make_sample, make_task


def gradients(folder: str, rank: int | None) -> None:
    """Gradients of one rank's images, averaged over ranks where there are several, into a file."""
    torch.set_num_threads(1)
    result = {}
    for head in ("pointer", "xy", "one_shot"):
        task = make_task(head=head)
        whole = make_batch(6, 1, 0, 0)  # a rank without any object
        rows = slice(None) if rank is None else slice(2 * rank, 2 * rank + 2)
        part = collate([make_sample(i, n) for i, n in enumerate((6, 1, 0, 0))][rows])
        assert torch.equal(part.images, whole.images[rows])
        task.step(part, "val").loss.backward()  # states are functions of the image there
        for name, parameter in task.named_parameters():
            assert parameter.grad is not None
            if rank is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= 2
            result[f"{head}/{name}"] = parameter.grad
    torch.save(result, Path(folder) / f"{rank}.pt")


def run(rank: int, folder: str, port: int) -> None:
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    gradients(folder, rank)
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_one(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(run, args=(str(tmp_path), port), nprocs=2)
    gradients(str(tmp_path), None)
    one = torch.load(tmp_path / "None.pt", weights_only=True)
    two = torch.load(tmp_path / "0.pt", weights_only=True)
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.allclose(two[name], value, rtol=1e-3, atol=1e-5), name
