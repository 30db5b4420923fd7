"""The Lightning module: steps, schedules, what is logged, resume, what is refused."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from maskwell import build, compose
from maskwell.callbacks.grad_clip import GradClip
from maskwell.callbacks.lr_monitor import LRMonitor
from maskwell.callbacks.run_checkpoint import RunCheckpoint
from maskwell.callbacks.step_seed import StepSeed
from maskwell.errors import UserError
from maskwell.models.s4gan.module import S4Gan
from maskwell.models.s4gan.net import GeneratorSpec
from maskwell.models.s4gan.optimisation import Rates
from s4gan_small import CLASSES, RECIPES, SyntheticStreams, make_batch, make_task, train_batch


class Rows(Callback):
    """What each step logged, and the weights after it."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.outputs: list[dict[str, Any]] = []

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, *_: Any) -> None:
        self.rows.append({k: float(v) for k, v in trainer.logged_metrics.items()})
        self.outputs.append(outputs)


def fit(task: S4Gan, *callbacks: Callback, resume: str | None = None, **more: Any) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        val_check_interval=task.evaluate_every,
        check_val_every_n_epoch=None,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        callbacks=[StepSeed(0), *callbacks],
        **more,
    )
    assert task.iterations is not None
    data = SyntheticStreams(task.iterations, task.needs_unlabelled)
    trainer.fit(task, datamodule=data, ckpt_path=resume, weights_only=True)
    return trainer


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_trains_with_batchnorm_and_logs_its_terms(recipe: str) -> None:
    task = make_task(recipe, generator=GeneratorSpec(width=16))
    rows = Rows()
    trainer = fit(task, rows, GradClip("auto"), LRMonitor())
    assert task.iteration == 6 == len(rows.rows)
    logged = {name.removeprefix("train/") for name in rows.rows[-1]}
    terms = {"loss_ce", "loss_g", "batch_loss"}
    if task.recipe.unlabelled:
        terms |= {"loss_st", "st_count", "st_of", "st_share"}
    if task.recipe.adversarial:
        terms |= {"loss_fm", "loss_d", "learning_rate_generator", "learning_rate_discriminator"}
        terms |= {"grad_norm_generator", "grad_norm_discriminator"}
    else:
        terms |= {"learning_rate", "grad_norm"}
    assert terms <= logged
    assert ("loss_d" in logged) == task.recipe.adversarial
    assert {"val/miou", "val/train_miou", "val/miou_gap", "val/iou/box", "val/loss"} <= set(
        trainer.callback_metrics
    )
    assert all(math.isfinite(value) for row in rows.rows for value in row.values())


def test_the_total_loss_is_the_weighted_sum_of_raw_terms() -> None:
    rows = Rows()
    fit(make_task("guide"), rows)
    parts = rows.outputs[-1]["parts"]
    wanted = parts["loss_ce"] + 0.1 * parts["loss_fm"] + 1.0 * parts["loss_st"]
    assert torch.isclose(parts["loss_g"], wanted)
    assert float(parts["loss_st"]) > 0 == float(rows.outputs[0]["parts"]["loss_st"])


def test_both_rates_are_polynomial_to_the_end_of_the_run() -> None:
    rows = Rows()
    rates = Rates(lr_generator=1e-2, lr_discriminator=1e-3, head_factor=10.0)
    fit(make_task("guide", rates=rates, iterations=8, evaluate_every=8), rows, LRMonitor())
    for place in (0, 4, 7):
        share = (1 - place / 8) ** 0.9
        row = rows.rows[place]
        assert math.isclose(row["train/learning_rate_generator"], 1e-2 * share, rel_tol=1e-6)
        assert math.isclose(row["train/learning_rate_generator/head"], 1e-1 * share, rel_tol=1e-6)
        assert math.isclose(row["train/learning_rate_discriminator"], 1e-3 * share, rel_tol=1e-6)


