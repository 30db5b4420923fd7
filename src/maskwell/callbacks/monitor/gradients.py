"""What gradients and steps are like, measured on the device and read later."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from maskwell.callbacks.grad_clip import norms_of
from maskwell.callbacks.monitor.buffer import DeviceBuffer
from maskwell.health import signals as names
from maskwell.health.signals import Signals

SAMPLED = 256
"""Values of each tensor by which changes are told."""
COSINE_TENSORS, COSINE_VALUES = 8, 2048
"""Largest tensors, and values of each, by which directions of gradients are compared."""
COSINE_AT_FIRST, COSINE_EVERY, COSINE_RUN = 256, 512, 24
"""Directions are compared at the first steps, then so many steps in a row out of so many."""


@dataclass
class _Plan:
    """What is known of one optimiser's parameters, fixed while they stay the same."""

    tensors: list[tuple[str, nn.Parameter]]
    groups: list[str]
    group_of: Tensor
    largest: list[nn.Parameter]
    before: Tensor | None = None
    earlier: Tensor | None = None
    earlier_step: int = -1
    direction: Tensor | None = None
    idle: list[int] = field(default_factory=list)
    stuck: list[int] = field(default_factory=list)

    @property
    def home(self) -> torch.device:
        """Where numbers of all parameters come together: these may lie on several devices."""
        return self.group_of.device


class GradientWatch:
    """Measures the gradients of every optimiser before its steps, and what the steps change.

    Each step only the norm of every gradient is taken; those of parts of the network, missing gradients and
    changes of weights every ``every`` steps. Nothing waits for the device: who reads the norms gives back
    their total (:meth:`hear_total`).

    Args:
        name_of: parameter -> its name in the module.
        buffer: where the numbers wait.
        signals: what they are recorded in.
        every: steps between detailed measurements.
    """

    def __init__(
        self, name_of: dict[nn.Parameter, str], buffer: DeviceBuffer, signals: Signals, every: int
    ) -> None:
        self.name_of, self.buffer, self.signals, self.every = name_of, buffer, signals, every
        self._plans: dict[int, _Plan] = {}

    def norms(self, optimizer: Optimizer, label: str, step: int) -> Tensor | None:
        """Norm of each gradient of an optimiser [N]; None without any."""
        if step % self.every == 0:  # what is trained may have changed
            self._refresh(optimizer)
        plan = self._plan(optimizer)
        present = [p.grad for _, p in plan.tensors if p.grad is not None]
        if not present:
            return None
        norms = norms_of(present).to(plan.home)
        if step % self.every == 0:
            self._details(plan, norms, step)
        self._direction(plan, label, step)
        return norms

    def hear_total(self, label: str, step: int, total: float) -> None:
        """The norm of all gradients of an optimiser, which was read with the flag of the step."""
        self._record_norm(names.GRAD + label, step, total)

    def _record_norm(self, name: str, step: int, value: float) -> None:
        if value == value and value not in (float("inf"), float("-inf")):
            self.signals.record(name, step, value, "norm")

    def _plan(self, optimizer: Optimizer) -> _Plan:
        if id(optimizer) not in self._plans:
            self._refresh(optimizer)
        return self._plans[id(optimizer)]

    def _refresh(self, optimizer: Optimizer) -> None:
        """Make the plan of an optimiser, anew where it trains other tensors than before."""
        parameters = [p for g in optimizer.param_groups for p in g["params"] if p.requires_grad]
        known = self._plans.get(id(optimizer))
        if known is not None and len(known.tensors) == len(parameters):
            return
        named = [(self.name_of.get(p, "?"), p) for p in parameters]
        groups = sorted({group_name(n) for n, _ in named})
        index = torch.tensor([groups.index(group_name(n)) for n, _ in named], dtype=torch.int64)
        device = parameters[0].device if parameters else torch.device("cpu")
        largest = sorted(parameters, key=lambda p: -p.numel())[:COSINE_TENSORS]
        plan = _Plan(named, groups, index.to(device), largest)
        plan.idle, plan.stuck = [0] * len(named), [0] * len(named)
        self._plans[id(optimizer)] = plan

    def _details(self, plan: _Plan, norms: Tensor, step: int) -> None:
        """Gradient over weight by group, and which tensors got nothing."""
        every = norms.new_zeros(len(plan.tensors))
        at = [i for i, (_, p) in enumerate(plan.tensors) if p.grad is not None]
        every[at] = norms
        sizes = torch._foreach_norm([p.detach() for _, p in plan.tensors])
        weights = torch.stack([size.to(plan.home, torch.float32) for size in sizes])
        ratio = _by_group(plan, every) / _by_group(plan, weights).clamp(min=1e-12)
        self.buffer.add(ratio, lambda v: self._record_all(names.GROUP_GRAD, plan.groups, step, v))
        self.buffer.add((every == 0).float(), lambda v: self._count_idle(plan, step, v))

    def _record_all(self, prefix: str, groups: list[str], step: int, values: list[float]) -> None:
        for group, value in zip(groups, values, strict=True):
            self._record_norm(prefix + group, step, value)

    def _count_idle(self, plan: _Plan, step: int, zero: list[float]) -> None:
        for i, ((name, _), none) in enumerate(zip(plan.tensors, zero, strict=True)):
            before, plan.idle[i] = plan.idle[i], plan.idle[i] + self.every if none else 0
            if before or plan.idle[i]:
                self.signals.record(names.NO_GRADIENT + name, step, plan.idle[i], "count")

    def _direction(self, plan: _Plan, label: str, step: int) -> None:
        if step > COSINE_AT_FIRST and step % COSINE_EVERY >= COSINE_RUN:
            plan.direction = None
            return
        parts = [
            _strided(p.grad, COSINE_VALUES).to(plan.home, torch.float32)
            for p in plan.largest
            if p.grad is not None
        ]
        if not parts:
            return
        now = torch.cat(parts)
        before, plan.direction = plan.direction, now
        if before is not None and before.shape == now.shape:
            cosine = torch.nn.functional.cosine_similarity(before, now, dim=0)
            name = f"{names.GRAD_COSINE}/{label}"
            self.buffer.add(cosine, lambda v: self._record_norm(name, step, v[0]))

    def before_step(self, optimizer: Optimizer, step: int) -> None:
        """Remember weights, now and then, to tell what the step changes."""
        if step % (4 * self.every) == 0:
            plan = self._plan(optimizer)
            plan.before = _sample(plan) if plan.tensors else None

    def after_step(self, optimizer: Optimizer, label: str, step: int) -> None:
        """Norm with which the step was made, and what it changed, now and then."""
        plan = self._plan(optimizer)
        if step % self.every == 0:
            present = [p.grad for _, p in plan.tensors if p.grad is not None]
            if present:
                norm = nn.utils.get_total_norm(present)
                self.buffer.add(norm, lambda v: self._record_norm(names.GRAD_CLIPPED + label, step, v[0]))
        if plan.before is None:
            return
        before, plan.before = plan.before, None
        after = _sample(plan)
        if after.shape != before.shape:
            return
        owner = _owner(plan, after.device)
        change, size = _sums(plan, owner, (after - before) ** 2), _sums(plan, owner, before**2)
        grouped = (_add_groups(plan, change) / _add_groups(plan, size).clamp(min=1e-24)).sqrt()
        self.buffer.add(grouped, lambda v: self._record_all(names.UPDATE, plan.groups, step, v))
        if plan.earlier is not None and plan.earlier.shape == before.shape:
            moved = _sums(plan, owner, (before != plan.earlier).float())
            span = step - plan.earlier_step
            rates = {id(p): float(g["lr"]) for g in optimizer.param_groups for p in g["params"]}
            still = [rates.get(id(p)) == 0 for _, p in plan.tensors]
            self.buffer.add(moved, lambda v: self._count_stuck(plan, step, span, v, still))
        plan.earlier, plan.earlier_step = before, step

    def _count_stuck(self, plan: _Plan, step: int, span: int, moved: list[float], still: list[bool]) -> None:
        """``still``: those whose own rate is 0, which are meant to rest."""
        for i, (name, _) in enumerate(plan.tensors):
            same = moved[i] == 0 and plan.idle[i] == 0 and not still[i]
            before, plan.stuck[i] = plan.stuck[i], plan.stuck[i] + span if same else 0
            if before or plan.stuck[i]:
                self.signals.record(names.UNCHANGED + name, step, plan.stuck[i], "count")


