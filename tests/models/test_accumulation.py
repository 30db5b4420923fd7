"""Gradients over several batches are those of one batch that holds them all, in every family that can."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningDataModule, Trainer
from torch import Tensor

import detr_small
import points_small
from maskwell.callbacks.monitor.readings import loss_of
from maskwell.data.datamodule import BatchLoader
from maskwell.data.sample import Batch, Geometry, Prompt, Sample, collate
from maskwell.errors import UserError
from maskwell.models.base import BaseTask
from maskwell.models.optimisation import AdamWCosine
from maskwell.models.points import states
from maskwell.models.points.module import Points
from maskwell.models.points.net import EncoderSpec
from maskwell.models.sam_lora.adaptation import Lora
from maskwell.models.sam_lora.loss import LossWeights, Normalisation, SetLoss
from maskwell.models.sam_lora.module import SamLora
from maskwell.ops import masks
from maskwell.ops.losses import ALONE, Accumulation
from support import composed

TOGETHER = 3
COUNTS = [[3, 0], [1, 2], [0, 0], [2, 4], [1, 1]]
"""Objects of the images of five batches; the second step has but two of these."""


class Grouped(LightningDataModule):
    """Batches of images, or each ``joined`` with those of its optimiser step."""

    def __init__(self, batches: Sequence[Batch], joined: bool, together: int = TOGETHER) -> None:
        super().__init__()
        self.batches, self.joined, self.together = list(batches), joined, together

    def train_dataloader(self) -> Any:
        steps = [self.batches[i : i + self.together] for i in range(0, len(self.batches), self.together)]
        if self.joined:
            content = [join(step) for step in steps]
        else:
            content = [batch for step in steps for batch in step]
        loader = BatchLoader(content, batch_size=None)  # type: ignore[arg-type]
        if not self.joined:
            loader.ahead = lambda: iter([len(step) for step in steps])
        return loader


def join(batches: Sequence[Batch]) -> Batch:
    samples = [
        replace(sample, image=image)
        for batch in batches
        for sample, image in zip(batch.samples, batch.images, strict=True)
    ]
    joined = collate(samples)
    return Batch(joined.images, torch.cat([batch.pixel_mask for batch in batches]), joined.samples)


class Keep(Callback):
    """Keeps the gradients of every step and then drops them, so that the weights stay; dropout is off."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, Tensor]] = []
        self.losses: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, module: Any, *_: Any) -> None:
        module.eval()

    def on_before_optimizer_step(self, trainer: Trainer, module: Any, optimizer: Any) -> None:
        found = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
        self.gradients.append(found)
        for parameter in module.parameters():
            parameter.grad = None

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, *_: Any) -> None:
        loss, _ = loss_of(trainer, outputs, list)
        assert loss is not None
        self.losses.append(float(loss))


class Cut(Keep):
    """Ends the run after its first batch."""

    def on_train_batch_end(self, *_: Any) -> None:
        raise RuntimeError("cut off")


def fit(task: BaseTask, data: LightningDataModule, keep: Keep, **settings: Any) -> None:
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        use_distributed_sampler=False,
        callbacks=[keep],
        **settings,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(task, datamodule=data)


def gradients(
    task: BaseTask, batches: Sequence[Batch], joined: bool = False, keep: Keep | None = None
) -> Keep:
    keep = keep or Keep()
    fit(task, Grouped(batches, joined), keep, accumulate_grad_batches=1 if joined else TOGETHER)
    return keep


def largest_difference(task: BaseTask, batches: Sequence[Batch]) -> float:
    """Between accumulated and joined."""
    return apart(gradients(task, batches).gradients, gradients(task, batches, joined=True).gradients)


def apart(found: list[dict[str, Tensor]], wanted: list[dict[str, Tensor]]) -> float:
    """Largest difference over both steps, as a share of the step's largest gradient."""
    assert len(found) == len(wanted) == 2
    worst = 0.0
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.keys() == theirs.keys() and ours
        scale = max(float(value.abs().max()) for value in theirs.values())
        assert scale > 0
        worst = max(worst, *(float((ours[k] - theirs[k]).abs().max()) / scale for k in ours))
    return worst


@pytest.mark.parametrize(("architecture", "one_to_many"), [("rt_detr_v2", 1), ("detr", 3), ("rf_detr", 3)])
def test_detr(architecture: str, one_to_many: int) -> None:
    task = detr_small.make_task(architecture, one_to_many=one_to_many)
    task.config.num_denoising = 0  # drawn anew in every batch
    batches = [detr_small.batch(*counts, seed=10 * place) for place, counts in enumerate(COUNTS)]
    assert largest_difference(task, batches) < 1e-5


def points_batch(place: int, counts: Sequence[int]) -> Batch:
    return collate([points_small.make_sample(10 * place + i, n) for i, n in enumerate(counts)])