def test_both_optimisers_are_clipped() -> None:
    rows = Rows()
    task = make_task("guide", max_norm=1e-3)
    fit(task, GradClip("auto"), rows)
    for name in ("generator", "discriminator"):
        assert rows.rows[0][f"train/grad_norm_{name}"] > 1e-3
        assert math.isclose(rows.rows[0][f"train/grad_norm_clipped_{name}"], 1e-3, rel_tol=1e-4)


def weights(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(v, second[k]) for k, v in first.items())


@pytest.mark.parametrize("frozen", ["generator", "discriminator"])
def test_a_step_of_one_leaves_the_other_alone(frozen: str) -> None:
    task = make_task("guide")
    assert task.discriminator is not None

    class NoGradient(Callback):
        def on_before_optimizer_step(self, trainer: Trainer, module: Any, optimizer: Any) -> None:
            plain = getattr(optimizer, "optimizer", optimizer)
            if plain is trainer.optimizers[0 if frozen == "generator" else 1]:
                for group in plain.param_groups:
                    for parameter in group["params"]:
                        parameter.grad = None

    before = {"generator": weights(task.generator), "discriminator": weights(task.discriminator)}
    fit(task, NoGradient())
    after = {"generator": weights(task.generator), "discriminator": weights(task.discriminator)}
    other = "discriminator" if frozen == "generator" else "generator"
    assert same(before[frozen], after[frozen])
    assert not same(before[other], after[other])


class StopAfter(Callback):
    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def on_train_batch_end(self, trainer: Trainer, module: Any, *_: Any) -> None:
        if module.iteration == self.iteration:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "stopped.ckpt")
            raise KeyboardInterrupt


def state(task: S4Gan, trainer: Trainer) -> dict[str, Any]:
    return {
        "weights": weights(task),
        "optimisers": [copy.deepcopy(o.state_dict()) for o in trainer.optimizers],
        "iteration": task.iteration,
    }


def flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for key, child in value.items() for k, v in flat(child, f"{path}/{key}").items()}
    if isinstance(value, list):
        return flat(dict(enumerate(value)), path)
    return {path: value}


@pytest.mark.parametrize("stop", [3, 4])
def test_a_resumed_run_equals_an_uninterrupted_one(stop: int, tmp_path: Path) -> None:
    def task() -> S4Gan:
        return make_task("sound", generator=GeneratorSpec(width=16, dropout=0.2), evaluate_every=2)

    whole, rows = task(), Rows()
    whole_trainer = fit(whole, rows, RunCheckpoint(str(tmp_path / "whole")), default_root_dir=tmp_path)
    with pytest.raises(SystemExit):
        fit(task(), StopAfter(stop), RunCheckpoint(str(tmp_path / "cut")), default_root_dir=tmp_path)
    again, more = task(), Rows()
    trainer = fit(
        again,
        more,
        RunCheckpoint(str(tmp_path / "cut")),
        resume=str(tmp_path / "stopped.ckpt"),
        default_root_dir=tmp_path,
    )
    assert len(more.rows) == 6 - stop
    wanted, found = flat(state(whole, whole_trainer)), flat(state(again, trainer))
    assert wanted.keys() == found.keys()
    for name, value in wanted.items():
        equal = torch.equal(value, found[name]) if isinstance(value, Tensor) else value == found[name]
        assert equal, name
    assert more.rows[-1]["train/loss_g"] == rows.rows[-1]["train/loss_g"]
    assert trainer.checkpoint_callback.best_model_score == whole_trainer.checkpoint_callback.best_model_score  # type: ignore[union-attr]


CONSTANT = Rates(lr_generator=1e-2, lr_discriminator=1e-3, power=0.0)


