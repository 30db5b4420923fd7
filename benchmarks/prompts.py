"""Cost of prompts: one training step with 1, 2, 5 and 10 prompts per image, against repeating the image.

A step is forward, set loss and backward of a LoRA on the small base. Shared: the image is encoded once
and its prompts share it. Repeated: each prompt comes with its own copy of the image.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks import harness
from maskwell.data.phrases import VOCABULARY
from maskwell.models.sam_lora.adaptation import Lora, adapt
from maskwell.models.sam_lora.base_model import SCRATCH, load_base
from maskwell.models.sam_lora.loss import RowTarget, SetLoss
from maskwell.models.sam_lora.net import PromptedSam

SEED = 0
SIZE = 128
IMAGES = 2
OBJECTS = 8
COUNTS = (1, 2, 5, 10)


@dataclass
class Step:
    """Input of one training step: images [B, 3, S, S], and per row its image, phrase and objects."""

    images: Tensor
    image_of_row: Tensor
    prompts: list[str]
    targets: list[RowTarget]

    def repeated(self) -> Step:
        """The same rows, each with its own copy of its image."""
        rows = torch.arange(len(self.prompts))
        return Step(self.images[self.image_of_row], rows, self.prompts, self.targets)


def make_step(num_prompts: int) -> Step:
    """``IMAGES`` images with ``num_prompts`` prompts each: the first names objects, the others none."""
    generator = torch.Generator().manual_seed(SEED)
    images = torch.randn(IMAGES, 3, SIZE, SIZE, generator=generator)
    targets, prompts = [], []
    for _ in range(IMAGES):
        centre = 0.2 + 0.6 * torch.rand(OBJECTS, 2, generator=generator)
        size = 0.05 + 0.2 * torch.rand(OBJECTS, 2, generator=generator)
        boxes = torch.cat([centre - size / 2, centre + size / 2], dim=-1)
        for number in range(num_prompts):
            named = boxes if number == 0 else boxes[:0]
            targets.append(RowTarget(named, rectangles(named)))
            prompts.append(VOCABULARY[number])
    return Step(images, torch.arange(IMAGES).repeat_interleave(num_prompts), prompts, targets)


def rectangles(boxes: Tensor) -> Tensor:
    """Masks bool [N, S, S] that fill xyxy boxes [N, 4] in [0, 1]."""
    at = (torch.arange(SIZE) + 0.5) / SIZE
    columns = (at >= boxes[:, None, 0]) & (at < boxes[:, None, 2])
    rows = (at >= boxes[:, None, 1]) & (at < boxes[:, None, 3])
    return rows[:, :, None] & columns[:, None, :]


def make_net() -> PromptedSam:
    """The small architecture with fresh weights and the default adapter."""
    sam, tokenizer = load_base(SCRATCH, image_size=SIZE, seed=SEED)
    return PromptedSam(adapt(sam, "lora", Lora(), train_text=False, train_semantic=False), tokenizer)


def train_step(net: PromptedSam, criterion: SetLoss, step: Step) -> float:
    """Forward, loss and backward; the loss."""
    net.zero_grad(set_to_none=True)
    loss, _ = criterion(net(step.images, step.image_of_row, step.prompts), step.targets)
    loss.backward()
    return loss.item()


def in_turns(calls: Sequence[Callable[[], object]], repeats: int) -> list[list[float]]:
    """CPU seconds of every call in each of ``repeats`` rounds, after one to warm up: [call][round].

    With one thread this is the time on an idle machine; other work does not lengthen it.
    """
    seconds: list[list[float]] = [[] for _ in calls]
    for turn in range(repeats + 1):
        for call, record in zip(calls, seconds, strict=True):
            start = time.process_time()
            call()
            if turn:
                record.append(time.process_time() - start)
    return seconds


def main() -> None:
    args = harness.arguments(__doc__ or "").parse_args()
    start = time.perf_counter()
    harness.use_cores(1)
    net, criterion = make_net(), SetLoss()
    shared = {f"shared_{count}": make_step(count) for count in COUNTS}
    steps = shared | {"repeated_5": make_step(5).repeated()}
    losses = {name: train_step(net, criterion, step) for name, step in steps.items()}
    calls = [lambda step=step: train_step(net, criterion, step) for step in steps.values()]
    seconds = dict(zip(steps, in_turns(calls, repeats=2 if args.quick else 15), strict=True))

    def ratio(first: str, second: str) -> dict[str, float]:
        each = [a / b for a, b in zip(seconds[first], seconds[second], strict=True)]
        return {"median": statistics.median(each), "std": statistics.stdev(each)}

    ratios = {f"ratio_{n}_to_1": ratio(f"shared_{n}", "shared_1") for n in COUNTS[1:]}
    ratios["ratio_5_to_repeated"] = ratio("shared_5", "repeated_5")
    figures = {name: value["median"] for name, value in ratios.items()}
    figures |= {f"{name}.std": value["std"] for name, value in ratios.items()}
    figures |= {f"seconds.{name}": statistics.median(values) for name, values in seconds.items()}
    figures["loss_difference"] = abs(losses["shared_5"] / losses["repeated_5"] - 1)
    harness.publish(
        args,
        "prompts",
        figures,
        command="python -m benchmarks.prompts",
        seeds=[SEED],
        minutes=(time.perf_counter() - start) / 60,
        notes=(
            f"Small base (fresh weights: time does not depend on them), {SIZE} px, {IMAGES} images a step, "
            f"{OBJECTS} objects for the first prompt of each, none for the others; LoRA attention_mlp r16; "
            "forward, loss and backward in float32; CPU seconds of the one thread, medians over rounds in "
            "which all variants take their turn. loss_difference is relative, shared_5 against repeated_5."
        ),
    )


if __name__ == "__main__":
    main()
