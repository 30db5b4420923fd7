"""Two streams of one training: what they hold, their order, resuming, ranks, and refusals."""

from __future__ import annotations

import contextlib
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from PIL import Image
from torch import Tensor

from maskwell.data.datamodule import DataModule
from maskwell.data.kinds import semi
from maskwell.data.sample import IGNORE, Batch, InputSpec, collate
from maskwell.data.semantic import CocoSemanticSource, SemanticSource
from maskwell.data.semisup import SemiSupervisedData
from maskwell.data.transforms import Augmentation
from maskwell.errors import UserError
from tests.data.coco_folder import dataset, write
from tests.data.semantic_folder import SIZE, add, semantic_folder

SPEC = InputSpec("pad", 24, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NAMES = [f"{drive}_{i}" for drive in "ab" for i in range(6)]
WEAK = {"vflip": 0, "rotate90": 0, "brightness": 0, "contrast": 0, "saturation": 0, "hue": 0}

Streams = dict[str, Batch]


def module(root: Path, *, unlabelled: bool = True, **settings: object) -> SemiSupervisedData:
    augment = Augmentation((0.5, 2.0), None, **WEAK)
    arguments = {"iterations": 9, "labelled": 4, "batch_size": 2, "augment": augment} | settings
    data = semi(str(root), **arguments)  # type: ignore[arg-type]
    data.bind(SPEC, unlabelled=unlabelled)
    data.setup()
    return data


def batches(data: SemiSupervisedData) -> list[Streams]:
    return [batch for batch, _, _ in data.train_dataloader()]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return semantic_folder(tmp_path, NAMES)


def test_batches_of_two_streams(root: Path) -> None:
    data = module(root, unlabelled_batch_size=3)
    found = batches(data)
    assert len(found) == 9 == len(data.train_dataloader().flattened[0])
    lists = data.split_lists()
    assert len(lists["labelled"]) == 4 and len(lists["unlabelled"]) == 8
    assert set(lists["labelled"]) | set(lists["unlabelled"]) == set(lists["train"])
    seen = {name: Counter[str]() for name in ("labelled", "unlabelled")}
    for streams in found:
        assert [len(streams["labelled"]), len(streams["unlabelled"])] == [2, 3]
        assert streams["labelled"].semantic().shape == (2, 32, 32)
        for name, batch in streams.items():
            seen[name].update(f"train/{sample.file_name}" for sample in batch.samples)
            for sample in batch.samples:
                shown, other = sample.semantic, sample.hidden
                if name == "unlabelled":
                    shown, other = other, shown
                assert other is None and shown is not None and shown.dtype == torch.int64
                assert set(shown.unique().tolist()) <= {0, 1, IGNORE}
        with pytest.raises(ValueError, match="class map"):
            streams["unlabelled"].semantic()
    assert set(seen["labelled"]) == set(lists["labelled"])
    assert set(seen["unlabelled"]) == set(lists["unlabelled"])
    for counts in seen.values():
        assert max(counts.values()) - min(counts.values()) <= 1


def test_the_labelled_stream_does_not_depend_on_the_other(root: Path) -> None:
    both, alone = batches(module(root)), batches(module(root, unlabelled=False))
    assert [set(streams) for streams in alone] == [{"labelled"}] * 9
    for a, b in zip(both, alone, strict=True):
        assert torch.equal(a["labelled"].images, b["labelled"].images)
    other = batches(module(root, unlabelled=False, seed=1))
    assert not torch.equal(other[0]["labelled"].images, alone[0]["labelled"].images)
    workers = batches(module(root, num_workers=1))
    for a, b in zip(both, workers, strict=True):
        assert all(torch.equal(a[name].images, b[name].images) for name in a)


def test_pixels_that_the_zoom_filled_up_are_no_image(root: Path) -> None:
    data = module(root, augment=Augmentation((0.5, 0.5), None, **WEAK))
    for streams in batches(data)[:3]:
        for batch in streams.values():
            shown = batch.pixel_mask[:, :17, :24]
            assert not batch.pixel_mask[:, 17:].any() and not batch.pixel_mask[:, :, 24:].any()
            assert 0.2 < shown.float().mean() < 0.3
            assert (batch.images * ~batch.pixel_mask[:, None]).abs().max() == 0
        assert (streams["labelled"].semantic()[~streams["labelled"].pixel_mask] == IGNORE).all()


def test_hidden_and_valid_maps_are_padded(root: Path) -> None:
    sample = module(root, augment=None).unlabelled_dataset()[0]
    assert sample.hidden is not None and sample.valid is None
    (padded,) = (batch := collate([sample], 32)).samples
    assert padded.hidden is not None and padded.hidden.shape == (32, 32)
    assert torch.equal(padded.hidden[:17, :24], sample.hidden) and (padded.hidden[17:] == IGNORE).all()
    assert batch.pixel_mask.sum() == 17 * 24


def test_validation_and_the_fixed_images_are_whole_and_carry_truth(root: Path) -> None:
    data = module(root, labelled=3)
    for _ in range(2):
        fixed = [sample for batch in data.fixed_train_loader() for sample in batch.samples]
        assert [f"train/{s.file_name}" for s in fixed] == data.split_lists()["labelled"]
    evaluated = [sample for batch in data.val_dataloader() for sample in batch.samples]
    assert [sample.file_name for sample in evaluated] == ["v_1.png", "v_2.png"]
    for sample in fixed + evaluated:
        split = "val" if sample.file_name.startswith("v") else "train"
        mask = np.asarray(Image.open(root / "masks" / split / sample.file_name)).astype(np.int64)
        assert sample.truth is not None and sample.truth.semantic is not None
        assert torch.equal(sample.truth.semantic, torch.from_numpy(mask))
        assert sample.truth.size == SIZE


def test_a_mask_of_void_alone_passes_through(root: Path) -> None:
    for name in NAMES:
        Image.fromarray(np.full(SIZE, 255, np.uint8)).save(root / "masks" / "train" / f"{name}.png")
    for streams in batches(module(root)):
        assert (streams["labelled"].semantic() == IGNORE).all()
        assert streams["labelled"].images.isfinite().all()


def test_images_without_a_mask_are_unlabelled(tmp_path: Path) -> None:
    semantic_folder(tmp_path, NAMES[:3])
    add(tmp_path, "train", ["c_1", "c_2"], masks=False)
    data = module(tmp_path, labelled=None)
    assert data.split_lists()["unlabelled"] == ["train/c_1.png", "train/c_2.png"]
    assert all(s.hidden is None for streams in batches(data) for s in streams["unlabelled"].samples)
    with pytest.raises(UserError, match="has no mask"):
        SemanticSource(str(tmp_path)).setup()


def test_one_folder_is_split_by_drive_and_nothing_of_an_evaluated_drive_is_used(tmp_path: Path) -> None:
    add(tmp_path, "", [f"{drive}_{i}" for drive in "abcd" for i in range(3)])
    add(tmp_path, "", [f"{drive}_{i}" for drive in "abcd" for i in range(3, 8)], masks=False)
    write(tmp_path / "classes.json", ["sky", "road"])
    data = module(tmp_path, labelled=None, val_split=0.25, test_split=0.25, group_pattern="^[a-z]")
    lists = data.split_lists()
    drives = {split: {name[0] for name in names} for split, names in lists.items()}
    assert [len(lists[s]) for s in ("labelled", "unlabelled", "val", "test")] == [6, 10, 3, 3]
    assert not (drives["val"] | drives["test"]) & (drives["train"] | drives["unlabelled"])
    with pytest.raises(UserError, match=r"group_pattern='\(' is no regular expression"):
        module(tmp_path, group_pattern="(")


def test_a_second_folder_without_labels(root: Path, tmp_path: Path) -> None:
    add(tmp_path / "second", "", ["x", "y", "v_1"], masks=False)  # v_1 is a validation image
    data = module(root, labelled=None, unlabelled_root=str(tmp_path / "second" / "images"))
    assert len(data.labelled) == 12 and data.split_lists()["unlabelled"] == ["x.png", "y.png"]
    names = {sample.file_name for streams in batches(data) for sample in streams["unlabelled"].samples}
    assert names == {"x.png", "y.png"}
    assert "unlabelled" in data.fingerprint()


def test_coco_instances_as_classes(tmp_path: Path) -> None:
    data = module(dataset(tmp_path, train=6), coco=True, labelled=2)
    streams = batches(data)[0]
    assert data.categories == ("background", "cell")
    assert set(streams["labelled"].semantic().unique().tolist()) == {0, 1, IGNORE}
    assert all(sample.hidden is not None for sample in streams["unlabelled"].samples)


def test_windows_of_unlabelled_images_do_not_depend_on_their_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def windows() -> dict[str, list[object]]:
        data = module(folder, coco=True, labelled=2, crop=8, augment=None)
        return {
            name: [sample.geometry.window for streams in batches(data) for sample in streams[name].samples]
            for name in ("labelled", "unlabelled")
        }

    folder = dataset(tmp_path, train=6)
    before = windows()
    corner = np.asarray([[0, 0, 2, 2]], np.float32)
    monkeypatch.setattr(CocoSemanticSource, "objects", lambda *_: corner)
    after = windows()
    assert before["unlabelled"] == after["unlabelled"] and before["labelled"] != after["labelled"]


def test_summary(root: Path) -> None:
    summary = module(root).summary()
    assert (summary.labelled, summary.unlabelled, summary.samples["train"]) == (4, 8, 4)
    assert summary.images == {"train": 12, "val": 2, "test": 0}


def test_refusals_are_a_sentence(root: Path) -> None:
    with pytest.raises(UserError, match="no unlabelled image: all 12 training images are labelled"):
        module(root, labelled=1.0)
    assert len(module(root, labelled=1.0, unlabelled=False).labelled) == 12
    with pytest.raises(UserError, match=r"unlabelled_root is set, .* leave out data\.labelled"):
        module(root, unlabelled_root=str(root))
    with pytest.raises(UserError, match="unlabelled_batch_size=0"):
        module(root, unlabelled_batch_size=0)
    with pytest.raises(UserError, match="choose model=s4gan"):
        module(root, iterations=None).train_dataloader()
    plain = DataModule(SemanticSource(str(root)))
    plain.bind(SPEC, unlabelled=True)
    plain.setup()
    with pytest.raises(UserError, match="use data=semi"):
        plain.train_dataloader()


def test_groups_of_evaluated_images_leave_no_unlabelled_one(root: Path) -> None:
    add(root, "val", ["a_9", "b_9"])
    with pytest.raises(UserError, match="other 8 training images belong to groups that are validated"):
        module(root, group_pattern="^[a-z]")


@pytest.mark.parametrize("split", ["train", "val"])
def test_values_beyond_the_class_list_are_found_before_training(root: Path, split: str) -> None:
    name = module(root).split_lists()["labelled" if split == "train" else "val"][0]
    mask = np.zeros(SIZE, np.uint8)
    mask[3, 4] = 7
    Image.fromarray(mask).save(root / "masks" / name)
    with pytest.raises(UserError, match=r"_\d\.png' has the value 7, but there are 2 classes"):
        module(root)


class Recorder(LightningModule):
    """Learns the mean pixel; writes down which samples of which stream came and what they looked like."""

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__()
        self.folder = folder
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[str, str, float]] = []

    def training_step(self, streams: Streams, batch_idx: int) -> Tensor:
        for name, batch in streams.items():
            for sample, image in zip(batch.samples, batch.images, strict=True):
                self.seen.append((name, sample.file_name, float(image.sum())))
        return sum((batch.images.mean() - self.weight) ** 2 for batch in streams.values())  # type: ignore[return-value]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        assert all(sample.truth is not None for sample in batch.samples)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_fit_end(self) -> None:
        if self.folder is not None:
            (self.folder / f"{self.global_rank}.json").write_text(json.dumps(self.seen))


