"""BaseTask through Lightning's Trainer: what is logged, counted, handed to callbacks and stored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

import detr_small
import points_small
import s4gan_small
from maskwell.data.sample import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Batch,
    Geometry,
    InputSpec,
    Prediction,
    Sample,
    collate,
)
from maskwell.errors import UserError
from maskwell.models.base import BaseTask, Stage, StepOutput
from maskwell.models.optimisation import AdamWCosine


class Brightness(BaseTask):
    """Learns the mean brightness of its images; counts what the base class asks of it."""

    family = "brightness"
    monitor = "val/error"
    mode = "min"

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.frozen = nn.Linear(1, 1).requires_grad_(False)
        self.input_spec = InputSpec(fit="square", size=4, mean=(0.0,) * 3, std=(1.0,) * 3)
        self.predicted = 0
        self.seen: list[float] = []

    def configure_metrics(self) -> None:
        self.errors: list[Tensor] = []

    def step(self, batch: Batch, stage: Stage) -> StepOutput:
        mean = batch.images.mean((1, 2, 3), keepdim=False)[:, None]
        error = (self.layer(mean) - mean).square().mean()
        parts = {"loss_square": error, "loss_none": error * 0}
        return StepOutput(2 * error, parts, {"num_objects": torch.tensor(3)}, predict=self._predict)

    def _predict(self) -> list[Prediction]:
        self.predicted += 1
        return []

    def update_metrics(self, batch: Batch, output: StepOutput, stage: Stage) -> None:
        self.errors.append(output.loss.detach() / 2)

    def compute_metrics(self, stage: Stage) -> dict[str, Tensor]:
        mean = torch.stack(self.errors).mean()
        self.errors.clear()
        return {"error": mean}


class Recorder(DummyLogger):
    """Keeps every logged value."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append(dict(metrics))

    def values(self, name: str) -> list[float]:
        return [row[name] for row in self.rows if name in row]


class Outputs(Callback):
    """What callbacks are given after each batch."""

    def __init__(self) -> None:
        self.train: list[dict[str, Any]] = []
        self.val: list[StepOutput] = []

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.train.append(args[2])

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.val.append(args[2])


def loader(count: int = 6) -> DataLoader[Sample]:
    geometry = Geometry((4, 4), (0, 0, 4, 4), (4, 4), (4, 4))
    samples = [
        Sample(
            torch.full((3, 4, 4), i / 4), torch.zeros(0, 4), torch.zeros(0).long(), geometry, i, f"{i}.png"
        )
        for i in range(count)
    ]
    return DataLoader(samples, batch_size=2, collate_fn=collate)  # type: ignore[arg-type]


def bound() -> Brightness:
    torch.manual_seed(0)
    task = Brightness()
    task.bind(categories=["bright"], optim=AdamWCosine(lr=0.01))
    return task


def make_trainer(folder: Path, **options: Any) -> Trainer:
    defaults: dict[str, Any] = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "log_every_n_steps": 1,
        "num_sanity_val_steps": 0,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
    }
    return Trainer(**{**defaults, **options})


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Brightness, Recorder, Outputs, Trainer]:
    task, logger, outputs = bound(), Recorder(), Outputs()
    trainer = make_trainer(tmp_path_factory.mktemp("base"), logger=logger, callbacks=[outputs])
    trainer.fit(task, loader(), loader(4))
    return task, logger, outputs, trainer


Fitted = tuple[Brightness, Recorder, Outputs, Trainer]


