"""The averaged copy."""

from __future__ import annotations

import torch
from torch import nn

from maskwell.models.teacher import Teacher
from maskwell.ops.schedules import ema_decay


def student() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))


def test_decay_grows_from_the_plain_mean() -> None:
    assert [ema_decay(i, 0.7) for i in (0, 1, 3, 9)] == [0.0, 0.5, 0.7, 0.7]


def test_the_first_iterations_are_a_plain_mean_of_parameters_and_buffers() -> None:
    network = student()
    teacher = Teacher(network, 0.999)
    weights, means = [], []
    for iteration in range(5):
        with torch.no_grad():
            network[0].weight.add_(torch.randn_like(network[0].weight))
        network(torch.randn(4, 1, 3, 3) + iteration)
        teacher.update(network, iteration)
        weights.append(network[0].weight.detach().clone())
        means.append(network[1].running_mean.clone())
    assert torch.allclose(teacher.net[0].weight, torch.stack(weights).mean(0), atol=1e-6)
    assert torch.allclose(teacher.net[1].running_mean, torch.stack(means).mean(0), atol=1e-6)
    assert int(teacher.net[1].num_batches_tracked) == 5


def test_it_is_never_trained_and_always_in_evaluation() -> None:
    network = student()
    teacher = Teacher(network, 0.9)
    teacher.train()
    assert not any(module.training for module in teacher.modules())
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    output = teacher(torch.randn(2, 1, 3, 3))
    assert not output.requires_grad
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert all(p.requires_grad for p in network.parameters())
