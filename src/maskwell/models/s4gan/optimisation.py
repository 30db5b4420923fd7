"""Two optimisers that share one backward graph: rates, gradients by parameter set, one all-reduce."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from maskwell.errors import UserError
from maskwell.models.optimisation import fused, laid_out
from maskwell.models.s4gan.net import Generator
from maskwell.ops.schedules import polynomial


@dataclass(frozen=True)
class Rates:
    """SGD or AdamW for the generator, Adam for the discriminator, both polynomial to the end of the run.

    Args:
        optimizer: of the generator: ``sgd`` (Mittal et al., 2021), or ``adamw``, which needs fewer
            iterations from random weights.
        lr_generator: of the backbone (Mittal et al.: 2.5e-4, for pretrained weights and SGD).
        lr_discriminator: (Mittal et al.: 1e-4; the field notes' second try: 5e-5).
        head_factor: the head's rate is this times the backbone's.
        momentum: of SGD.
        weight_decay: of the generator (AdamW's is decoupled: 1e-2 is common there).
        betas: of Adam (Mittal et al.: 0.9, 0.99).
        power: of the polynomial.
    """

    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr_generator: float = 2.5e-4
    lr_discriminator: float = 1e-4
    head_factor: float = 10.0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.99)
    power: float = 0.9

    def __post_init__(self) -> None:
        if self.optimizer not in ("sgd", "adamw"):
            raise UserError(f"model.rates.optimizer={self.optimizer}: give sgd or adamw.")
        for name in ("lr_generator", "lr_discriminator", "head_factor"):
            if not getattr(self, name) > 0:
                raise UserError(f"model.rates.{name}={getattr(self, name)}: give a positive number.")

    def generator(self, network: Generator) -> torch.optim.Optimizer:
        """Over the trained parameters of backbone and head."""
        groups = [
            {"params": _trained(network.backbone), "lr": self.lr_generator, "name": "backbone"},
            {
                "params": _trained(network.head),
                "lr": self.lr_generator * self.head_factor,
                "name": "head",
            },
        ]
        lr, decay, on_cpu = self.lr_generator, self.weight_decay, fused(_trained(network))
        if self.optimizer == "adamw":
            return torch.optim.AdamW(groups, lr=lr, weight_decay=decay, fused=on_cpu)
        return torch.optim.SGD(groups, lr=lr, momentum=self.momentum, weight_decay=decay, fused=on_cpu)

    def check_state(self, states: Sequence[dict[str, Any]]) -> None:
        """Refuse to go on from the state of another optimiser.

        Args:
            states: of the optimisers of a checkpoint, the generator's first; none where it holds none.

        Raises:
            UserError: the generator's is not that of ``optimizer``.
        """
        for state in states[:1]:
            before = "sgd" if "momentum" in state["param_groups"][0] else "adamw"
            if before != self.optimizer:
                raise UserError(
                    f"model.rates.optimizer={self.optimizer}: the checkpoint holds the state of {before}. "
                    f"Resume with model.rates.optimizer={before}, or start a new run from its weights with "
                    "init_from=."
                )

    def discriminator(self, network: nn.Module) -> torch.optim.Optimizer:
        """Adam over the discriminator."""
        low, high = self.betas
        trained = _trained(network)
        return torch.optim.Adam(trained, lr=self.lr_discriminator, betas=(low, high), fused=fused(trained))

    def schedule(self, optimiser: torch.optim.Optimizer, total: int) -> LambdaLR:
        """Per iteration, for a run of ``total`` iterations."""
        return LambdaLR(optimiser, lambda iteration: polynomial(iteration, total, power=self.power))


def settings(optimiser: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """What the configuration says of each parameter group: everything but the parameters."""
    return [{name: value for name, value in g.items() if name != "params"} for g in optimiser.param_groups]


def configure(optimiser: torch.optim.Optimizer, schedule: LambdaLR, wanted: Sequence[dict[str, Any]]) -> None:
    """Give a restored optimiser the :func:`settings` it was configured with, at the schedule's iteration.

    A checkpoint brings the settings of the run before, and with them the rate at its own end.
    """
    schedule.base_lrs = [group["initial_lr"] for group in wanted]
    shares = [share(schedule.last_epoch) for share in schedule.lr_lambdas]
    for group, fresh, share in zip(optimiser.param_groups, wanted, shares, strict=True):
        group.update(fresh, lr=fresh["initial_lr"] * share)
    schedule._last_lr = [group["lr"] for group in optimiser.param_groups]


def _trained(network: nn.Module) -> list[nn.Parameter]:
    return [p for p in network.parameters() if p.requires_grad]


def set_gradients(terms: Sequence[tuple[Tensor, Sequence[nn.Parameter]]]) -> None:
    """Give each set of parameters the gradient of its own loss, averaged over data-parallel ranks.

    The losses may share a graph; what one loss does to the other's parameters is never computed.
    ``backward()`` cannot do that under DDP: its reducer takes two backward passes, or parameters
    without a gradient, for a mistake.

    Args:
        terms: (loss, parameters that it trains) of each optimiser.
    """
    graphs_left = len(terms)
    for loss, parameters in terms:
        graphs_left -= 1
        gradients = torch.autograd.grad(
            loss, list(parameters), retain_graph=graphs_left > 0, allow_unused=True
        )
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = None if gradient is None else laid_out(gradient, parameter)
    average([p.grad for _, parameters in terms for p in parameters if p.grad is not None])


def average(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over ranks, in one all-reduce; nothing happens in a single process."""
    if not (dist.is_available() and dist.is_initialized()) or not tensors:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for tensor, mean in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))
