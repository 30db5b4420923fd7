"""Data, loss and network before the first step: each fault is seen, nothing is changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from maskwell.callbacks.loss_health import LossHealth
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