@pytest.mark.parametrize("head", ["pointer", "xy", "one_shot"])
def test_points(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = states.draw

    def by_image(policy: Any, truth: Tensor, *args: Any, **more: Any) -> Any:
        generator = torch.Generator().manual_seed(int(1e6 * float(truth.sum())))
        return drawn(policy, truth, *args, **{**more, "generator": generator})

    monkeypatch.setattr(states, "draw", by_image)
    task = points_small.make_task(head=head, own_warmup=0.0)
    task.optim = AdamWCosine()
    batches = [points_batch(place, counts) for place, counts in enumerate(COUNTS)]
    assert largest_difference(task, batches) < 1e-5


def prompted(index: int, objects: int, with_masks: bool) -> Sample:
    """Rectangles of 32 px images: "cell" is there, "debris" is not; every third image asks "cell" alone."""
    size, generator = 32, torch.Generator().manual_seed(index)
    grids = torch.zeros(objects, size, size, dtype=torch.bool)
    for i in range(objects):
        grids[i, 4 + 7 * i : 10 + 7 * i, 5:20] = True
    prompts = (Prompt("cell", tuple(range(objects)), 0), Prompt("debris", (), 1))
    return Sample(
        image=torch.randn(3, size, size, generator=generator),
        boxes=masks.boxes(masks.encode(grids)) / size,
        labels=torch.zeros(objects, dtype=torch.int64),
        geometry=Geometry((size, size), (0, 0, size, size), (size, size), (size, size)),
        image_id=index,
        file_name=f"{index}.png",
        masks=grids if with_masks else None,
        prompts=prompts[: 1 + (index % 3 > 0)],
    )


@pytest.mark.parametrize("normalisation", ["global", "one"])
def test_sam_lora(normalisation: Normalisation) -> None:
    torch.manual_seed(0)
    weights = LossWeights(semantic=10.0, semantic_dice=5.0)
    loss = SetLoss(weights, normalisation=normalisation, one_to_many=2)
    task = SamLora("scratch", image_size=32, lora=Lora(rank=4), loss=loss)
    with torch.no_grad():
        for _, parameter in task.trainable_parameters():  # adapters start at nothing
            parameter += 0.05 * torch.randn(parameter.shape)
    task.bind(categories=["cell", "debris"], optim=AdamWCosine())
    batches = [
        collate([prompted(10 * place + i, n, with_masks=place != 1) for i, n in enumerate(counts)])
        for place, counts in enumerate(COUNTS)
    ]
    assert largest_difference(task, batches) < 1e-5


class Shared(Grouped):
    """Every second batch is the second process's."""

    def setup(self, stage: str) -> None:
        assert self.trainer is not None
        self.batches = self.batches[self.trainer.global_rank :: 2]


class Store(Keep):
    """Writes what the process has kept into ``folder``."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def on_train_end(self, trainer: Trainer, module: Any) -> None:
        torch.save(self.gradients, self.folder / f"rank_{trainer.global_rank}.pt")


@pytest.mark.slow
def test_two_processes_accumulate_as_one(tmp_path: Path) -> None:
    task = points_small.make_task(head="one_shot")
    task.optim = AdamWCosine()
    batches = [points_batch(place, counts) for place, counts in enumerate([*COUNTS, [5, 0]])]
    settings: dict[str, Any] = {"strategy": "ddp_spawn", "devices": 2, "accumulate_grad_batches": 2}
    fit(task, Shared(batches, joined=False, together=2), Store(tmp_path), **settings)
    wanted = Keep()
    fit(task, Grouped(batches, joined=True, together=4), wanted)
    for rank in range(2):
        found = torch.load(tmp_path / f"rank_{rank}.pt", weights_only=True)
        assert apart(found, wanted.gradients) < 1e-5


def test_what_was_counted_ahead_ends_with_its_run() -> None:
    task = detr_small.make_task("detr")
    batches = [detr_small.batch(*counts, seed=10 * place) for place, counts in enumerate(COUNTS)]
    (wanted, _) = gradients(task, batches, joined=True).gradients
    with pytest.raises(RuntimeError, match="cut off"):
        gradients(task, batches, keep=Cut())
    (found, _) = gradients(task, batches, joined=True).gradients
    assert all(torch.allclose(found[name], wanted[name]) for name in wanted)


def test_looking_ahead_shows_batchnorm_no_image_twice() -> None:
    task = Points(EncoderSpec(width=16, norm="batch"), hidden=16, image_size=points_small.SIDE)
    task.bind(categories=["blob"])
    before = {name: buffer.clone() for name, buffer in task.named_buffers()}
    task.train().look_ahead(points_small.make_batch(2, 3))
    assert any("running_mean" in name for name in before)
    assert all(torch.equal(buffer, before[name]) for name, buffer in task.named_buffers())


def test_what_is_logged_is_the_mean_of_each_batch() -> None:
    """Only gradients know of the other batches: the monitor compares losses with numbers of objects."""
    task = detr_small.make_task("detr")
    batches = [detr_small.batch(*counts, seed=10 * place) for place, counts in enumerate(COUNTS)]
    found = gradients(task, batches).losses
    alone = [float(task.eval().step(batch, "train").loss.detach()) for batch in batches]
    assert found == pytest.approx(alone, rel=1e-4)


def test_divisor_gives_the_gradient_of_the_whole() -> None:
    values = torch.tensor([1.0, 3.0], requires_grad=True)
    together = Accumulation({"objects": 10.0}, 4)
    mean = together.divisor("objects", 2).mean(values.sum())
    mean.backward()
    assert float(mean.detach()) == 2.0
    assert values.grad is not None and values.grad.tolist() == pytest.approx([0.4, 0.4])  # 4 / 10
    twice = together.divisor("objects", 2) * 2
    assert (float(twice.own), float(twice.whole or 0)) == (4.0, 5.0)
    assert ALONE.divisor("objects", 0).own == 1 and ALONE.divisor("objects", 0).whole is None


def test_a_family_that_steps_by_itself_refuses() -> None:
    from maskwell import build
    from s4gan_small import make_task

    cfg, _ = composed("trainer=cpu", "trainer.accumulate_grad_batches=2")
    with pytest.raises(UserError, match=r"accumulate_grad_batches=2: model=s4gan .* data.batch_size"):
        build.trainer(cfg, make_task(), logger=False)
