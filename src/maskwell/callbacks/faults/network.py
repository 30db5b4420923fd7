"""Faults of networks: what a module gives, or what an adversarial training shows its discriminator."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn

from maskwell.callbacks.faults.base import Fault, replace_method, trained

HALF_MAX = 65504.0
"""The largest number of float16."""


class Overflow(Fault):
    """Activations of the later half of the network, ``severity`` times too large, overflow in float16."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Hook the layers to which the later half of the trained matrices belongs."""
        matrices = [name for name, p in trained(pl_module) if p.ndim > 1]
        layers = {name.rpartition(".")[0] for name in matrices[len(matrices) // 2 :]}

        def overflow(_: nn.Module, __: Any, output: Any) -> Any:
            if not (pl_module.training and self.due and isinstance(output, Tensor)):
                return output
            too_large = (output * self.severity).abs() > HALF_MAX
            if not bool(too_large.any()):
                return output
            self.act()
            return torch.where(too_large, torch.inf * output.detach().sign(), output)

        for layer in sorted(layers):
            pl_module.get_submodule(layer).register_forward_hook(overflow)

    def batch_starts(self, trainer: Trainer, module: LightningModule, batch: Any) -> None:
        """Nothing: whether a number is too large is known when it is there."""


class DoubleSoftmax(Fault):
    """The network gives probabilities, ``severity`` times softmaxed, where the loss wants logits."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        def softmaxed(_: nn.Module, __: Any, output: Tensor) -> Tensor:
            for _time in range(int(self.severity)):
                output = output.softmax(1)
            return output

        generator: Any = pl_module.generator
        generator.register_forward_hook(softmaxed)


class CollapsedPseudoLabels(Fault):
    """A ``severity`` share of the pixels is surely of class 0, says who gives the pseudo-labels."""

    SURE = 30.0
    """Logits above all others."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        task: Any = pl_module
        objective, teaching = task.objective, [False]

        def losses(*given: Any) -> Any:
            teaching[0] = self.begun()
            try:
                return objective(*given)
            finally:
                teaching[0] = False

        losses.recipe = objective.recipe  # type: ignore[attr-defined]
        replace_method(task, "objective", losses)

        def collapsed(_: nn.Module, __: Any, output: Tensor) -> Tensor:
            if not teaching[0]:
                return output
            random = torch.Generator().manual_seed(self.seed)
            hit = torch.rand(output.shape[-2:], generator=random).to(output) < self.severity
            sure = torch.zeros_like(output)
            sure[:, 0] = output.detach().amax(1) + self.SURE
            return torch.where(hit, sure, output)

        source = task.generator if objective.recipe.pseudo_labels == "student" else task.teacher
        source.register_forward_hook(collapsed)


class DiscriminatorRange(Fault):
    """Real images come to the discriminator ``severity`` times as large as those with predictions."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        task: Any = pl_module
        objective = task.objective
        colours, real = objective.colours, [None]

        def losses(networks: Any, labelled: Any, *more: Any) -> Any:
            real[0] = labelled.images if self.begun() else None
            return objective(networks, labelled, *more)

        losses.recipe = objective.recipe  # type: ignore[attr-defined]
        replace_method(task, "objective", losses)
        replace_method(
            objective,
            "colours",
            lambda images: colours(images) * (self.severity if images is real[0] else 1.0),
        )


class DoneAlways(Fault):
    """Of a point model, a ``severity`` share of the training states says "no more", whatever is left."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        task: Any = pl_module
        draw = task._draw

        def drawn(batch: Any, grid: Any, truth: Any, scale: Any, stage: str) -> Any:
            states = draw(batch, grid, truth, scale, stage)
            if stage != "train" or not self.begun():
                return states
            step = self.now
            return [
                self.spoil(s, truth[s.image]) if self.hit(self.severity, step, i) else s
                for i, s in enumerate(states)
            ]

        replace_method(task, "_draw", drawn)

    def spoil(self, state: Any, truth: Tensor) -> Any:
        """``state`` as a finished one; ``truth`` [N, 2] are the points of its image."""
        return replace(state, left=state.left[:0])


class DoneNever(DoneAlways):
    """Of a point model, a ``severity`` share of the finished states asks for an object that is marked."""

    def spoil(self, state: Any, truth: Tensor) -> Any:
        return replace(state, left=truth[:1]) if state.finished else state
