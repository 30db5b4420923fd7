"""The GPU benchmark's code on a CPU, at the size of the small base."""

from __future__ import annotations

import sys

import pytest
import torch

from benchmarks import sam3_full_gpu
from maskwell.models.sam_lora.tiny import tiny_config


@pytest.mark.parametrize("setting", sam3_full_gpu.SETTINGS.values())
def test_every_setting_trains(setting: sam3_full_gpu.Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(sam3_full_gpu, "OBJECTS", 2)
    config = tiny_config(1000, image_size=32)
    figures = sam3_full_gpu.measure(config, torch.device("cpu"), setting, iterations=1, warmup=0)
    assert figures["seconds_per_iteration"] > 0
    assert figures["million_trained"] < figures["million_parameters"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_ends_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["sam3_full_gpu"])
    with pytest.raises(SystemExit, match="torch finds none here"):
        sam3_full_gpu.main()
