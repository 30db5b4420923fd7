"""The first bad step is kept as it was, and its replay names the first bad module."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from maskwell.callbacks.loss_health import LossHealth
from maskwell.callbacks.monitor.capture import FILE, first_bad_module, replay
from maskwell.callbacks.monitor.plain import bad_inputs, from_plain, to_plain
from maskwell.errors import UserError
from tests.callbacks.modules import Automatic, loader, trainer


class Log(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.log(x)


class Deep(Automatic):
    """The middle layer gives NaN as soon as its input is negative."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), Log(), nn.Linear(4, 1))


def test_the_first_bad_step_is_kept_and_replayed(tmp_path: Path) -> None:
    module = Deep()
    trainer(tmp_path, LossHealth(every_n_steps=100), max_epochs=1).fit(module, loader())
    content = torch.load(tmp_path / FILE, weights_only=True)
    assert content["health_capture"]["step"] == 1
    again = Deep()
    with torch.no_grad():
        again.net[0].weight.zero_()  # the weights come from the capture
    found = replay(again, content, again.loss_on)
    assert (found["module"], found["direction"]) == ("net.2", "forward")
    assert math.isnan(found["loss"]) and found["bad_inputs"] == []


def test_weights_are_those_before_the_bad_step(tmp_path: Path) -> None:
    module = Automatic(spoil=lambda step, loss: loss * (math.nan if step == 3 else 1.0))
    before: list[Tensor] = []
    module.on_train_batch_end = lambda *_: before.append(module.net.weight.detach().clone())  # type: ignore[method-assign]
    trainer(tmp_path, LossHealth(), max_epochs=1).fit(module, loader())
    content = torch.load(tmp_path / FILE, weights_only=True)
    assert torch.equal(content["state_dict"]["net.weight"], before[1])


def test_a_backward_that_is_bad_alone_is_named() -> None:
    class Root(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sqrt(x * 0)

    net = nn.Sequential(nn.Linear(2, 2), Root())
    name, direction, loss = first_bad_module(net, lambda: net(torch.ones(1, 2)).sum())
    assert (name, direction) == ("0", "backward") and loss is not None and torch.isfinite(loss)


def test_a_finite_step_has_no_bad_module() -> None:
    net = nn.Linear(2, 1)
    assert first_bad_module(net, lambda: net(torch.ones(1, 2)).sum())[:2] == ("", "")


def test_batches_go_through_plain_data() -> None:
    from maskwell.data.sample import Batch
    from tests.callbacks.test_doubling import _sample

    batch = {
        "a": Batch(torch.rand(2, 3, 4, 4), torch.ones(2, 4, 4, dtype=torch.bool), [_sample(1), _sample(0)])
    }
    again = from_plain(to_plain(batch))["a"]
    assert (
        torch.equal(again.images, batch["a"].images)
        and again.samples[0].geometry == batch["a"].samples[0].geometry
    )
    assert from_plain(to_plain((1, [torch.ones(1)])))[0] == 1
    with pytest.raises(UserError, match="cannot be built again"):
        from_plain({"__kind__": "Popen", "args": "ls"})


def test_bad_inputs_are_found_where_they_are() -> None:
    assert bad_inputs({"x": [torch.ones(2), torch.tensor([math.nan])]}) == ["batch.x[1]"]


def test_a_nan_in_the_data_is_the_cause(tmp_path: Path) -> None:
    data = loader()
    data.dataset.tensors[0][5, 1] = math.nan  # type: ignore[attr-defined]
    health = LossHealth()
    trainer(tmp_path, health, max_epochs=1).fit(Automatic(), data)
    incident: Any = health.engine.ranked_incidents[0]
    assert incident.ranked[0].label == "bad_sample" and incident.cause.rule == "nonfinite_input"
