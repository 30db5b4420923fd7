"""The task: learning, averages, checkpoints, thresholds, geometry, bad input."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer

from detr_small import FAST, NAMES, Rectangles, batch, make_task, sample
from maskwell.callbacks.step_seed import StepSeed
from maskwell.data.sample import Geometry, collate
from maskwell.errors import UserError
from maskwell.models.detr.module import Detr
from maskwell.models.detr.recipe import Recipe
from maskwell.models.optimisation import AdamWCosine
from maskwell.ops import boxes as box_ops


def trainer(steps: int, **more: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        max_epochs=-1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **{"callbacks": [StepSeed(0)], "enable_checkpointing": False, **more},
    )


def test_boxes_move_onto_the_objects_of_one_image() -> None:
    recipe = Recipe(optim=AdamWCosine(lr=1e-3, weight_decay=0.0, warmup_share=0.05, final_share=0.1))
    task = make_task(recipe=recipe, one_to_many=3).eval()  # BatchNorm of one image would be no average
    task.config.num_denoising = 0
    content = collate([sample(2, 0, (64, 64))], 32)
    steps = 40
    optimiser, schedule = recipe.optim.build(task.trainable_parameters(), steps)
    parts = []
    for _ in range(steps):
        optimiser.zero_grad()
        output = task.step(content, "train")
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        parts.append({name: float(value) for name, value in output.parts.items()})
    assert parts[-1]["loss_box"] < 0.4 * parts[0]["loss_box"]
    assert parts[-1]["loss_giou"] < 0.6 * parts[0]["loss_giou"]
    assert parts[-1]["loss_aux"] < 0.7 * parts[0]["loss_aux"]


def test_boxes_come_back_to_the_window_from_under_padding() -> None:
    """What the network would have to say to be right is turned into the truth, with and without a mask."""
    content = collate([sample(2, 0, (64, 64)), sample(3, 1, (64, 96))], 32)
    for architecture in ("detr", "rt_detr_v2"):
        task = make_task(architecture).eval()
        outputs = task.net(content.images, content.pixel_mask)
        frame = task._frame(content)
        assert bool((frame[0] > 1).any()) == (architecture == "detr")
        perfect = box_ops.xyxy_to_cxcywh(content.samples[0].boxes * frame[0])
        outputs.layers.boxes[-1, 0, :2] = perfect
        outputs.layers.logits[-1, 0] = -20.0
        outputs.layers.logits[-1, 0, torch.arange(2), content.samples[0].labels] = 20.0
        if architecture == "detr":
            outputs.layers.logits[-1, 0, 2:, -1] = 20.0
        found = task._predictions(outputs, content)[0]
        truth = content.samples[0].truth
        assert truth is not None
        order = found.labels[:2].argsort()
        torch.testing.assert_close(
            found.boxes[:2][order], truth.boxes[truth.labels.argsort()], atol=1e-3, rtol=0
        )


def test_padding_is_the_mean_unless_the_earlier_recipe_asks_for_black() -> None:
    content = collate([sample(1, 0, (64, 64)), sample(1, 1, (64, 96))], 32)
    images, mask = make_task("detr")._inputs(content)
    assert float(images[0, :, :, 64:].abs().max()) == 0 and not bool(mask[0, :, 64:].any())
    earlier = make_task("detr", recipe=replace(FAST, padding="zero", pixel_mask=False))
    images, mask = earlier._inputs(content)
    black = images[0, :, 0, 80] * torch.tensor([0.229, 0.224, 0.225]) + torch.tensor([0.485, 0.456, 0.406])
    assert float(black.abs().max()) < 1e-6 and bool(mask.all())
    assert torch.equal(images[1], content.images[1])


def states(task: Detr) -> Mapping[str, torch.Tensor]:
    return {name: value.clone() for name, value in task.state_dict().items()}


class StopAt(Callback):
    """Ends a run early, its schedule still that of the whole."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.global_step == self.step


