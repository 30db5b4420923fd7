"""Order of samples, sharing among ranks, and a real fit that is stopped and resumed in mid-epoch."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from maskwell.data.datamodule import DataModule
from maskwell.data.generated import ScenesSource
from maskwell.data.sample import Batch, InputSpec
from maskwell.data.sampler import EvalSampler, IterationSampler, TrainSampler

SPEC = InputSpec("square", 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def flat(sampler: TrainSampler | EvalSampler | IterationSampler) -> list[int]:
    return [index for batch in sampler for _, index in batch]


def test_an_epoch_visits_every_sample_once_in_an_order_of_its_own() -> None:
    epochs = []
    for epoch in range(3):
        sampler = TrainSampler(11, 4, seed=5, position=lambda e=epoch: (e, 0))
        batches = list(sampler)
        assert [len(b) for b in batches] == [4, 4, 3]
        assert {e for batch in batches for e, _ in batch} == {epoch}
        epochs.append(flat(sampler))
    assert all(sorted(order) == list(range(11)) for order in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert flat(TrainSampler(11, 4, seed=6)) != epochs[0]


def test_starting_in_the_middle_leaves_out_what_was_done_and_keeps_the_length() -> None:
    whole = list(TrainSampler(11, 2, seed=0, position=lambda: (3, 0)))
    rest = TrainSampler(11, 2, seed=0, position=lambda: (3, 4))
    assert list(rest) == whole[4:]
    assert len(rest) == len(whole) == 6


@pytest.mark.parametrize("size", [1, 7, 12])
def test_ranks_together_see_the_batches_of_one_process(size: int) -> None:
    ranks = [list(TrainSampler(size, 2, seed=1, rank=r, world_size=3)) for r in range(3)]
    assert len({len(batches) for batches in ranks}) == 1
    assert len({tuple(map(len, batches)) for batches in ranks}) == 1
    single = list(TrainSampler(size, 6, seed=1))
    for step, batch in enumerate(single):
        assert set(batch) <= {key for batches in ranks for key in batches[step]}


def test_a_stream_goes_through_whole_passes_without_short_batches() -> None:
    batches = list(IterationSampler(5, 3, 10, seed=2))
    assert [len(batch) for batch in batches] == [3] * 10
    keys = [key for batch in batches for key in batch]
    assert [number for number, _ in keys] == [place // 5 for place in range(30)]
    orders = [tuple(index for n, index in keys if n == number) for number in range(6)]
    assert all(sorted(order) == list(range(5)) for order in orders) and len(set(orders)) > 3
    assert keys != [key for batch in IterationSampler(5, 3, 10, seed=2, stream=1) for key in batch]
    assert flat(IterationSampler(3, 2, 3, seed=2, shuffle=False)) == [0, 1, 2, 0, 1, 2]


def test_a_stream_resumes_anywhere_and_goes_on_in_another_epoch() -> None:
    whole = list(IterationSampler(5, 3, 20, seed=2))
    rest = IterationSampler(5, 3, 20, seed=2, position=lambda: (0, 13))
    assert list(rest) == whole[13:] and len(rest) == 20
    assert list(IterationSampler(5, 3, 10, seed=2, position=lambda: (1, 0))) == whole[10:]
    assert list(IterationSampler(5, 3, 20, seed=2, position=lambda: (0, 20))) == []


@pytest.mark.parametrize("size", [1, 4, 7])
def test_ranks_of_a_stream_see_the_batches_of_one_process(size: int) -> None:
    ranks = [list(IterationSampler(size, 2, 6, seed=1, rank=r, world_size=3)) for r in range(3)]
    for step, batch in enumerate(IterationSampler(size, 6, 6, seed=1)):
        assert sorted(batch) == sorted(key for batches in ranks for key in batches[step])


def test_evaluation_has_no_duplicates_and_may_be_uneven() -> None:
    ranks = [flat(EvalSampler(7, 2, rank=r, world_size=3)) for r in range(3)]
    assert [len(indices) for indices in ranks] == [3, 2, 2]
    assert sorted(i for indices in ranks for i in indices) == list(range(7))
    assert flat(EvalSampler(1, 2, rank=1, world_size=2)) == []


class Recorder(LightningModule):
    """Learns the mean pixel; writes down which samples came and what they looked like."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, int, float]] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        for sample, image in zip(batch.samples, batch.images, strict=True):
            self.seen.append((self.current_epoch, sample.image_id, float(image.sum())))
        return (batch.images.mean() - self.weight) ** 2

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        assert all(sample.truth is not None for sample in batch.samples)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveAt(Callback):
    """Saves in the hook and at the step that are asked for; optionally breaks the run off there."""

    def __init__(self, path: Path, hook: str, step: int, stop: bool) -> None:
        self.path, self.hook, self.step, self.stop = path, hook, step, stop

    def _act(self, trainer: Trainer, hook: str) -> None:
        if hook == self.hook and trainer.global_step == self.step and not self.path.exists():
            trainer.save_checkpoint(self.path)
            if self.stop:
                raise KeyboardInterrupt

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        self._act(trainer, "batch")

    def on_validation_end(self, trainer: Trainer, *_: object) -> None:
        self._act(trainer, "validation")

    def on_train_epoch_end(self, trainer: Trainer, *_: object) -> None:
        self._act(trainer, "epoch")