@pytest.mark.parametrize("evaluate_every", [2, 4])  # the last checkpoint is of a validation, or of the end
def test_a_finished_run_goes_on_as_if_it_had_been_longer(evaluate_every: int, tmp_path: Path) -> None:
    def task(iterations: int) -> S4Gan:
        return make_task("sound", rates=CONSTANT, iterations=iterations, evaluate_every=evaluate_every)

    whole, rows = task(8), Rows()
    whole_trainer = fit(whole, rows, RunCheckpoint(str(tmp_path / "whole")), default_root_dir=tmp_path)
    fit(task(6), RunCheckpoint(str(tmp_path / "short")), default_root_dir=tmp_path)
    longer, more = task(8), Rows()
    keep, last = RunCheckpoint(str(tmp_path / "short")), str(tmp_path / "short" / "last.ckpt")
    trainer = fit(longer, more, keep, resume=last, default_root_dir=tmp_path)
    assert [row["train/loss_g"] for row in more.rows] == [row["train/loss_g"] for row in rows.rows[6:]]
    wanted, found = flat(state(whole, whole_trainer)), flat(state(longer, trainer))
    assert wanted.keys() == found.keys()
    for name, value in wanted.items():
        equal = torch.equal(value, found[name]) if isinstance(value, Tensor) else value == found[name]
        assert equal, name
    assert trainer.callback_metrics["val/miou"] == whole_trainer.callback_metrics["val/miou"]


@pytest.mark.parametrize("stop", [4, 6])
def test_a_resumed_run_follows_the_rates_and_the_length_it_is_given(stop: int, tmp_path: Path) -> None:
    before = make_task("guide", iterations=stop)
    fit(before, RunCheckpoint(str(tmp_path)), default_root_dir=tmp_path)
    rates = Rates(lr_generator=2e-2, lr_discriminator=5e-3, momentum=0.8)
    after, rows = make_task("guide", rates=rates, iterations=8), Rows()
    trainer = fit(after, rows, LRMonitor(), resume=str(tmp_path / "last.ckpt"), default_root_dir=tmp_path)
    assert after.iteration == 8 and len(rows.rows) == 8 - stop
    for place, row in enumerate(rows.rows, start=stop):
        share = (1 - place / 8) ** 0.9
        assert math.isclose(row["train/learning_rate_generator"], 2e-2 * share, rel_tol=1e-6)
        assert math.isclose(row["train/learning_rate_generator/head"], 2e-1 * share, rel_tol=1e-6)
        assert math.isclose(row["train/learning_rate_discriminator"], 5e-3 * share, rel_tol=1e-6)
    assert trainer.optimizers[0].param_groups[0]["momentum"] == 0.8


def test_adamw_resumes_exactly(tmp_path: Path) -> None:
    rates = replace(CONSTANT, optimizer="adamw", lr_generator=1e-3)
    whole = make_task("guide", rates=rates, iterations=4)
    trainer = fit(whole, RunCheckpoint(str(tmp_path / "whole")), default_root_dir=tmp_path)
    assert type(getattr(trainer.optimizers[0], "optimizer", trainer.optimizers[0])) is torch.optim.AdamW
    short = RunCheckpoint(str(tmp_path / "short"))
    fit(make_task("guide", rates=rates, iterations=2), short, default_root_dir=tmp_path)
    longer = make_task("guide", rates=rates, iterations=4)
    fit(longer, resume=str(tmp_path / "short" / "last.ckpt"), default_root_dir=tmp_path)
    assert same(weights(whole), weights(longer))


def test_the_state_of_another_optimiser_is_refused(tmp_path: Path) -> None:
    fit(make_task("guide", iterations=2), RunCheckpoint(str(tmp_path)), default_root_dir=tmp_path)
    after = make_task("guide", rates=replace(CONSTANT, optimizer="adamw"), iterations=4)
    with pytest.raises(UserError, match=r"optimizer=adamw: the checkpoint holds the state of sgd.*init_from"):
        fit(after, resume=str(tmp_path / "last.ckpt"), default_root_dir=tmp_path)


