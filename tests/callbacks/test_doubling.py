from __future__ import annotations

import random
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from lightning import LightningModule
from torch import Tensor, nn

from maskwell.callbacks.doubling import doubling_ratios
from maskwell.callbacks.monitor.forward import loss_of, scalars
from maskwell.data.sample import Batch, Geometry, Sample


class Net(LightningModule):
    """Dropout, BatchNorm and a reduction to choose."""

    def __init__(self, reduction: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.net[2].eval()  # a mode that the probe must put back as it was
        self.reduction = reduction
        self.sizes: list[int] = []

    def loss_on(self, batch: Any) -> Any:
        self.sizes.append(len(batch["x"]))
        error = (self.net(batch["x"]) - torch.stack(batch["y"])).abs()
        return {"loss": getattr(error, self.reduction)(), "loss_mean": error.mean()}


def _batch(size: int = 6) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(3)
    return {
        "x": torch.randn(size, 3, generator=generator),
        "y": [torch.randn(1, generator=generator) for _ in range(size)],
        "scale": torch.tensor(2.0),
    }


def _ratios(module: LightningModule, batch: Any) -> dict[str, tuple[float, float]]:
    offered = loss_of(module, batch)
    assert offered is not None
    ask, own = offered
    return doubling_ratios(module, own, lambda b: scalars(ask(b)), nullcontext)


@pytest.mark.parametrize(("reduction", "expected"), [("mean", 1.0), ("sum", 2.0)])
@pytest.mark.parametrize("size", [1, 5, 6])
def test_a_mean_stays_and_a_sum_doubles(reduction: str, expected: float, size: int) -> None:
    ratios = _ratios(Net(reduction), _batch(size))
    assert ratios["loss"][0] == pytest.approx(expected, abs=1e-5)
    assert ratios["loss_mean"] == (pytest.approx(1.0, abs=1e-5), pytest.approx(0.0, abs=1e-6))


def test_the_doubled_half_is_no_larger_than_the_batch() -> None:
    module = Net("sum")
    _ratios(module, _batch(6))
    assert set(module.sizes) == {3, 6}


def test_nothing_is_changed_by_the_probe() -> None:
    module = Net("mean").train()
    module.net[2].eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    modes = [m.training for m in module.modules()]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    _ratios(module, _batch())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert [m.training for m in module.modules()] == modes
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]  # noqa: NPY002
    assert all(p.grad is None for p in module.parameters())


def test_everything_is_restored_when_the_loss_raises() -> None:
    class Raising(Net):
        def loss_on(self, batch: Any) -> Any:
            raise RuntimeError("no")

    module = Raising("mean").train()
    with pytest.raises(RuntimeError, match="no"):
        _ratios(module, _batch())
    assert module.training


def test_noise_of_a_random_loss_is_reported() -> None:
    class Noisy(LightningModule):
        def loss_on(self, batch: Tensor) -> Tensor:
            return 1 + torch.rand(())

    (ratio, noise) = _ratios(Noisy(), torch.zeros(4, 1))["loss"]
    assert ratio == pytest.approx(1.0) and noise > 0.1


def test_a_module_that_offers_nothing_is_left_alone() -> None:
    assert loss_of(LightningModule(), torch.zeros(2)) is None


def test_batches_of_this_package_are_doubled_with_their_samples() -> None:
    class Output:
        def __init__(self, count: int) -> None:
            self.loss = torch.tensor(float(count))
            self.parts = {"loss_box": torch.tensor(1.0)}

    class Task(LightningModule):
        def step(self, batch: Batch, stage: str) -> Output:
            assert stage == "train" and len(batch.images) == len(batch.samples) == len(batch.pixel_mask)
            return Output(batch.num_objects)

    batch = Batch(
        torch.zeros(4, 3, 8, 8), torch.ones(4, 8, 8, dtype=torch.bool), [_sample(n) for n in (0, 2, 5, 0)]
    )
    # the half with most objects is probed: 7 objects, then 14
    assert _ratios(Task(), batch) == {"loss": (2.0, 0.0), "loss_box": (1.0, 0.0)}


def _sample(objects: int) -> Sample:
    return Sample(
        image=torch.zeros(3, 0, 0),
        boxes=torch.zeros(objects, 4),
        labels=torch.zeros(objects, dtype=torch.int64),
        geometry=Geometry((8, 8), (0, 0, 8, 8), (8, 8), (8, 8)),
        image_id=0,
        file_name="a.png",
    )
