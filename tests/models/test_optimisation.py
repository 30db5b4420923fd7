"""AdamW with its schedule: groups, rates over a run, and that it resumes."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import nn

from maskwell.models.optimisation import AdamWCosine, fused, laid_out
from maskwell.ops.schedules import warmup_cosine


def make_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Conv2d(1, 2, 3))


def test_weight_decay_spares_biases_and_norms() -> None:
    net = make_net()
    optimiser, _ = AdamWCosine(lr=1e-3, weight_decay=0.1).build(list(net.named_parameters()), 10)
    assert isinstance(optimiser, torch.optim.AdamW)
    decay = {id(p): group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
    assert len(decay) == len(list(net.parameters()))
    for name, parameter in net.named_parameters():
        assert decay[id(parameter)] == (0.1 if name in ("0.weight", "2.weight") else 0.0), name


def test_a_group_without_parameters_is_left_out() -> None:
    parameters = [("matrix", nn.Parameter(torch.zeros(2, 2)))]
    optimiser, _ = AdamWCosine().build(parameters, 10)
    assert [group["name"] for group in optimiser.param_groups] == ["decayed"]


def test_rate_follows_warmup_and_cosine() -> None:
    factory = AdamWCosine(lr=2e-3, warmup_share=0.2, final_share=0.05)
    optimiser, schedule = factory.build(list(make_net().named_parameters()), 20)
    rates = []
    for _ in range(20):
        rates.append(optimiser.param_groups[0]["lr"])
        assert optimiser.param_groups[0]["lr"] == optimiser.param_groups[1]["lr"]
        optimiser.step()
        schedule.step()
    expected = [2e-3 * warmup_cosine(i, 20, warmup=4, final_share=0.05) for i in range(20)]
    assert rates == pytest.approx(expected)
    assert max(rates) == pytest.approx(2e-3)
    assert optimiser.param_groups[0]["lr"] == pytest.approx(1e-4)


def test_it_learns() -> None:
    torch.manual_seed(1)
    layer, inputs = nn.Linear(3, 1), torch.randn(64, 3)
    wanted = inputs @ torch.tensor([[1.0], [-2.0], [0.5]])
    optimiser, schedule = AdamWCosine(lr=0.1, weight_decay=0.0).build(list(layer.named_parameters()), 200)
    losses = []
    for _ in range(200):
        loss = (layer(inputs) - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
    assert losses[-1] < 1e-3 < losses[0]


def test_it_resumes_where_it_stopped() -> None:
    def build() -> tuple[nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
        net = nn.Linear(2, 2, bias=False)
        nn.init.ones_(net.weight)
        return net, *AdamWCosine(lr=0.1).build(list(net.named_parameters()), 10)

    def run(
        parts: tuple[nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR], steps: int
    ) -> None:
        net, optimiser, schedule = parts
        for _ in range(steps):
            optimiser.zero_grad()
            net(torch.tensor([[1.0, 2.0]])).square().sum().backward()
            optimiser.step()
            schedule.step()

    straight, first, second = build(), build(), build()
    run(straight, 8)
    run(first, 5)
    for part, before in zip(second, first, strict=True):
        part.load_state_dict(before.state_dict())
    run(second, 3)
    torch.testing.assert_close(second[0].weight, straight[0].weight, rtol=0.0, atol=0.0)


@pytest.mark.parametrize(
    "kind", [torch.optim.AdamW, torch.optim.Adam, functools.partial(torch.optim.SGD, momentum=0.9)]
)
def test_one_kernel_updates_as_the_loop_does_whatever_the_layout_of_the_gradients(kind: Any) -> None:
    torch.manual_seed(2)
    shapes = [(6, 5), (4, 3, 3, 3), (7,), (2, 1, 9)]
    start = [torch.randn(shape) for shape in shapes]
    start[1] = start[1].to(memory_format=torch.channels_last)
    gradients = [torch.randn(shape[::-1]).permute(*reversed(range(len(shape)))) for shape in shapes]
    trained = []
    for wanted in (None, True):
        parameters = [nn.Parameter(tensor.clone()) for tensor in start]
        assert fused(parameters) is True
        optimiser = kind(parameters, lr=0.1, fused=wanted)
        for _ in range(3):
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = laid_out(gradient, parameter)
            optimiser.step()
        trained.append(parameters)
    for loop, kernel in zip(*trained, strict=True):
        torch.testing.assert_close(kernel, loop, rtol=1e-5, atol=1e-6)


def test_backward_leaves_gradients_in_the_order_that_the_kernel_reads() -> None:
    weight = nn.Parameter(torch.randn(6, 5))
    (torch.randn(5, 6).t() * weight).sum().backward()
    assert weight.grad is not None and weight.grad.stride() == weight.stride()


def test_parameters_that_overlap_in_memory_are_left_to_the_loop() -> None:
    assert fused([nn.Parameter(torch.randn(1, 5).expand(3, 5))]) is None