def test_a_resumed_run_equals_one_that_was_not_interrupted(tmp_path: Path) -> None:
    """Weights, their average, optimiser, threshold: all of it is in the checkpoint."""
    batches = ((1, 2), (3, 0))
    whole, half, again = (make_task(ema_decay=0.7) for _ in range(3))
    trainer(4).fit(whole, datamodule=Rectangles(*batches))
    first = trainer(4, callbacks=[StepSeed(0), StopAt(2)])
    first.fit(half, datamodule=Rectangles(*batches))
    assert half.iteration == 2
    path = tmp_path / "half.ckpt"
    first.save_checkpoint(path)
    stored = torch.load(path, weights_only=True)
    assert stored["categories"] == list(NAMES) and "threshold" in stored
    trainer(4).fit(again, datamodule=Rectangles(*batches), ckpt_path=str(path), weights_only=True)
    theirs = states(again)
    assert again.iteration == whole.iteration == 4 and again.threshold == whole.threshold
    assert any(name.startswith("teacher.") for name in theirs)
    for name, value in states(whole).items():
        torch.testing.assert_close(theirs[name], value, atol=1e-6, rtol=1e-5, msg=name)


def test_the_average_follows_every_step_and_answers() -> None:
    task = make_task(ema_decay=0.5)
    trainer(3).fit(task, datamodule=Rectangles((1, 2), (3, 0)))
    assert task.teacher is not None
    name = "model.model.enc_score_head.bias"
    assert not torch.equal(task.teacher.net.state_dict()[name], task.net.state_dict()[name])
    content = batch(2)
    task.eval()
    before = task.predict_batch(content)[0].scores
    with torch.no_grad():
        for parameter in task.net.parameters():
            parameter.zero_()
    assert torch.equal(task.predict_batch(content)[0].scores, before)
    task.reset_progress()  # a new run starts from the average
    assert torch.equal(task.teacher.net.state_dict()[name], task.net.state_dict()[name])


def checkpoint_of(task: Detr) -> dict[str, Any]:
    content: dict[str, Any] = {"state_dict": states(task)}
    task.on_save_checkpoint(content)
    return content


@pytest.mark.parametrize("average", [None, 0.9])
def test_weights_of_other_classes_start_a_run_with_fresh_class_layers(average: float | None) -> None:
    theirs = Detr(queries=20, seed=5, ema_decay=0.9)
    theirs.bind(categories=("blue", "green", "grey"))
    task = make_task(ema_decay=average)
    fresh = states(task)
    adopted = task.adopt(checkpoint_of(theirs))
    task.on_load_checkpoint(adopted)
    assert adopted["categories"] == list(NAMES)
    missing, odd = task.load_state_dict(adopted["state_dict"], strict=False)
    assert not missing and not odd
    loaded, source = states(task), states(theirs)
    kept = "net.model.model.encoder.fpn_blocks.0.conv1.conv.weight"
    assert torch.equal(loaded[kept], source[kept])
    head = "net.model.class_embed.0.weight"
    assert torch.equal(loaded[head][1], source[head][1]), "green has the same name in both"
    assert torch.equal(loaded[head][0], fresh[head][0])


def test_a_checkpoint_of_other_classes_does_not_resume() -> None:
    theirs = Detr(queries=20)
    theirs.bind(categories=("blue", "green", "grey"))
    with pytest.raises(UserError, match=r"blue, green, grey.*red, green"):
        make_task().on_load_checkpoint(checkpoint_of(theirs))


def test_a_checkpoint_builds_its_network_alone() -> None:
    task = make_task(ema_decay=0.9)
    task.threshold = 0.62
    content = checkpoint_of(task)
    alone = Detr(ema_decay=0.9)  # the configuration's queries are those of the checkpoint
    alone.on_load_checkpoint(content)
    alone.load_state_dict(content["state_dict"])
    assert alone.categories == NAMES and alone.threshold == pytest.approx(0.62)
    picture = batch(1)
    first, second = (network.eval().predict_batch(picture)[0] for network in (task, alone))
    assert torch.equal(first.scores, second.scores)


def test_validation_chooses_the_threshold_and_the_test_uses_it() -> None:
    task = make_task().eval()
    content = batch(2, 1)
    truths = [entry.truth for entry in content.samples]
    output = task.step(content, "val")
    found = [
        replace(answer, boxes=truth.boxes, labels=truth.labels, scores=torch.full((len(truth.labels),), 0.8))
        for answer, truth in zip(output.preds(), truths, strict=True)
        if truth is not None
    ]
    output._cached = found
    task.update_metrics(content, output, "val")
    figures = task.compute_metrics("val")
    assert task.threshold == pytest.approx(0.4) == float(figures["threshold"])
    assert float(figures["f1"]) == float(figures["map_50"]) == 1.0
    assert task.confusion is not None and task.confusion.tolist() == [[2, 0, 0], [0, 1, 0], [0, 0, 0]]
    task.threshold = 0.9
    task.update_metrics(content, output, "test")
    assert float(task.compute_metrics("test")["recall"]) == 0.0