class SaveAt(Callback):
    """Saves after an iteration and breaks the run off there."""

    def __init__(self, path: Path, iteration: int) -> None:
        self.path, self.iteration = path, iteration

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == self.iteration and not self.path.exists():
            trainer.save_checkpoint(self.path)
            raise KeyboardInterrupt


def fit(
    data: SemiSupervisedData, task: Recorder, root: Path, resume: Path | None = None, **more: object
) -> Recorder:
    settings: dict[str, object] = {"max_epochs": 1, "val_check_interval": 4, "check_val_every_n_epoch": None}
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        default_root_dir=root,
        **(settings | more),  # type: ignore[arg-type]
    )
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        trainer.fit(task, datamodule=data, ckpt_path=resume, weights_only=True)
    return task


@pytest.mark.parametrize(("iteration", "num_workers"), [(1, 0), (4, 0), (7, 0), (5, 1)])
@pytest.mark.filterwarnings("ignore")
def test_a_resumed_run_sees_the_batches_of_the_unbroken_one(
    root: Path, iteration: int, num_workers: int
) -> None:
    whole = fit(module(root), Recorder(), root)
    assert len(whole.seen) == 9 * 4
    save = SaveAt(root / "x.ckpt", iteration)
    broken = fit(module(root, num_workers=num_workers), Recorder(), root, callbacks=[save])
    assert len(broken.seen) == iteration * 4
    resumed = fit(module(root, num_workers=num_workers), Recorder(), root, resume=root / "x.ckpt")
    assert broken.seen + resumed.seen == whole.seen
    assert torch.equal(resumed.weight, whole.weight)


@pytest.mark.filterwarnings("ignore")
def test_overfitting_sees_the_same_batches_in_every_epoch(root: Path) -> None:
    task = fit(module(root, augment=None), Recorder(), root, overfit_batches=1, max_epochs=3)
    assert len(task.seen) == 3 * 4 and task.seen[:4] == task.seen[4:8] == task.seen[8:]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the processes are forked")
@pytest.mark.filterwarnings("ignore")
def test_two_ranks_share_out_both_streams(root: Path) -> None:
    fit(module(root, batch_size=1), Recorder(root), root, devices=2, strategy="ddp_fork")
    ranks = [[tuple(row) for row in json.loads((root / f"{rank}.json").read_text())] for rank in (0, 1)]
    single = [
        (name, sample.file_name, float(image.sum()))
        for streams in batches(module(root))
        for name, batch in streams.items()
        for sample, image in zip(batch.samples, batch.images, strict=True)
    ]
    for stream in ("labelled", "unlabelled"):
        parts = [[row for row in rank if row[0] == stream] for rank in ranks]
        assert [len(part) for part in parts] == [9, 9]
        assert [row for pair in zip(*parts, strict=True) for row in pair] == [
            r for r in single if r[0] == stream
        ]
