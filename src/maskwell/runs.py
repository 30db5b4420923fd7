"""The folder of a run: how it is named, made, found again and what lies in it."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from maskwell.errors import UserError

RUN_DIR = "MASKWELL_RUN_DIR"
"""Environment variable by which the ranks of one run agree on its folder."""


def create(root: Path, family: str, now: datetime) -> Path:
    """Make ``root/family/<date_time>``; two runs in one second get a suffix."""
    parent = root / family
    parent.mkdir(parents=True, exist_ok=True)
    stamp = now.strftime("%Y-%m-%d_%H-%M-%S")
    for attempt in range(1, 1000):
        folder = parent / (stamp if attempt == 1 else f"{stamp}_{attempt}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise UserError(f"{parent} holds a thousand runs of this second already; wait a second.")
