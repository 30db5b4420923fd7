"""The task: what it learns from, says and stores; resume; what it refuses."""

from __future__ import annotations

from dataclasses import asdict
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningDataModule, Trainer
from omegaconf import OmegaConf
from torch.utils.data import DataLoader

from maskwell import compose
from maskwell.callbacks.step_seed import StepSeed
from maskwell.data.sample import Batch, collate
from maskwell.errors import UserError
from maskwell.models.optimisation import AdamWCosine
from maskwell.models.points.heads import RARE
from maskwell.models.points.module import Points
from maskwell.models.points.net import EncoderSpec
from maskwell.models.points.objective import DEFAULTS
from maskwell.models.points.states import ORDERS, MarkNoise
from points_small import SIDE, make_batch, make_sample, make_task, places


def step(task: Points, batch: Batch, seed: int = 0, stage: Any = "train") -> Any:
    torch.manual_seed(seed)
    return task.step(batch, stage)


@pytest.mark.parametrize("head", ["pointer", "xy", "one_shot"])
def test_every_parameter_gets_a_gradient_and_belongs_to_one_group(head: Any) -> None:
    task = make_task(head=head, own_share=0.5, noise=MarkNoise(1.0, 0.1, 0.1, 0.2)).train()
    output = step(task, make_batch(4, 0, 6))
    output.loss.backward()
    trained = dict(task.named_parameters())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained.values())
    groups = task.gradient_groups()
    grouped = [id(p) for group in groups.values() for p in group]
    assert len(grouped) == len(set(grouped))
    assert {id(p) for p in trained.values()} == set(grouped)
    wanted = {"pointer": "point_head", "xy": "x_head", "one_shot": "class_head"}[head]
    assert {wanted, "decoder", "encoder"} <= groups.keys()
    assert float(output.facts["num_objects"]) == 10


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("head", ["pointer", "xy"])
def test_total_loss_is_the_weighted_sum_of_raw_terms(head: Any, order: Any) -> None:
    task = make_task(head=head, order=order)
    output = step(task, make_batch(3, 5))
    _, spatial, done = DEFAULTS[head]  # type: ignore[index]
    parts = output.parts
    expected = spatial * parts["loss_spatial"] + done * parts["loss_done"]
    expected += parts.get("loss_point", 0.0) + parts.get("loss_cell", 0.0)
    assert torch.allclose(output.loss, expected)
    assert {"loss_spatial", "loss_done", "loss_mse"} <= parts.keys()


def test_modes_leave_out_what_they_do_not_learn() -> None:
    batch = make_batch(3, 5)
    regression = step(make_task(mode="regression"), batch)
    parts = regression.parts
    assert torch.allclose(
        regression.loss, 500 * parts["loss_spatial"] + parts["loss_point"] + parts["loss_cell"]
    )
    assert float(regression.facts["done_share"]) == 0
    done = step(make_task(mode="done", done_weight=5.0), batch)
    assert torch.allclose(done.loss, 5 * done.parts["loss_done"])


@pytest.mark.parametrize("head", ["pointer", "xy", "one_shot"])
def test_images_without_objects_have_a_finite_loss_and_gradient(head: Any) -> None:
    for mode in ("mixed", "regression"):
        task = make_task(head=head, mode=mode, own_share=0.5)
        output = step(task, make_batch(0, 0))
        output.loss.backward()
        assert output.loss.isfinite()
        assert all(p.grad is None or p.grad.isfinite().all() for p in task.parameters())


def test_evaluation_repeats_its_states_and_says_what_it_shows() -> None:
    task = make_task().eval()
    batch = make_batch(3, 5, 0)
    first, again = step(task, batch, 0, "val"), step(task, batch, 1, "val")
    assert torch.equal(first.loss, again.loss)
    examples = task.teacher_forced_examples(batch, first)
    assert len(examples) == 3 and examples[2].finished and examples[2].target is None
    for sample, example in zip(batch.samples, examples, strict=True):
        assert sample.truth is not None and sample.truth.points is not None
        objects = {tuple(round(v, 3) for v in row) for row in sample.truth.points.tolist()}
        marked = {tuple(round(v, 3) for v in row) for row in example.marks.tolist()}
        assert marked <= objects and example.finished == (marked == objects)
        if example.target is not None:
            assert tuple(round(v, 3) for v in example.target.tolist()) in objects - marked
        assert 0 <= example.done <= 1