@pytest.mark.parametrize(("st_start", "warns"), [(6, True), (5, False)])
def test_self_training_behind_the_end_is_told(
    st_start: int, warns: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(make_task(replace(RECIPES["sound_without_d"], st_start=st_start)))
    assert ("model.recipe.st_start=6 is behind the end" in capsys.readouterr().out) == warns


def test_a_batch_of_one_trains_with_batchnorm() -> None:
    task = make_task("sound", generator=GeneratorSpec(width=16)).train()
    batch = train_batch(count=1)
    found = task._losses(batch)
    assert torch.isfinite(found.generator) and found.discriminator is not None


def test_pseudo_labels_are_checked_where_labels_are_hidden() -> None:
    task = make_task("guide")
    trainer = fit(task)
    precision = float(trainer.callback_metrics["val/pseudo_precision"])
    assert 0 < precision <= 1
    shares = [float(trainer.callback_metrics[f"val/pseudo_share/{name}"]) for name in CLASSES]
    assert math.isclose(sum(shares), 1.0, rel_tol=1e-5)
    assert int(task.tally.pixels.sum()) == 0  # counted from anew after each validation


def test_predictions_come_in_the_window_frame() -> None:
    task = make_task("supervised").eval()
    batch = make_batch(0, 1)
    for prediction, sample in zip(task.predict_batch(batch), batch.samples, strict=True):
        assert prediction.semantic is not None
        assert prediction.semantic.shape == sample.geometry.window_size
    probabilities = task.class_probabilities(batch.images)
    assert torch.allclose(probabilities.sum(1), torch.ones(2, 32, 32), atol=1e-5)


def test_teacher_or_student_is_evaluated() -> None:
    predicted = {}
    for which in ("teacher", "student"):
        task = make_task("supervised", evaluate=which)
        with torch.no_grad():
            task.generator.head.classifier.bias += 5.0  # type: ignore[union-attr]
            task.generator.head.classifier.weight.mul_(-1)  # type: ignore[union-attr]
        predicted[which] = task.eval().class_probabilities(make_batch(0).images)
    assert not torch.allclose(predicted["teacher"], predicted["student"])


def test_weights_of_other_classes_are_refused() -> None:
    task = make_task("supervised")
    checkpoint = {"state_dict": task.state_dict(), "categories": ["a", "b", "c"], "iteration": 3}
    with pytest.raises(UserError, match="the checkpoint knows the classes a, b, c"):
        task.on_load_checkpoint(checkpoint)
    fresh = S4Gan(RECIPES["supervised"])
    fresh.on_load_checkpoint(checkpoint)
    with pytest.raises(UserError, match="must be the same"):
        fresh.bind(categories=CLASSES)


def test_a_recipe_that_needs_unlabelled_images_says_so() -> None:
    with pytest.raises(UserError, match="model/recipe=supervised"):
        make_task("sound")._losses({"labelled": make_batch(0)})


@pytest.mark.parametrize(
    "settings", [{"iterations": 0}, {"evaluate_every": 0}, {"ema_decay": 1.0}, {"evaluate": "both"}]
)
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"model.{next(iter(settings))}"):
        S4Gan(RECIPES["supervised"], **settings)


def test_float16_is_refused() -> None:
    with pytest.raises(UserError, match="bf16-mixed"):
        fit(make_task("supervised"), precision="16-true")


def test_the_configuration_builds_the_task_and_a_trainer_of_its_length() -> None:
    cfg, _ = compose.compose(
        "train", ["model=s4gan", "model.iterations=30", "trainer=cpu", "model.evaluate_every=7"]
    )
    task = build.task(cfg)
    trainer = build.trainer(cfg, task, logger=False)
    assert (trainer.max_epochs, trainer.max_steps, trainer.val_check_interval) == (1, -1, 7)
    assert trainer.check_val_every_n_epoch is None
    cfg.trainer.limit_train_batches = 5
    assert build.trainer(cfg, task, logger=False).val_check_interval == 5
    cfg.trainer.max_steps = 10
    with pytest.raises(UserError, match=r"model\.iterations=10"):
        build.trainer(cfg, task, logger=False)


def test_sync_batchnorm_on_the_cpu_is_refused() -> None:
    cfg, _ = compose.compose("train", ["model=s4gan", "trainer=cpu", "trainer.sync_batchnorm=true"])
    with pytest.raises(UserError, match="works on GPUs only"):
        build.trainer(cfg, None, logger=False)
