"""Two processes on one machine (gloo) that train together under Lightning's DDP."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.multiprocessing as mp

RANKS = 2


def together(run: Callable[..., None], *given: Any) -> None:
    """Call ``run(*given)`` in each of two processes that find each other; it trains with ``devices=2``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_rank, args=(port, run, given), nprocs=RANKS)


def _rank(rank: int, port: int, run: Callable[..., None], given: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    # what Lightning sets for the processes it starts itself
    place = {"LOCAL_RANK": rank, "NODE_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    run(*given)