def fit(
    root: Path,
    num_workers: int,
    callbacks: list[Callback],
    resume: Path | None = None,
    **trainer_args: object,
) -> Recorder:
    source = ScenesSource(32, 1, 2, epoch_size=7, num_val=3, num_test=1)
    data = DataModule(source, batch_size=2, num_workers=num_workers, seed=3)
    data.bind(SPEC)
    task = Recorder()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        callbacks=callbacks,
        default_root_dir=root,
        **trainer_args,
    )
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        trainer.fit(task, datamodule=data, ckpt_path=resume, weights_only=True)
    return task


@pytest.mark.parametrize(
    ("hook", "step"),
    [*(("batch", step) for step in (1, 3, 4, 6)), ("validation", 4), ("validation", 6), ("epoch", 4)],
)
@pytest.mark.filterwarnings("ignore")
def test_a_run_resumed_in_mid_epoch_equals_the_unbroken_one(tmp_path: Path, hook: str, step: int) -> None:
    """Four batches an epoch, the last with one sample; validation after every second batch."""
    whole = fit(tmp_path, 0, [], val_check_interval=2)
    broken = fit(tmp_path, 0, [SaveAt(tmp_path / "x.ckpt", hook, step, stop=True)], val_check_interval=2)
    resumed = fit(tmp_path, 0, [], resume=tmp_path / "x.ckpt", val_check_interval=2)
    assert broken.seen + resumed.seen == whole.seen
    assert torch.equal(resumed.weight, whole.weight)
    assert len({image for _, image, _ in whole.seen}) == len(whole.seen) == 21


@pytest.mark.filterwarnings("ignore")
def test_resume_with_two_workers(tmp_path: Path) -> None:
    whole = fit(tmp_path, 0, [])
    saved = fit(tmp_path, 2, [SaveAt(tmp_path / "x.ckpt", "batch", 5, stop=False)])
    assert saved.seen == whole.seen
    resumed = fit(tmp_path, 2, [], resume=tmp_path / "x.ckpt")
    assert resumed.seen == whole.seen[9:]
    assert torch.equal(resumed.weight, whole.weight)


@pytest.mark.filterwarnings("ignore")
def test_overfitting_sees_the_same_batches_in_every_epoch(tmp_path: Path) -> None:
    task = fit(tmp_path, 0, [], overfit_batches=2)
    epochs = [[row[1:] for row in task.seen if row[0] == epoch] for epoch in range(3)]
    assert epochs[0] == epochs[1] == epochs[2]
    assert len(epochs[0]) == 4
