"""Few labels of real data: CamVid's drives and dsb2018's nuclei read as classes."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from maskwell.data.kinds import semi
from maskwell.data.sample import IGNORE, InputSpec
from maskwell.data.semisup import SemiSupervisedData
from maskwell.data.transforms import Augmentation

DATA = os.environ.get("MASKWELL_DATA")
pytestmark = pytest.mark.skipif(not DATA, reason="MASKWELL_DATA is unset")
SPEC = InputSpec("pad", 160, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def module(name: str, **settings: object) -> SemiSupervisedData:
    augment = Augmentation(
        (0.5, 2.0), None, vflip=0, rotate90=0, brightness=0, contrast=0, saturation=0, hue=0
    )
    data = semi(str(Path(str(DATA)) / name), 3, augment=augment, batch_size=2, **settings)  # type: ignore[arg-type]
    data.bind(SPEC, unlabelled=True)
    data.setup()
    return data


@pytest.fixture(scope="module")
def camvid() -> SemiSupervisedData:
    return module("camvid", labelled=0.125)


def test_an_eighth_of_camvid_is_spread_over_drives_and_time(camvid: SemiSupervisedData) -> None:
    lists = camvid.split_lists()
    assert [len(lists[k]) for k in ("labelled", "unlabelled", "val", "test")] == [46, 321, 101, 233]
    drives = Counter(Path(name).name.split("_")[0] for name in lists["labelled"])
    assert all(abs(drives[d] - n / 8) <= 1 for d, n in {"0001TP": 62, "0006R0": 101, "0016E5": 204}.items())
    assert set(np.diff(camvid.labelled)) <= {7, 8}
    evaluated = {Path(name).name for name in lists["val"] + lists["test"]}
    assert not evaluated & {Path(name).name for name in lists["labelled"] + lists["unlabelled"]}
    assert not set(lists["labelled"]) & set(lists["unlabelled"])
    shares = {0.25: 92, 0.0625: 23}
    for share, count in shares.items():
        assert len(module("camvid", labelled=share).labelled) == count


def test_camvid_streams_and_evaluation(camvid: SemiSupervisedData) -> None:
    assert len(camvid.categories) == 11
    for streams, _, _ in camvid.train_dataloader():
        assert streams["labelled"].images.shape == (2, 3, 128, 160)
        assert set(streams["labelled"].semantic().unique().tolist()) <= {*range(11), IGNORE}
        assert all(s.hidden is not None and s.semantic is None for s in streams["unlabelled"].samples)
    fixed = [sample for batch in camvid.fixed_train_loader() for sample in batch.samples]
    assert len(fixed) == 32
    sample = camvid.dataset("val")[0]
    assert sample.truth is not None and sample.truth.size == (360, 480) == sample.geometry.window_size


def test_drives_can_be_kept_apart() -> None:
    data = module("camvid", labelled=0.125, group_pattern="^[^_]+")
    names = [Path(name).name for name in data.split_lists()["unlabelled"]]
    # The validation frames are of drive 0016E5, the test frames of 0001TP.
    assert names and all(name.startswith("0006R0") for name in names)


def test_a_sixteenth_of_the_nuclei_as_classes() -> None:
    data = module("dsb2018", coco=True, labelled=0.0625)
    assert data.categories == ("background", "nucleus")
    assert (len(data.labelled), len(data.unlabelled)) == (24, 359)
    streams = next(iter(data.train_dataloader()))[0]
    assert set(streams["labelled"].semantic().unique().tolist()) <= {0, 1, IGNORE}
    hidden = [sample.hidden for sample in streams["unlabelled"].samples]
    assert all(torch.is_tensor(one) for one in hidden)
