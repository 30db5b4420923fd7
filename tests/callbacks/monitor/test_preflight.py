"""Data, loss and network before the first step: each fault is seen, nothing is changed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from maskwell.callbacks.loss_health import LossHealth
from maskwell.callbacks.monitor.data_probe import _look
from maskwell.callbacks.monitor.preflight import Preflight
from maskwell.callbacks.monitor.rng import restore, states
from tests.callbacks.modules import Automatic, loader, trainer


def findings(
    folder: Path, module: Any, *loaders: Any, callbacks: tuple[Any, ...] = (), **more: Any
) -> dict[str, Any]:
    health = LossHealth(preflight=Preflight(**more))
    trainer(folder, health, *callbacks, max_epochs=1, limit_train_batches=1).fit(
        module, *(loaders or (loader(),))
    )
    return {f.rule: f for i in health.engine.incidents for f in i.findings}


class Pictures(Automatic):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(48, 1))  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def images(scale: float = 1.0, count: int = 32, seed: int = 0) -> DataLoader[Any]:
    values = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * scale
    return DataLoader(TensorDataset(values, values.flatten(1).sum(1, keepdim=True)), batch_size=4)


def test_bytes_as_input_are_named(tmp_path: Path) -> None:
    found = findings(tmp_path, Pictures(), images(255.0))
    assert found["input_range"].causes == {"input_scale": 0.6}


def test_honest_images_raise_nothing(tmp_path: Path) -> None:
    found = findings(tmp_path, Pictures(), images(), images(seed=1))
    assert {f for f in found.values() if f.severity != "info"} == set()


def test_the_same_images_in_both_splits_are_named(tmp_path: Path) -> None:
    found = findings(tmp_path, Pictures(), images(), images())
    assert found["leakage"].severity == "error" and found["leakage"].evidence["same_images"] == 32


def test_another_brightness_in_validation_is_named(tmp_path: Path) -> None:
    found = findings(tmp_path, Pictures(), images(), images(2.5, seed=1))
    assert found["split_shift"].subject == "val"


class Boxes(Dataset[Any]):
    """Detection targets as torchvision has them."""

    def __init__(self, objects: int) -> None:
        self.objects = objects

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> Any:
        return torch.full((3, 4, 4), index / 16), {"boxes": torch.rand(self.objects, 4)}


@pytest.mark.parametrize(("objects", "severity"), [(0, "error"), (2, None)])
def test_data_without_objects_is_named_and_stops(tmp_path: Path, objects: int, severity: str | None) -> None:
    def stack(entries: list[Any]) -> list[Tensor]:
        pictures = torch.stack([picture for picture, _ in entries])
        return [pictures, pictures.flatten(1).sum(1, keepdim=True)]

    found = findings(tmp_path, Pictures(), DataLoader(Boxes(objects), batch_size=4, collate_fn=stack))
    assert (found["empty_data"].severity if "empty_data" in found else None) == severity


def test_a_part_of_sparse_data_that_shows_nothing_does_not_stop(tmp_path: Path) -> None:
    class Sparse(Boxes):
        def __len__(self) -> int:
            return 5000

    def stack(entries: list[Any]) -> list[Tensor]:
        pictures = torch.stack([picture for picture, _ in entries])
        return [pictures, pictures.flatten(1).sum(1, keepdim=True)]

    loaded = DataLoader(Sparse(0), batch_size=4, collate_fn=stack)
    assert findings(tmp_path, Pictures(), loaded)["empty_data"].severity == "warn"


class Classes(Dataset[Any]):
    """Images of so many classes in turn."""

    def __init__(self, classes: int, size: int = 5000) -> None:
        self.classes, self.size = classes, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Any:
        picture = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(index + self.classes))
        return picture, index * 7919 % self.classes


class Classifying(Pictures):
    def loss_on(self, batch: Any) -> Tensor:
        return self.net(batch[0]).pow(2).mean()


def test_classes_that_few_samples_do_not_show_are_no_fault(tmp_path: Path) -> None:
    loaders = (DataLoader(Classes(100), 4), DataLoader(Classes(100, 4999), 4))
    assert "class_imbalance" not in findings(tmp_path / "a", Classifying(), *loaders)
    missing = (DataLoader(Classes(2), 4), DataLoader(Classes(3, 4999), 4))
    found = findings(tmp_path / "b", Classifying(), *missing)["class_imbalance"]
    assert (found.severity, found.subject) == ("error", "absent")


class TwoInputs(Pictures):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.net(x) + y


class Unpacking(Pictures):
    def forward(self, batch: Any) -> Any:
        x, _ = batch
        return self.net(x)


class ScalarLoss(Pictures):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).mean()


class OwnOutput(Pictures):
    def forward(self, x: Tensor) -> Any:
        return object()


@pytest.mark.parametrize("module", [TwoInputs, Unpacking, ScalarLoss, OwnOutput])
def test_a_forward_of_any_kind_does_not_end_the_training(tmp_path: Path, module: type[Pictures]) -> None:
    class Trained(module):  # type: ignore[misc, valid-type]
        def loss_on(self, batch: Any) -> Tensor:
            return (self.net(batch[0]) - batch[1]).pow(2).mean()

    found = findings(tmp_path, Trained(), images(), images(seed=1))
    assert not {f for f in found.values() if f.severity == "error"}


def test_samples_that_cannot_be_read_do_not_end_the_training(tmp_path: Path) -> None:
    class Broken(Classes):
        def __getitem__(self, index: int) -> Any:
            if index > 100:
                raise OSError("truncated file")
            return super().__getitem__(index)

    findings(tmp_path, Classifying(), DataLoader(Broken(2), 4))


def test_float_labels_are_not_taken_for_images(tmp_path: Path) -> None:
    """Those of a classifier of texts are 0 and 1 in both splits."""
    tokens, label = torch.arange(128).reshape(32, 4), torch.arange(32).remainder(2).float()
    data = DataLoader(TensorDataset(tokens, label), 4)

    class Texts(Automatic):
        def loss_on(self, batch: Any) -> Tensor:
            return (self.net(batch[0].float()) - batch[1][:, None]).pow(2).mean()

    assert "leakage" not in findings(tmp_path, Texts(), data, data)


def test_what_a_data_set_opens_at_its_first_sample_is_not_opened_for_it(tmp_path: Path) -> None:
    """Workers that are forked later would share the handle, and draws would depend on the machine."""

    class Lazy(Classes):
        def __init__(self) -> None:
            super().__init__(2)
            self.handle: Any = None
            self.generator = torch.Generator().manual_seed(3)
            self.numpy = np.random.default_rng(3)

        def __getitem__(self, index: int) -> Any:
            self.handle = object()
            torch.rand(1, generator=self.generator)
            self.numpy.random()
            return super().__getitem__(index)

    data = Lazy()
    _look(Subset(data, range(100)), 100, 8, math.inf, ())
    assert data.handle is None
    assert torch.equal(data.generator.get_state(), torch.Generator().manual_seed(3).get_state())
    assert data.numpy.random() == np.random.default_rng(3).random()


def test_a_network_that_mixes_the_batch_is_named(tmp_path: Path) -> None:
    class Mixing(Pictures):
        def forward(self, x: Tensor) -> Tensor:
            return self.net(x - x.mean(0))

    assert "batch_mixing" in findings(tmp_path, Mixing(), images())


def test_one_batch_is_learnt_on_a_copy(tmp_path: Path) -> None:
    module = Automatic()
    before = module.net.weight.detach().clone()
    found = findings(tmp_path / "a", module, one_batch_steps=80, samples=0)
    assert "one_batch" not in found and not torch.equal(module.net.weight, before)

    class Random(Automatic):
        def loss_on(self, batch: Any) -> Tensor:
            return super().loss_on(batch) * 0 + 1

    assert findings(tmp_path / "b", Random(), one_batch_steps=10)["one_batch"].severity == "error"


def test_a_configuration_that_contradicts_itself_is_named(tmp_path: Path) -> None:
    found = findings(tmp_path, Automatic(), callbacks=(EarlyStopping("val/loss", patience=2, strict=False),))
    assert found["config_lint"].subject == "never_validates"


@pytest.mark.parametrize(("monitor", "told"), [("val/los", True), ("train/loss_epoch", False)])
def test_a_monitor_that_no_validation_logs_is_named(tmp_path: Path, monitor: str, told: bool) -> None:
    class Averaging(Automatic):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            outputs = super().training_step(batch, batch_idx)
            self.log("train/loss", outputs["loss"], on_step=True, on_epoch=True)
            return outputs

    watching = EarlyStopping(monitor, patience=99, strict=False, check_on_train_epoch_end=True)
    health = LossHealth()
    trainer(tmp_path, health, watching, max_epochs=2).fit(Averaging(), loader(), loader())
    subjects = {f.subject for i in health.engine.incidents for f in i.findings if f.rule == "config_lint"}
    assert ("monitor_unknown" in subjects) == told


def test_time_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr("maskwell.callbacks.monitor.model_probe.mixing", lambda *_: seen.append("mixing"))
    findings(tmp_path, Automatic(), seconds=0.0, share=0.0)
    assert seen == []


def test_random_states_come_back() -> None:
    kept = states()
    first = torch.rand(3)
    restore(kept)
    assert torch.equal(torch.rand(3), first)
