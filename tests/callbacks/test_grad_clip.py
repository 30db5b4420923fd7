from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback
from torch import Tensor, nn

from maskwell.callbacks import grad_clip
from maskwell.callbacks.grad_clip import GradClip
from maskwell.callbacks.loss_health import LossHealth
from maskwell.callbacks.monitor import gradients
from maskwell.errors import UserError
from tests.callbacks.modules import Automatic, Manual, Memory, loader, trainer


class Probe(Callback):
    """Placed behind the clip: the gradients as the optimiser will see them, and weights per step."""

    def __init__(self) -> None:
        self.norms: list[float] = []
        self.weights: list[Tensor] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        grads = [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
        self.norms.append(math.sqrt(sum(float(g.double().pow(2).sum()) for g in grads)))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.weights.append(nn.utils.parameters_to_vector(pl_module.parameters()).detach().clone())


def _nan_at(*steps: int) -> Any:
    return lambda step, loss: loss * (math.nan if step in steps else 1.0)


@pytest.mark.parametrize("module", [Automatic, Manual])
def test_no_step_sees_more_than_the_bound(tmp_path: Path, module: type[Automatic]) -> None:
    probe = Probe()
    trainer(tmp_path, GradClip(0.5), probe).fit(module(), loader(scale=5))
    assert max(probe.norms) <= 0.5 * (1 + 1e-5)
    assert max(probe.norms) == pytest.approx(0.5, rel=1e-3)


def test_clipping_equals_torchs(tmp_path: Path) -> None:
    ours, theirs = Automatic(), Automatic()
    trainer(tmp_path, GradClip(0.5)).fit(ours, loader(scale=5))
    trainer(tmp_path, gradient_clip_val=0.5).fit(theirs, loader(scale=5))
    assert torch.allclose(ours.net.weight, theirs.net.weight, atol=1e-6)


def test_norms_and_share_are_logged(tmp_path: Path) -> None:
    memory, unclipped = Memory(), Probe()
    bound = 2.0
    trainer(tmp_path, unclipped, GradClip(bound), logger=memory).fit(Automatic(lr=0.1), loader())
    before = memory.series("train/grad_norm")
    assert before == pytest.approx(unclipped.norms, rel=1e-5)
    assert memory.series("train/grad_norm_clipped") == pytest.approx([min(n, bound) for n in before])
    clipped = [n > bound for n in before]
    assert 0 < sum(clipped) < len(clipped)
    assert memory.series("train/clipped_share") == pytest.approx(
        [sum(clipped[: i + 1]) / (i + 1) for i in range(len(clipped))]
    )


@pytest.mark.parametrize("module", [Automatic, Manual])
def test_the_monitor_and_the_clip_measure_once(
    tmp_path: Path, module: type[Automatic], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same figures, and weights, as the clip alone."""
    alone, beside, measured = Memory(), Memory(), Counter[str]()
    one, two = module(), module()
    trainer(tmp_path, GradClip(0.5), logger=alone).fit(one, loader())
    for place in (grad_clip, gradients):
        whole = place.norms_of
        monkeypatch.setattr(
            place, "norms_of", lambda g, w=whole, name=place.__name__: (measured.update([name]), w(g))[1]
        )
    trainer(tmp_path, LossHealth(probe=False), GradClip(0.5), logger=beside).fit(two, loader())
    assert measured == {gradients.__name__: len(two.trainer.optimizers) * 12}
    for name in {name for _, metrics in alone.rows for name in metrics if name.startswith("train/")}:
        assert beside.series(name) == pytest.approx(alone.series(name), rel=1e-6), name
    for ours, theirs in zip(two.parameters(), one.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-7)


def test_a_clip_before_the_monitor_measures_itself(tmp_path: Path) -> None:
    alone, before = Memory(), Memory()
    trainer(tmp_path, GradClip(0.5), logger=alone).fit(Automatic(), loader())
    trainer(tmp_path, GradClip(0.5), LossHealth(probe=False), logger=before).fit(Automatic(), loader())
    assert before.series("train/grad_norm") == pytest.approx(alone.series("train/grad_norm"))


@pytest.mark.parametrize("order", ["monitor behind", "a change between"])
def test_the_clip_measures_itself_what_the_monitor_has_not_seen(tmp_path: Path, order: str) -> None:
    class Twice(Manual):
        """One optimiser, two steps in each batch; the second gradient is larger by far."""

        def training_step(self, batch: Any, batch_idx: int) -> None:
            self.iteration += 1
            optimiser = self.optimizers()
            for factor in (0.01, 10.0):
                optimiser.zero_grad()
                self.manual_backward(factor * self.loss_on(batch))
                optimiser.step()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), self.lr)

    class Louder(Callback):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            for parameter in pl_module.net.parameters():
                parameter.grad.data *= 5

    clip, health, probe = GradClip(0.5), LossHealth(probe=False), Probe()
    chain = [clip, health] if order == "monitor behind" else [health, Louder(), clip]
    trainer(tmp_path, *chain, probe, max_epochs=1).fit(Twice(), loader())
    assert max(probe.norms) == pytest.approx(0.5, rel=1e-3)


def test_what_is_unfrozen_between_two_looks_is_clipped_too(tmp_path: Path) -> None:
    class Thawed(Automatic):
        def on_train_batch_start(self, *_: Any) -> None:
            self.net.bias.requires_grad_(self.iteration >= 3)

    probe = Probe()
    trainer(tmp_path, LossHealth(probe=False), GradClip(0.1), probe).fit(Thawed(), loader(scale=5))
    assert max(probe.norms) == pytest.approx(0.1, rel=1e-3)


def test_every_optimiser_has_its_own_figures(tmp_path: Path) -> None:
    memory, probe = Memory(), Probe()
    trainer(tmp_path, probe, GradClip(None), logger=memory, max_epochs=1).fit(Manual(), loader())
    assert memory.series("train/grad_norm_generator") == pytest.approx(probe.norms[::2], rel=1e-5)
    assert memory.series("train/grad_norm_discriminator") == pytest.approx(probe.norms[1::2], rel=1e-5)
    assert memory.series("train/clipped_share_generator") == []


def test_named_groups_are_logged_where_there_are_several(tmp_path: Path) -> None:
    class Grouped(Automatic):
        def configure_optimizers(self) -> Any:
            named = [{"params": [p], "name": n} for n, p in self.net.named_parameters()]
            return torch.optim.SGD(named, 0.01)

    memory = Memory()
    trainer(tmp_path, GradClip(), logger=memory, max_epochs=1).fit(Grouped(), loader())
    weight, bias = memory.series("train/grad_norm/weight"), memory.series("train/grad_norm/bias")
    assert [math.hypot(w, b) for w, b in zip(weight, bias, strict=True)] == pytest.approx(
        memory.series("train/grad_norm")
    )


@pytest.mark.parametrize("module", [Automatic, Manual])
def test_gradients_that_are_not_finite_leave_the_weights_alone(
    tmp_path: Path, module: type[Automatic]
) -> None:
    probe, clip = Probe(), GradClip()
    trained = module(spoil=_nan_at(3))
    trainer(tmp_path, clip, probe, max_epochs=1).fit(trained, loader())
    spoilt = slice(0, 5)  # the first network; the second one of Manual has a loss of its own
    assert torch.equal(probe.weights[2][spoilt], probe.weights[1][spoilt])
    assert not torch.equal(probe.weights[3][spoilt], probe.weights[2][spoilt])
    assert clip.skipped == 1 and all(p.isfinite().all() for p in trained.parameters())


def test_a_skipped_step_decays_nothing_and_moves_no_moment(tmp_path: Path) -> None:
    class Adam(Automatic):
        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), 0.1, weight_decay=0.5)

    probe = Probe()
    trainer(tmp_path, GradClip(), probe, max_epochs=1).fit(Adam(spoil=_nan_at(2)), loader())
    assert torch.equal(probe.weights[0], probe.weights[1])


def test_state_survives_a_round_trip() -> None:
    clip = GradClip(window=3)
    clip.load_state_dict({"skipped": 4, "clipped": {"": [True, False, True, True]}})
    assert clip.state_dict() == {"skipped": 4, "clipped": {"": [False, True, True]}}


@pytest.mark.parametrize("bound", [0.0, -1.0, math.nan])
def test_a_bound_that_is_not_positive_is_refused(bound: float) -> None:
    with pytest.raises(UserError, match=r"callbacks\.grad_clip\.max_norm"):
        GradClip(bound)


def test_two_clips_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gradient_clip_val"):
        trainer(tmp_path, GradClip(), gradient_clip_val=1.0).fit(Automatic(), loader())


def test_norms_of_gradients_on_several_devices_come_together() -> None:
    """Devices that every machine has: numbers of "meta" are never there, and can only be stacked."""
    mixed = grad_clip.norms_of([torch.ones(3, device="meta"), torch.ones(4)])
    assert mixed.device.type == "meta" and mixed.shape == (2,) and mixed.dtype == torch.float32
    assert gradients.finite([torch.ones(3, device="meta"), torch.ones(4)]).device.type == "meta"
