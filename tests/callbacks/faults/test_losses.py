"""Faults of the loss: on real tasks, what the optimiser gets is what the name says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import points_small
import s4gan_small
from maskwell.callbacks.faults import (
    FlippedSign,
    Growth,
    Heavy,
    MissingTerms,
    NanLoss,
    Ramp,
    Shift,
    Spike,
    Undivided,
    WrongWeight,
)
from maskwell.callbacks.faults.losses import LossFault, weights
from maskwell.health.engine import Engine

BATCH = points_small.make_batch(3, 4)


def losses(fault: LossFault | None, at: int = 1) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and parts of a point model in one step."""
    task: Any = points_small.make_task()
    if fault is not None:
        fault.setup(None, task, "fit")  # type: ignore[arg-type]
        fault.now = at
    torch.manual_seed(0)
    output = task.step(BATCH, "train")
    return output.loss, dict(output.parts)


CLEAN, PARTS = losses(None)
WEIGHTS = {"loss_point": 1.0, "loss_spatial": 500.0, "loss_done": 1.0, "loss_cell": 1.0}


def test_weights_are_derivatives() -> None:
    found = weights(CLEAN, PARTS)
    assert found == pytest.approx(WEIGHTS)


@pytest.mark.parametrize(("fault", "factor"), [(Shift(10.0), 10.0), (Growth(0.5), 1.5), (Spike(20.0), 20.0)])
def test_the_whole_loss_grows(fault: LossFault, factor: float) -> None:
    loss, parts = losses(fault)
    assert torch.isclose(loss, CLEAN * factor)
    assert torch.isclose(parts["loss_done"], PARTS["loss_done"] * factor)


def test_a_heavy_loss_has_the_terms_it_had() -> None:
    loss, parts = losses(Heavy(10.0))
    assert torch.isclose(loss, CLEAN * 10.0) and all(torch.equal(parts[name], PARTS[name]) for name in PARTS)


def test_growth_goes_on_and_a_spike_does_not() -> None:
    assert torch.isclose(losses(Growth(0.5, start=2), at=4)[0], CLEAN * 1.5**2)
    assert torch.isclose(losses(Spike(20.0, start=2), at=4)[0], CLEAN)


@pytest.mark.parametrize("at", [1, 2])
def test_nothing_happens_before_the_start(at: int) -> None:
    fault = Shift(10.0, start=2)
    assert torch.equal(losses(fault, at=at)[0], CLEAN) and fault.onset is None


def test_nan_lasts_as_many_steps_as_it_should() -> None:
    fault = NanLoss(2, start=3)
    assert [bool(losses(fault, at=at)[0].isnan()) for at in (3, 4, 5, 6)] == [False, True, True, False]
    assert fault.onset == 4


def test_a_sum_is_the_mean_times_what_it_is_over() -> None:
    assert torch.isclose(losses(Undivided(by="objects"))[0], 7 * CLEAN)
    assert torch.isclose(losses(Undivided(by="images"))[0], 2 * CLEAN)


def test_single_terms_change_by_their_weight() -> None:
    weighted = {name: WEIGHTS[name] * float(PARTS[name].detach()) for name in WEIGHTS}
    first, second = sorted(weighted, key=lambda name: -weighted[name])[:2]
    clean = float(CLEAN)
    assert float(losses(WrongWeight(100.0))[0]) == pytest.approx(clean + 99 * weighted[first], rel=1e-5)
    assert float(losses(WrongWeight(3.0, term="loss_done"))[0]) == pytest.approx(
        clean + 2 * weighted["loss_done"], rel=1e-5
    )
    assert float(losses(FlippedSign(0.3))[0]) == pytest.approx(clean - 1.3 * weighted[first], rel=1e-5)
    loss, parts = losses(MissingTerms(2))
    assert float(loss) == pytest.approx(clean - weighted[first] - weighted[second], rel=1e-4)
    assert float(parts[first]) == 0 == float(parts[second])


def test_a_missing_term_trains_nothing() -> None:
    task: Any = points_small.make_task()
    MissingTerms(len(WEIGHTS)).setup(None, task, "fit")  # type: ignore[arg-type]
    task.step(BATCH, "train").loss.backward()
    assert all(p.grad is None or not bool(p.grad.any()) for p in task.parameters())


def test_a_ramp_ends_at_the_full_weight() -> None:
    engine = Engine({})
    fault = Ramp(100, start=10)
    values = []
    for at in (1, 11, 60, 110, 111):
        task: Any = points_small.make_task()
        trainer: Any = SimpleNamespace(callbacks=[SimpleNamespace(engine=engine)])
        fault.setup(trainer, task, "fit")
        fault.now = at
        torch.manual_seed(0)
        values.append(float(task.step(BATCH, "train").loss))
    assert values == sorted(values) and values[-1] == pytest.approx(float(CLEAN))
    assert values[-2] == pytest.approx(float(CLEAN)) and engine.signals.last_event(("ramp",)) == 11


def test_evaluation_and_probes_without_gradients() -> None:
    task: Any = points_small.make_task()
    Shift(10.0).setup(None, task, "fit")  # type: ignore[arg-type]
    with torch.no_grad():
        torch.manual_seed(0)
        probed = task.step(BATCH, "train").loss
    assert torch.isclose(probed, CLEAN.detach() * 10) and not probed.requires_grad


def test_the_generator_of_a_gan_is_spoilt_and_its_discriminator_is_not() -> None:
    def made(fault: LossFault | None) -> Any:
        task: Any = s4gan_small.make_task("guide")
        if fault is not None:
            fault.setup(None, task, "fit")  # type: ignore[arg-type]
        torch.manual_seed(0)
        return task._losses(s4gan_small.train_batch())

    clean, shifted = made(None), made(Shift(3.0))
    assert torch.isclose(shifted.generator, 3 * clean.generator)
    assert torch.isclose(shifted.discriminator, clean.discriminator)
    flipped = made(FlippedSign(1.0))
    assert torch.isclose(flipped.generator, clean.generator - 2 * clean.parts["loss_ce"])
    task: Any = s4gan_small.make_task("guide")
    labelled = s4gan_small.make_batch(0, 1)
    plain = float(task.step(labelled, "train").loss)
    Undivided(by="images").setup(None, task, "fit")  # type: ignore[arg-type]
    assert float(task.step(labelled, "train").loss) == pytest.approx(plain * 2 * 32 * 32)
    assert float(task.step(labelled, "val").loss) == pytest.approx(plain)