def test_every_step_is_logged_under_the_names_of_the_house(fitted: Fitted) -> None:
    _, logger, outputs, _ = fitted
    losses = logger.values("train/batch_loss")
    assert len(losses) == 6
    assert losses == pytest.approx([2 * v for v in logger.values("train/loss_square")])
    assert logger.values("train/loss_none") == [0.0] * 6
    assert logger.values("train/num_objects") == [3.0] * 6
    assert logger.values("train/epoch")[:6] == [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    assert losses == pytest.approx([float(out["loss"]) for out in outputs.train])


def test_every_epoch_is_logged_under_the_names_of_the_house(fitted: Fitted) -> None:
    _, logger, outputs, _ = fitted
    losses = logger.values("train/batch_loss")
    averages = logger.values("train/epoch_avg_loss")
    assert averages == pytest.approx([sum(losses[:3]) / 3, sum(losses[3:]) / 3])
    validation = [float(out.loss) for out in outputs.val]
    assert logger.values("val/loss") == pytest.approx([sum(validation[:2]) / 2, sum(validation[2:]) / 2])
    assert logger.values("val/loss_square") == pytest.approx([v / 2 for v in logger.values("val/loss")])
    assert logger.values("val/error") == pytest.approx(logger.values("val/loss_square"))


def test_callbacks_are_given_detached_parts_and_facts(fitted: Fitted) -> None:
    _, _, outputs, _ = fitted
    for output in outputs.train:
        assert set(output) == {"loss", "parts", "facts"}
        assert set(output["parts"]) == {"loss_square", "loss_none"}
        assert set(output["facts"]) == {"num_objects"}
        assert not any(v.requires_grad for v in (*output["parts"].values(), *output["facts"].values()))
    assert all(isinstance(output, StepOutput) for output in outputs.val)


def test_nothing_is_predicted_before_it_is_asked_for(fitted: Fitted) -> None:
    task, _, outputs, _ = fitted
    assert task.predicted == 0
    output = outputs.val[0]
    assert output.preds() is output.preds()
    assert task.predicted == 1


def test_only_trainable_parameters_are_optimised(fitted: Fitted) -> None:
    task, _, _, trainer = fitted
    assert [name for name, _ in task.trainable_parameters()] == ["layer.weight", "layer.bias"]
    held = [p for group in trainer.optimizers[0].param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in task.layer.parameters()}


def test_schedule_moves_with_each_iteration(fitted: Fitted) -> None:
    task, _, _, trainer = fitted
    assert task.iteration == trainer.global_step == 6
    assert trainer.lr_scheduler_configs[0].interval == "step"
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01 * 0.01)


def test_iteration_survives_a_checkpoint(fitted: Fitted, tmp_path: Path) -> None:
    trainer = fitted[3]
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    stored = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert stored["family"] == "brightness"
    assert stored["iteration"] == 6
    resumed = bound()
    make_trainer(tmp_path, max_epochs=3, logger=False).fit(
        resumed, loader(), loader(4), ckpt_path=tmp_path / "last.ckpt", weights_only=True
    )
    assert resumed.iteration == 9


@pytest.mark.parametrize("make", [detr_small.make_task, s4gan_small.make_task, points_small.make_task])
def test_families_normalise_alike_from_one_place(make: Callable[[], BaseTask]) -> None:
    spec = make().input_spec
    assert spec.mean is IMAGENET_MEAN and spec.std is IMAGENET_STD


def test_testing_is_logged_as_test(tmp_path: Path) -> None:
    task = bound()
    (figures,) = make_trainer(tmp_path, logger=False).test(task, loader(4), verbose=False)
    assert set(figures) == {"test/loss", "test/loss_square", "test/loss_none", "test/error"}
    assert figures["test/error"] == pytest.approx(figures["test/loss"] / 2)


def test_a_validation_between_two_optimiser_steps_is_refused(tmp_path: Path) -> None:
    more = {"logger": False, "accumulate_grad_batches": 2, "val_check_interval": 0.5}
    with pytest.raises(UserError, match=r"val_check_interval=0.5 is 3 of 6 batches.* 2 batches"):
        make_trainer(tmp_path, **more).fit(bound(), loader(12), loader(1))
    make_trainer(tmp_path, **more).fit(bound(), loader(16), loader(1))


def test_a_validation_counted_across_epochs_meets_no_open_step(tmp_path: Path) -> None:
    """An epoch of 5 batches ends with a step of one: 4 batches further no step of two ends."""
    more = {"logger": False, "accumulate_grad_batches": 2, "check_val_every_n_epoch": None}
    with pytest.raises(UserError, match=r"is 8 of 5 batches.* a whole number of epochs"):
        make_trainer(tmp_path, **more, val_check_interval=8).fit(bound(), loader(10), loader(1))
    make_trainer(tmp_path, **more, val_check_interval=10).fit(bound(), loader(10), loader(1))
    make_trainer(tmp_path, **more, val_check_interval=4).fit(bound(), loader(16), loader(1))


def test_a_task_without_an_optimiser_says_so(tmp_path: Path) -> None:
    task = Brightness()
    task.bind(categories=[])
    with pytest.raises(RuntimeError, match="bind"):
        make_trainer(tmp_path, logger=False).fit(task, loader())


def test_a_family_has_to_define_its_step() -> None:
    task = BaseTask()
    assert isinstance(task, LightningModule)
    batch = next(iter(loader()))
    for method in (lambda: task.step(batch, "train"), lambda: task.predict_batch(batch)):
        with pytest.raises(NotImplementedError, match="BaseTask"):
            method()


def test_an_output_without_predictions_gives_none() -> None:
    assert StepOutput(torch.zeros(())).preds() == []