def test_metrics_hold_rollouts_teacher_forcing_and_the_gap_between_them() -> None:
    task = make_task().eval()
    with torch.no_grad():  # it marks at least something
        task.net.head.done_head.fill_(RARE - 4)  # type: ignore[union-attr,operator]
    batch = make_batch(3, 5)
    output = step(task, batch, 0, "val")
    task.update_metrics(batch, output, "val")
    errors = output.look.error[output.look.error.isfinite()]
    found = task.compute_metrics("val")
    assert {"f1_9_6", "count_mae", "pixel_error", "done_mean", "early", "late"} <= found.keys()
    assert float(found["pixel_error"]) == pytest.approx(float(errors.mean()), rel=1e-5)
    hits = float((errors <= 9.6 * SIDE / 384).float().mean())
    assert float(found["precision_9_6_gap"]) == pytest.approx(hits - float(found["precision_9_6"]))


def test_validation_chooses_the_stop_by_f1_and_the_checkpoint_keeps_it() -> None:
    task, batch = make_task().eval(), make_batch(3, 5)
    given = make_task(stop=0.5).eval()
    with torch.no_grad():
        for made in (task, given):
            made.net.head.done_head.fill_(RARE - 2)  # type: ignore[union-attr,operator]
    found = {}
    for made in (task, given):
        made.update_metrics(batch, step(made, batch, 0, "val"), "val")
        found[made] = made.compute_metrics("val")
    assert "stop" not in found[given] and given.stop == 0.5
    assert float(found[task]["f1_9_6"]) >= float(found[given]["f1_9_6"])
    assert float(found[task]["stop"]) == pytest.approx(task.stop)
    task.stop = 0.35
    output = step(task, batch, 0, "test")
    task.update_metrics(batch, output, "test")
    assert all(float(made.scores.min()) >= 0.65 for made in output.preds() if len(made.scores))
    assert "stop" not in task.compute_metrics("test") and task.stop == 0.35  # the test chooses nothing
    checkpoint: dict[str, Any] = {"state_dict": task.state_dict()}
    task.on_save_checkpoint(checkpoint)
    loaded, fixed = make_task(), make_task(stop=0.5)
    for made in (loaded, fixed):
        made.on_load_checkpoint(checkpoint)
    assert loaded.stop == 0.35 and fixed.stop == 0.5
    fresh = make_task()
    fresh.on_load_checkpoint(fresh.adopt(checkpoint))
    assert fresh.stop == 0.5  # another data set


def test_the_average_is_what_is_evaluated_and_trained_on_from() -> None:
    task, batch = make_task(ema_decay=0.9).eval(), make_batch(3)
    assert task.teacher is not None and task.trained_label == "averaged"
    with torch.no_grad():
        for parameter in task.net.parameters():
            parameter.add_(0.5)
    plain = make_task().eval()
    assert torch.equal(step(task, batch, 0, "val").loss, step(plain, batch, 0, "val").loss)
    assert torch.equal(task.predict_batch(batch)[0].boxes, plain.predict_batch(batch)[0].boxes)
    assert {name.split(".")[0] for name, _ in task.trainable_parameters()} == {"net"}
    state = task.state_dict()
    assert not any(name.startswith("teacher.") for name in plain.adopt({"state_dict": state})["state_dict"])
    task.reset_progress()
    assert all(
        torch.equal(value, plain.state_dict()[name])
        for name, value in task.net.state_dict(prefix="net.").items()
    )