def group_name(parameter: str) -> str:
    """The part of the network that a parameter belongs to: the first two levels of its name."""
    return ".".join(parameter.split(".")[:-1][:2]) or parameter


def finite(tensors: list[Tensor]) -> Tensor:
    """Whether all values of all floating-point tensors are finite, a bool scalar on the device."""
    floats = [t for t in tensors if t.is_floating_point() and t.numel()]
    home = floats[0].device
    norms = torch._foreach_norm(floats, float("inf"))
    return torch.isfinite(torch.stack([n.to(home, torch.float32) for n in norms])).all()


def bad_values(tensors: Callable[[], list[Tensor]]) -> int:
    """Number of values that are not finite."""
    return sum(int((~torch.isfinite(t)).sum()) for t in tensors() if t.is_floating_point())


def _strided(tensor: Tensor, count: int) -> Tensor:
    flat = tensor.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // count)][:count]


def _sample(plan: _Plan) -> Tensor:
    return torch.cat([_strided(p, SAMPLED).to(plan.home, torch.float32) for _, p in plan.tensors])


def _owner(plan: _Plan, device: torch.device) -> Tensor:
    """Which tensor each value of :func:`_sample` is of."""
    sizes = [len(_strided(p, SAMPLED)) for _, p in plan.tensors]
    return torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)).to(device)


def _sums(plan: _Plan, owner: Tensor, values: Tensor) -> Tensor:
    return values.new_zeros(len(plan.tensors)).index_add_(0, owner, values)


def _add_groups(plan: _Plan, values: Tensor) -> Tensor:
    return values.new_zeros(len(plan.groups)).index_add_(0, plan.group_of, values)


def _by_group(plan: _Plan, norms: Tensor) -> Tensor:
    return _add_groups(plan, norms**2).sqrt()
