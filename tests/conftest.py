"""Shared by all tests: no network, one thread, and the small family of support.py may be built."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"


@pytest.fixture
def small_family(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the build layer take ``support.TinyConv``."""
    from maskwell import build

    monkeypatch.setattr(build, "TRUSTED", (*build.TRUSTED, "support."))