def test_the_share_of_own_marks_grows_over_the_first_iterations() -> None:
    task = make_task(own_share=0.5, own_warmup=0.2)
    assert task._own_share() == 0.5  # outside of a run
    seen: dict[int, float] = {}

    class Record(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
            seen[pl_module.iteration] = pl_module._own_share()

    task.bind(categories=["blob"], optim=AdamWCosine(lr=1e-3))
    fit(task, 5, Record())  # 10 steps
    assert [round(seen[i], 3) for i in range(4)] == [0.0, 0.25, 0.5, 0.5]


@pytest.mark.slow
def test_a_few_blobs_are_learnt_and_counted() -> None:
    torch.manual_seed(0)
    task = make_task(states=6).train()
    batch = make_batch(3, 1)
    optimiser, schedule = AdamWCosine(lr=3e-3).build(task.trainable_parameters(), 240)
    for iteration in range(240):
        optimiser.zero_grad()
        step(task, batch, iteration).loss.backward()
        optimiser.step()
        schedule.step()
    task.eval()
    marked = places(task, batch)
    for points, sample in zip(marked, batch.samples, strict=True):
        assert sample.truth is not None and sample.truth.points is not None
        assert len(points) == len(sample.truth.points)
        distances = torch.cdist(sample.truth.points, points)
        assert float(distances.amin(1).max()) < 2.0  # px
        assert sorted(distances.argmin(1).tolist()) == list(range(len(points)))
    found = task.predict_batch(batch)[0]
    assert found.stopped and found.done is not None and found.done > 0.5
    assert float(found.scores.min()) > 0.5


class Batches(LightningDataModule):
    """The same batches in every epoch."""

    def train_dataloader(self) -> DataLoader[Any]:
        samples = [make_sample(i, 2 + i % 3) for i in range(4)]
        return DataLoader(samples, batch_size=2, collate_fn=collate)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[Any]:
        samples = [make_sample(i, 3) for i in range(10, 12)]
        return DataLoader(samples, batch_size=2, collate_fn=collate)  # type: ignore[arg-type]


def fit(task: Points, epochs: int, *callbacks: Callback, resume: str | None = None) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        callbacks=[StepSeed(0), *callbacks],
    )
    trainer.fit(task, datamodule=Batches(), ckpt_path=resume, weights_only=True)
    return trainer


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    class SaveAfterFirst(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
            if trainer.current_epoch == 0:
                trainer.save_checkpoint(tmp_path / "cut.ckpt")

    def task() -> Points:
        made = make_task(own_share=0.5, noise=MarkNoise(1.0, 0.1, 0.1, 0.2))
        # Constant, so that the schedule does not depend on how long the run was meant to be.
        made.bind(categories=["blob"], optim=AdamWCosine(lr=1e-3, warmup_share=0.0, final_share=1.0))
        return made

    whole, again = task(), task()
    trainer = fit(whole, 2, SaveAfterFirst())
    resumed = fit(again, 2, resume=str(tmp_path / "cut.ckpt"))
    assert whole.iteration == again.iteration == 4
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    # The whole run also keeps figures of its first evaluation that were undefined in the second one.
    evaluated = {name: value for name, value in resumed.callback_metrics.items() if name.startswith("val/")}
    assert {"val/loss_spatial", "val/loss_done", "val/f1_9_6"} <= evaluated.keys()
    for name, value in evaluated.items():
        assert torch.equal(value, trainer.callback_metrics[name]), name


def test_checkpoints_of_another_order_or_head_are_refused_in_a_sentence() -> None:
    checkpoint: dict[str, Any] = {}
    make_task(order="reading").on_save_checkpoint(checkpoint)
    make_task(order="reading").on_load_checkpoint(checkpoint)
    with pytest.raises(UserError, match=r"model\.order=reading.*has free.*set model\.order=reading"):
        make_task(order="free").on_load_checkpoint(checkpoint)
    with pytest.raises(UserError, match=r"model\.head=pointer.*has xy"):
        make_task(order="reading", head="xy").on_load_checkpoint(checkpoint)


def test_more_objects_than_the_cap_are_named() -> None:
    task = make_task(max_points=2).eval()
    with pytest.warns(UserWarning, match=r"1\.png has 4 objects.*model\.max_points=2"):
        step(task, make_batch(1, 4), 0, "val")


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"head": "boxes"}, "model.head=boxes"),
        ({"loss": "l1"}, "model.loss=l1"),
        ({"threshold": -0.1}, "model.threshold=-0.1"),
        ({"done_pos_weight": -1.0}, "model.done_pos_weight=-1.0"),
        ({"stop": 1.0}, "model.stop=1.0"),
        ({"ema_decay": 1.0}, "model.ema_decay=1.0"),
        ({"own_warmup": 2.0}, "model.own_warmup=2.0"),
        ({"cell_weight": -1.0}, "model.cell_weight=-1.0"),
        ({"max_points": 0}, "model.max_points=0"),
        ({"min_distance": -1.0}, "model.min_distance=-1.0"),
        ({"image_size": 16}, "model.image_size=16"),
    ],
)
def test_bad_settings_are_refused_by_name(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(UserError, match=key.replace(".", r"\.")):
        make_task(**settings)


def test_a_task_by_hand_is_the_configured_one() -> None:
    cfg, _ = compose.compose("train", ["model=points", "data=cells"])
    given = OmegaConf.to_container(cfg.model, resolve=True)
    assert isinstance(given, dict)
    assert given.pop("noise") == {**given_noise(), "_target_": "maskwell.models.points.states.MarkNoise"}
    encoder = given.pop("encoder")
    assert {"_target_": encoder["_target_"], **asdict(EncoderSpec())} == encoder
    defaults = {name: p.default for name, p in signature(Points).parameters.items()}
    assert {name: defaults[name] for name in given if name not in ("_target_", "seed")} == {
        name: value for name, value in given.items() if name not in ("_target_", "seed")
    }


def given_noise() -> dict[str, float]:
    return asdict(Points(EncoderSpec(width=16), hidden=16).policy.noise)


def test_data_without_points_is_refused_in_a_sentence() -> None:
    batch = make_batch(2)
    batch.samples[0].points = None
    with pytest.raises(UserError, match="gives no points"):
        step(make_task(), batch)
