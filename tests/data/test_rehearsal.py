"""Rehearsal: scenes beside each batch, never the same twice, the same after a resume and on every layout."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch

from maskwell.data.coco import CocoSource
from maskwell.data.datamodule import DataModule
from maskwell.data.prompts import PromptPolicy
from maskwell.data.rehearsal import AUTO_SCENES, RehearsalSampler, rehearsal_scenes
from maskwell.data.sample import InputSpec
from maskwell.data.sampler import TrainSampler
from maskwell.errors import UserError
from tests.data.coco_folder import dataset

SQUARE = InputSpec("square", 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def data_module(root: Path, rehearsal: object = "auto", *, knows_scenes: bool = True) -> DataModule:
    data = DataModule(
        CocoSource(str(dataset(root))),
        batch_size=2,
        prompts=PromptPolicy(),
        rehearsal=rehearsal,  # type: ignore[arg-type]
    )
    data.bind(SQUARE, promptable=True, knows_scenes=knows_scenes)
    data.setup()
    return data


def test_every_batch_has_its_own_samples_and_new_scenes(tmp_path: Path) -> None:
    data = data_module(tmp_path)
    batches = list(islice(iter(data.train_dataloader()), 2))
    names = [[sample.file_name for sample in batch.samples] for batch in batches]
    scenes = [[name for name in batch if name.startswith("scene_train")] for batch in names]
    assert [len(batch) for batch in scenes] == [AUTO_SCENES, AUTO_SCENES]
    assert not set(scenes[0]) & set(scenes[1])
    assert all(batch.images.shape[-2:] == (32, 32) for batch in batches)
    for batch in batches:
        for sample in batch.samples:
            assert sample.prompts
            if sample.file_name.startswith("scene"):
                assert all(prompt.label < 0 for prompt in sample.prompts)


@pytest.mark.parametrize(
    ("rehearsal", "knows", "count"), [(None, True, 0), ("auto", False, 0), (3, False, 3)]
)
def test_how_many_scenes(tmp_path: Path, rehearsal: object, knows: bool, count: int) -> None:
    data = data_module(tmp_path, rehearsal, knows_scenes=knows)
    assert data.summary().rehearsal == count
    batch = next(iter(data.train_dataloader()))
    assert sum(sample.file_name.startswith("scene") for sample in batch.samples) == count


def test_a_model_without_prompts_cannot_rehearse(tmp_path: Path) -> None:
    data = DataModule(CocoSource(str(dataset(tmp_path))), rehearsal=1)
    with pytest.raises(UserError, match=r"data\.rehearsal=null"):
        data.bind(SQUARE)
    with pytest.raises(UserError, match=r"data\.rehearsal=-1"):
        DataModule(CocoSource(str(tmp_path)), rehearsal=-1)


def test_a_resumed_epoch_goes_on_with_the_scenes_that_were_next() -> None:
    whole = list(RehearsalSampler(TrainSampler(10, 3, seed=0), 2))
    resumed = list(RehearsalSampler(TrainSampler(10, 3, seed=0, position=lambda: (0, 2)), 2))
    assert resumed == whole[2:]


def test_ranks_share_out_the_scenes() -> None:
    samplers = [RehearsalSampler(TrainSampler(8, 2, seed=0, rank=r, world_size=2), 2) for r in (0, 1)]
    keys = [key for sampler in samplers for batch in sampler for key in batch if key[1] >= 8]
    assert len(keys) == len(set(keys)) == 2 * 2 * 2


def test_a_scene_is_a_function_of_seed_and_key() -> None:
    first, again = (rehearsal_scenes(SQUARE, seed=5)[3, 7] for _ in range(2))
    assert torch.equal(first.image, again.image)
    assert first.prompts == again.prompts
    assert not torch.equal(first.image, rehearsal_scenes(SQUARE, seed=6)[3, 7].image)