def test_answers_are_sorted_and_suppressed_within_a_class_where_asked() -> None:
    from maskwell.models.detr.answers import Detection, predictions

    place = Geometry((10, 10), (0, 0, 10, 10), (10, 10), (10, 10))
    entry = replace(sample(0, 0), geometry=place)
    logits = torch.tensor([[[2.0, -9.0], [1.0, -9.0], [-9.0, 0.0]]])
    boxes = torch.tensor([[[0.1, 0.1, 0.5, 0.5], [0.1, 0.1, 0.5, 0.6], [0.1, 0.1, 0.5, 0.5]]])
    both = predictions(logits, boxes, [entry], Detection(), softmax=False)[0]
    assert both.labels.tolist() == [0, 0, 1] and both.scores.tolist() == sorted(both.scores.tolist())[::-1]
    single = predictions(logits, boxes, [entry], Detection(nms=0.5), softmax=False)[0]
    assert single.labels.tolist() == [0, 1]
    torch.testing.assert_close(single.boxes[0], torch.tensor([1.0, 1.0, 5.0, 5.0]))


@pytest.mark.parametrize(("architecture", "side"), [("rt_detr_v2", 96), ("rf_detr", 160), ("detr", 32)])
def test_small_images_get_a_place_for_every_query(architecture: str, side: int) -> None:
    """32 x 32 px are 21 places for RT-DETR v2: its choice among them would stop the run."""
    task = make_task(architecture, queries=100)
    content = collate([sample(1, 0, (32, 32)), sample(0, 1, (20, 32))], **task.input_spec.padding)
    assert content.images.shape[2:] == (side, side)
    assert bool(task.step(content, "train").loss.isfinite())
    task.eval()
    truth = content.samples[0].truth
    assert truth is not None
    back = content.samples[0].geometry.boxes_to_window(content.samples[0].boxes)
    torch.testing.assert_close(back, truth.boxes, atol=1e-3, rtol=0)
    assert [answer.size for answer in task.predict_batch(content)] == [(32, 32), (20, 32)]


def test_a_checkpoint_keeps_the_normalisation_of_its_base(tmp_path: Path) -> None:
    make_task().net.model.save_pretrained(str(tmp_path))
    told = tmp_path / "preprocessor_config.json"
    told.write_text(json.dumps({"do_normalize": False}))
    task = make_task(base=str(tmp_path), queries=None, recipe=replace(FAST, padding="zero"))
    content = collate([sample(1, 0, (64, 64)), sample(1, 1, (64, 96))], 32)
    images, _ = task._inputs(content)
    assert float(images[0, :, :, 64:].abs().max()) == 0, "black is 0 where nothing is normalised"
    kept = checkpoint_of(task)
    told.unlink()  # the base is gone or has changed
    for again in (make_task(base=str(tmp_path), queries=None), make_task(), Detr(base="nowhere/found")):
        again.on_load_checkpoint(kept)
        assert again.input_spec.mean == (0, 0, 0) and again.input_spec.std == (1, 1, 1)
    assert make_task().adopt(kept)["normalisation"] == kept["normalisation"]


def test_more_objects_than_queries_are_told() -> None:
    task = make_task(queries=3)
    facts = task.step(batch(5, 1), "train").facts
    assert float(facts["num_objects"]) == 6 and float(facts["unmatched_objects"]) == 2


def test_a_class_that_training_never_shows_and_an_empty_image_are_scored() -> None:
    task = make_task()
    train = batch(1, 1)  # red alone
    assert {int(label) for entry in train.samples for label in entry.labels} == {0}
    task.step(train, "train").loss.backward()
    task.eval()
    content = batch(2, 0)  # red, green; nothing
    task.update_metrics(content, task.step(content, "val"), "val")
    assert "ap/green" in task.compute_metrics("val")


@pytest.mark.parametrize(
    ("settings", "words"), [({"ema_decay": 1.5}, "ema_decay"), ({"recipe": {"padding": "grey"}}, "padding")]
)
def test_settings_that_make_no_sense_are_sentences(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        if isinstance(settings.get("recipe"), dict):
            settings = {"recipe": Recipe(**settings["recipe"])}
        make_task(**settings)
