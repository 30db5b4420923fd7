"""One training step of S4GAN: ours against the original algorithm written down plainly.

The original (Mittal et al., 2021, algorithm 1) puts four batches through the discriminator, pairs of
predictions and of labels for the generator's update and the same again for its own, and runs backward
once for each. Ours puts each pair through once and reads both gradients from that. Same networks,
batch, losses, memory format and threads; the gradients are compared in float64 before anything is timed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import harness
from maskwell.data.sample import IGNORE, Batch, Geometry, Sample, collate
from maskwell.models.s4gan.discriminator import DiscriminatorSpec
from maskwell.models.s4gan.module import S4Gan
from maskwell.models.s4gan.net import GeneratorSpec
from maskwell.models.s4gan.objective import Networks
from maskwell.models.s4gan.optimisation import set_gradients
from maskwell.models.s4gan.recipe import Recipe

SEED, BATCH, CLASSES = 0, 4, 11
THRESHOLD = 0.2
WEIGHTS = {"lambda_fm": 0.1, "lambda_st": 1.0}
GUIDE = Recipe(
    unlabelled=True,
    adversarial=True,
    threshold_st=THRESHOLD,
    st_start=0,
    pseudo_labels="student",
    **WEIGHTS,
)
SUPERVISED = Recipe(unlabelled=False)


@dataclass(frozen=True)
class Step:
    """A task with its optimisers and one batch of each kind."""

    task: S4Gan
    labelled: Batch
    unlabelled: Batch
    optimisers: tuple[torch.optim.Optimizer, ...]

    @property
    def networks(self) -> list[nn.Module]:
        """What is trained: the generator and, where there is one, the discriminator."""
        return [n for n in (self.task.generator, self.task.discriminator) if n is not None]

    def gradients(self) -> Tensor:
        """All of them in one vector; zeros where a parameter has none."""
        parameters = [p for network in self.networks for p in network.parameters()]
        return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])


def make(recipe: Recipe, size: tuple[int, int], ndf: int, dtype: torch.dtype = torch.float32) -> Step:
    """Small generator from fresh weights and random images; the same for every call with one dtype.

    Dropout is off, so that two ways to compute the same thing agree.
    """
    task = S4Gan(recipe, GeneratorSpec(dropout=0.0), DiscriminatorSpec(ndf=ndf), iterations=1000)
    task.bind(categories=[f"class {i}" for i in range(CLASSES)])
    task.to(dtype).train()
    generator = torch.Generator().manual_seed(SEED)
    labelled, unlabelled = (_batch(size, generator, dtype, labels) for labels in (True, False))
    optimisers = [task.rates.generator(task.generator)]
    if task.discriminator is not None:
        optimisers.append(task.rates.discriminator(task.discriminator))
    return Step(task, labelled, unlabelled, tuple(optimisers))


def _batch(size: tuple[int, int], generator: torch.Generator, dtype: torch.dtype, labels: bool) -> Batch:
    samples = []
    for index in range(BATCH):
        semantic = torch.randint(0, CLASSES, size, generator=generator)
        semantic[torch.rand(size, generator=generator) < 0.05] = IGNORE
        samples.append(
            Sample(
                image=torch.randn(3, *size, generator=generator).to(dtype),
                boxes=torch.zeros(0, 4),
                labels=torch.zeros(0, dtype=torch.int64),
                geometry=Geometry(size, (0, 0, size[1], size[0]), size, size),
                image_id=index,
                file_name="",
                semantic=semantic if labels else None,
            )
        )
    return collate(samples)


def our_gradients(step: Step) -> None:
    """Losses and gradients as training computes them."""
    task = step.task
    networks = Networks(task.generator, task.teacher, task.discriminator)
    unlabelled = step.unlabelled if task.recipe.unlabelled else None
    losses = task.objective(networks, step.labelled, unlabelled, 0, task.tally.mean_confidence)
    minimised = (
        [losses.generator] if losses.discriminator is None else [losses.generator, losses.discriminator]
    )
    set_gradients(
        [(loss, list(net.parameters())) for loss, net in zip(minimised, step.networks, strict=True)]
    )


def plain_gradients(step: Step) -> None:
    """The original algorithm, one thing after the other."""
    generator, discriminator = step.task.generator, step.task.discriminator
    assert discriminator is not None
    labels = step.labelled.semantic()
    discriminator.requires_grad_(False)
    entropy = F.cross_entropy(generator(step.labelled.images), labels, ignore_index=IGNORE)
    logits = generator(step.unlabelled.images)
    fake = logits.softmax(1)
    score, fake_features = discriminator(_colours(step, step.unlabelled), fake)
    known = labels != IGNORE
    real = F.one_hot(labels * known, CLASSES).permute(0, 3, 1, 2).to(fake.dtype) * known[:, None]
    _, real_features = discriminator(_colours(step, step.labelled), real)
    matching = (real_features.mean(0) - fake_features.mean(0)).abs().mean()
    good = score.sigmoid() > THRESHOLD
    teaching = logits.new_zeros(())
    if good.any():
        teaching = F.cross_entropy(logits[good], logits[good].argmax(1))
    (entropy + WEIGHTS["lambda_fm"] * matching + WEIGHTS["lambda_st"] * teaching).backward()
    discriminator.requires_grad_(True)
    for images, maps, wanted in ((step.unlabelled, fake.detach(), 0.0), (step.labelled, real, 1.0)):
        said, _ = discriminator(_colours(step, images), maps)
        (0.5 * F.binary_cross_entropy_with_logits(said, torch.full_like(said, wanted))).backward()


def _colours(step: Step, batch: Batch) -> Tensor:
    return step.task.objective.colours(batch.images)


def our_step(step: Step) -> None:
    """Gradients, both updates, and the averaged generator that every recipe keeps."""
    our_gradients(step)
    for optimiser in step.optimisers:
        optimiser.step()
        optimiser.zero_grad()
    step.task.teacher.update(step.task.generator, 0)


def plain_step(step: Step) -> None:
    """Gradients and both updates."""
    plain_gradients(step)
    for optimiser in step.optimisers:
        optimiser.step()
        optimiser.zero_grad()


def gradient_difference(size: tuple[int, int], ndf: int) -> float:
    """Largest difference between the gradients of the two ways, relative to the largest gradient; float64."""
    ours, plain = (make(GUIDE, size, ndf, torch.float64) for _ in range(2))
    our_gradients(ours)
    plain_gradients(plain)
    expected = plain.gradients()
    return float((ours.gradients() - expected).abs().max() / expected.abs().max())


def main() -> None:
    args = harness.arguments(__doc__ or "").parse_args()
    started = time.perf_counter()
    harness.use_cores(1)
    size, ndf, repeats = ((64, 64), 16, 3) if args.quick else ((192, 256), 64, 11)
    difference = gradient_difference(size, ndf)
    ours, plain, supervised = make(GUIDE, size, ndf), make(GUIDE, size, ndf), make(SUPERVISED, size, ndf)
    # the process's own time: other work on the machine does not count
    against = harness.paired(
        lambda: plain_step(plain), lambda: our_step(ours), repeats=repeats, clock=time.process_time
    )
    cost = harness.paired(
        lambda: our_step(ours), lambda: our_step(supervised), repeats=repeats, clock=time.process_time
    )
    figures = {
        "speedup": against.ratio,
        "speedup.std": against.spread,
        "gradient_difference": difference,
        "iterations_per_second.plain": 1 / min(against.first),
        "iterations_per_second.ours": 1 / min(against.second),
        "iterations_per_second.supervised": 1 / min(cost.second),
        "cost_over_supervised": cost.ratio,
        "cost_over_supervised.std": cost.spread,
    }
    harness.publish(
        args,
        "s4gan_step",
        figures,
        command="python -m benchmarks.s4gan_step",
        seeds=[SEED],
        minutes=(time.perf_counter() - started) / 60,
        notes=(
            f"Recipe guide, batch {BATCH} + {BATCH} at {size[0]} x {size[1]} px, {CLASSES} classes, ResNet "
            f"of 1.3 million parameters with DeepLabv3+ head, ndf {ndf}, float32, contiguous, one thread, "
            "processor time. Plain: the original algorithm with four discriminator passes and a backward "
            "pass through each, on the same image scale and logits. Ours also updates the averaged weights. "
            "Supervised: the same generator on the labelled batch alone. gradient_difference: in float64, "
            "the largest over the largest gradient."
        ),
    )


if __name__ == "__main__":
    main()
