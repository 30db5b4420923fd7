from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from maskwell.callbacks.grad_clip import GradClip, norms_of
from maskwell.callbacks.head_gradients import HeadGradients, check, layout, rms, verdict
from maskwell.callbacks.loss_health import LossHealth
from maskwell.errors import UserError
from tests.callbacks.modules import Automatic, Manual, Memory, loader, trainer


class Grouped(Automatic):
    """Its weight and its bias are groups; the gradient of each is known."""

    def gradient_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"weight": [self.net.weight], "bias": [self.net.bias]}

    def loss_on(self, batch: object) -> Tensor:
        ramp = torch.tensor([[0.0, 3.0, 0.0, 4.0]])
        return (self.net.weight * ramp).sum() + 0.5 * self.net.bias.sum()


def test_magnitudes_are_root_mean_squares_and_logged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    memory, callback = Memory(), HeadGradients(high=2.0)
    trainer(tmp_path, callback, GradClip(0.1), max_epochs=1, logger=memory).fit(Grouped(), loader())
    assert memory.series("train/grad/weight") == pytest.approx([2.5] * 4)  # sqrt((9 + 16) / 4), unclipped
    assert memory.series("train/grad/bias") == pytest.approx([0.5] * 4)
    assert (callback.steps, callback.exploded) == (4, 4)
    assert callback.highest == pytest.approx({"weight": 2.5, "bias": 0.5})
    said = [line for line in capsys.readouterr().out.splitlines() if "Gradient Check" in line or ": " in line]
    assert said[1:] == ["  weight: 2.5 (exploding)", "  bias: 0.5 (good)"]  # once


def test_the_size_of_a_group_does_not_matter() -> None:
    small, large, idle, foreign, other = (
        nn.Parameter(torch.zeros(*shape)) for shape in ((3,), (300, 7), (3,), (5,), (2,))
    )
    for parameter, value in ((small, 0.25), (large, 0.25), (foreign, 7.0), (other, 1.0)):
        parameter.grad = torch.full_like(parameter, value)
    groups = {"large": [large], "half": [small, idle], "none": [], "other": [other]}
    first, second = torch.optim.SGD([large, small, idle, foreign]), torch.optim.SGD([other])
    each = norms_of([p.grad for p in (large, small, foreign) if p.grad is not None])
    laid = layout(groups, first, each.device)
    assert laid.names == ("large", "half", "none")  # the other optimiser trains the last
    assert rms(laid, each).tolist() == pytest.approx([0.25, 0.25 / math.sqrt(2), 0])
    assert layout(groups, second, each.device).names == ("none", "other")


def test_each_optimiser_has_its_own_groups(tmp_path: Path) -> None:
    """Both hold as many parameters."""

    class Both(Manual):
        def gradient_groups(self) -> dict[str, list[nn.Parameter]]:
            return {"net": list(self.net.parameters()), "other": list(self.other.parameters())}

    memory = Memory()
    trainer(tmp_path, HeadGradients(), max_epochs=1, logger=memory).fit(Both(), loader())
    assert min(*memory.series("train/grad/net"), *memory.series("train/grad/other")) > 0


def test_what_the_monitor_measured_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, beside = Memory(), Memory()
    trainer(tmp_path, HeadGradients(), max_epochs=1, logger=alone).fit(Grouped(), loader())
    monkeypatch.setattr("maskwell.callbacks.head_gradients.norms_of", lambda _: pytest.fail("again"))
    trainer(tmp_path, LossHealth(), HeadGradients(), max_epochs=1, logger=beside).fit(Grouped(), loader())
    assert beside.series("train/grad/weight") == alone.series("train/grad/weight")


def test_the_form_of_the_notes() -> None:
    said = check({"x_head": 0.02, "y_head": 1e-9, "done_head": math.nan}, 1e-6, 0.1, "regression")
    assert said.splitlines()[0].startswith("[Gradient Check - Regression]")
    assert said.splitlines()[1:] == [
        "  x_head: 0.02 (good)",
        "  y_head: 1e-09 (not learning)",
        "  done_head: nan (exploding)",
    ]
    assert verdict(math.inf, 0.1, 1.0) == "exploding"


def test_counts_survive_a_resume_and_other_tasks_are_left_alone(tmp_path: Path) -> None:
    callback = HeadGradients()
    trainer(tmp_path, callback, max_epochs=1).fit(Automatic(), loader())
    assert callback.steps == 0
    callback.load_state_dict({"steps": 7, "exploded": 1, "highest": {"x_head": 2.0}})
    assert callback.state_dict() == {"steps": 7, "exploded": 1, "highest": {"x_head": 2.0}}


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (1.0, 0.5)])
def test_a_band_without_inside_is_refused(low: float, high: float) -> None:
    with pytest.raises(UserError, match="0 < low < high"):
        HeadGradients(low, high)
