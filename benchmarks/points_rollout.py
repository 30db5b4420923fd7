"""What encoding an image once saves: rollouts against one forward pass, training against re-encoding.

The field notes' model looks at the marked image anew for every mark: a rollout of 21 marks costs 21
times a forward pass. Ours encodes once and decodes once per mark. In training, eight states of an image
are decoded from one encoding; beside it the same states, losses and update with the image encoded anew
for each state. The gradients of the two ways are compared in float64 before anything is timed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks import harness
from maskwell.models.points import rollout
from maskwell.models.points.heads import Proposals
from maskwell.models.points.memory import padded
from maskwell.models.points.module import Points
from maskwell.models.points.states import State, draw

SEED, MARKS, BATCH = 0, 21, 2
NEVER = 2.0
"""A probability of "no more" that is never reached: the rollout makes all its marks."""


@dataclass(frozen=True)
class Step:
    """A task with its optimiser, and images with the states that are learnt from."""

    task: Points
    images: Tensor
    pixel_mask: Tensor
    truth: list[Tensor]
    states: list[State]
    optimiser: torch.optim.Optimizer

    @property
    def scale(self) -> Tensor:
        """(width, height) of the images."""
        return self.images.new_tensor([self.images.shape[-1], self.images.shape[-2]])

    def gradients(self) -> Tensor:
        """All of them in one vector; zeros where a parameter has none."""
        parameters = [p for p in self.task.parameters() if p.requires_grad]
        return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])


def make(size: int, dtype: torch.dtype = torch.float32) -> Step:
    """The default model from fresh weights, random images with 21 points; always the same for one dtype."""
    task = Points(image_size=size, seed=SEED).to(dtype).train()
    generator = torch.Generator().manual_seed(SEED)
    images = torch.randn(BATCH, 3, size, size, generator=generator).to(dtype)
    scale = torch.tensor([float(size), float(size)])
    truth = [torch.rand(MARKS, 2, generator=generator) for _ in range(BATCH)]
    states: list[State] = []
    for row, points in enumerate(truth):
        states += draw(task.policy, points, scale, row, generator=generator)
    optimiser = torch.optim.AdamW([p for p in task.parameters() if p.requires_grad], lr=1e-3)
    mask = torch.ones(BATCH, size, size, dtype=torch.bool)
    return Step(task, images, mask, truth, states, optimiser)


def encoded_once(step: Step) -> None:
    """Gradients as training computes them: every image is encoded once."""
    _backward(step, step.images, step.pixel_mask, step.truth, step.states)


def encoded_anew(step: Step) -> None:
    """The same states, the image of each encoded for it alone (painting its marks would cost more)."""
    rows = torch.tensor([state.image for state in step.states])
    states = [replace(state, image=row) for row, state in enumerate(step.states)]
    truth = [step.truth[row] for row in rows.tolist()]
    _backward(step, step.images[rows], step.pixel_mask[rows], truth, states)


def _backward(
    step: Step, images: Tensor, pixel_mask: Tensor, truth: list[Tensor], states: list[State]
) -> None:
    grid = step.task.net.encode(images, pixel_mask)
    marks, counts = padded([state.marks for state in states])
    out = step.task.net.decode(grid, torch.tensor([state.image for state in states]), marks, counts)
    assert not isinstance(out, Proposals)
    total, _, _ = step.task.objective.states(out, states, step.scale, grid, truth)
    step.optimiser.zero_grad()
    total.backward()


def gradient_difference(size: int) -> float:
    """Largest difference between the gradients of the two ways over the largest gradient; float64."""
    once, anew = make(size, torch.float64), make(size, torch.float64)
    encoded_once(once)
    encoded_anew(anew)
    expected = anew.gradients()
    return float((once.gradients() - expected).abs().max() / expected.abs().max())


@torch.inference_mode()
def forward(step: Step) -> None:
    """One image, one look: what a model without memory does for each mark."""
    grid = step.task.net.encode(step.images[:1], step.pixel_mask[:1])
    first = torch.zeros(1, dtype=torch.int64)  # the image, and its number of marks
    step.task.net.decode(grid, first, step.images.new_zeros(1, 0, 2), first)


@torch.inference_mode()
def roll(step: Step) -> None:
    """One image, 21 marks and the look that finds no more."""
    grid = step.task.net.encode(step.images[:1], step.pixel_mask[:1])
    (made,) = rollout.roll_out(
        step.task.net,
        grid,
        step.scale,
        most=MARKS,
        stop=NEVER,
        min_distance=step.task.min_distance,
    )
    assert len(made.points) == MARKS


def main() -> None:
    args = harness.arguments(__doc__ or "").parse_args()
    started = time.perf_counter()
    harness.use_cores(1)
    size, repeats = (96, 3) if args.quick else (384, 15)
    difference = gradient_difference(min(size, 192))
    step = make(size)

    def update(backward: object) -> None:
        assert callable(backward)
        backward(step)
        step.optimiser.step()

    # the process's own time: other work on the machine does not count
    training = harness.paired(
        lambda: update(encoded_anew), lambda: update(encoded_once), repeats=repeats, clock=time.process_time
    )
    step.task.eval()
    rolled = harness.paired(
        lambda: roll(step), lambda: forward(step), repeats=2 * repeats, clock=time.process_time
    )
    figures = {
        "ratio_21": rolled.ratio,
        "ratio_21.std": rolled.spread,
        "rollout_ms": 1000 * min(rolled.first),
        "forward_ms": 1000 * min(rolled.second),
        "train_speedup": training.ratio,
        "train_speedup.std": training.spread,
        "iterations_per_second.encoded_once": 1 / min(training.second),
        "iterations_per_second.encoded_anew": 1 / min(training.first),
        "gradient_difference": difference,
    }
    harness.publish(
        args,
        "points_rollout",
        figures,
        command="python -m benchmarks.points_rollout",
        seeds=[SEED],
        minutes=(time.perf_counter() - started) / 60,
        notes=(
            f"Default model (small encoder, pointer), {size} x {size} px, float32, one thread, processor "
            f"time. ratio_21: batch 1, {MARKS} marks and the last look against one encoding and one look. "
            f"train_speedup: batch {BATCH}, {step.task.policy.states} states an image, forward, backward "
            "and AdamW, true marks; encoded anew: the image once for every state, without the painting of "
            "marks that this way needs too. gradient_difference: in float64, the largest over the largest "
            "gradient."
        ),
    )


if __name__ == "__main__":
    main()
