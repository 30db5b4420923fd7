"""LoRA on SAM 3 at full size on one GPU: seconds per iteration and peak memory.

The architecture has its published size (840 M parameters, 1008 px) and random weights, so that nothing
is downloaded: time and memory do not depend on the values. An iteration is forward in bf16, set loss,
backward and AdamW over rank-16 adapters of vision encoder, DETR and mask decoder.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import statistics
import time
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Sam3Config, Sam3Model

from benchmarks import harness
from maskwell.data.phrases import VOCABULARY
from maskwell.models.sam_lora.adaptation import Lora, adapt
from maskwell.models.sam_lora.loss import RowTarget, SetLoss
from maskwell.models.sam_lora.module import enable_checkpointing
from maskwell.models.sam_lora.net import PromptedSam
from maskwell.models.sam_lora.tiny import build_tokenizer

SEED = 0
BATCH, OBJECTS = 3, 20


@dataclass(frozen=True)
class Setting:
    """One measured variant: prompts per image, and whether the vision encoder is recomputed."""

    prompts: int = 1
    checkpointing: bool = False


SETTINGS = {
    "": Setting(),
    "five_prompts": Setting(prompts=5),
    "checkpointing": Setting(checkpointing=True),
}


class Training:
    """A model with its adapter, loss and optimiser; :meth:`iteration` trains once on random data."""

    def __init__(self, config: Sam3Config, device: torch.device, setting: Setting) -> None:
        torch.manual_seed(SEED)
        with device:
            sam = Sam3Model(config)
        sam.eval()  # as a model that was loaded: no dropout
        if setting.checkpointing:
            enable_checkpointing(sam)
        model = adapt(sam, "lora", Lora(rank=16), train_text=False, train_semantic=False)
        self.net = PromptedSam(model, build_tokenizer(VOCABULARY))
        self.criterion = SetLoss()
        self.trained = [p for p in self.net.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(self.trained, lr=1e-4)
        size = int(config.vision_config.backbone_config.image_size)
        self.images = torch.randn(BATCH, 3, size, size, device=device)
        self.image_of_row = torch.arange(BATCH, device=device).repeat_interleave(setting.prompts)
        self.prompts = list(VOCABULARY[: setting.prompts]) * BATCH
        self.targets = [
            random_target(OBJECTS if row % setting.prompts == 0 else 0, size, device)
            for row in range(len(self.prompts))
        ]

    def iteration(self) -> Tensor:
        """Forward, loss, backward, update; the loss."""
        with torch.autocast(self.images.device.type, torch.bfloat16):
            outputs = self.net(self.images, self.image_of_row, self.prompts)
            loss, _ = self.criterion(outputs, self.targets)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        return loss.detach()


def random_target(objects: int, size: int, device: torch.device) -> RowTarget:
    """Rectangles somewhere in the image: boxes [N, 4] and masks [N, size, size]."""
    centre, extent = torch.rand(2, objects, 2, device=device)
    boxes = torch.cat([centre - extent / 8, centre + extent / 8], dim=-1).clamp(0, 1)
    at = (torch.arange(size, device=device) + 0.5) / size
    columns = (at >= boxes[:, None, 0]) & (at < boxes[:, None, 2])
    rows = (at >= boxes[:, None, 1]) & (at < boxes[:, None, 3])
    return RowTarget(boxes, rows[:, :, None] & columns[:, None, :])


def measure(
    config: Sam3Config, device: torch.device, setting: Setting, *, iterations: int, warmup: int
) -> dict[str, float]:
    """Median seconds per iteration, its spread, and (on a GPU) the largest allocated memory in GiB."""
    on_gpu = device.type == "cuda"
    synchronise = torch.cuda.synchronize if on_gpu else contextlib.nullcontext
    if on_gpu:
        gc.collect()  # hooks tie the model before this one into cycles
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    training = Training(config, device, setting)
    seconds = []
    for number in range(warmup + iterations):
        synchronise()
        start = time.perf_counter()
        loss = training.iteration()
        synchronise()
        if number >= warmup:
            seconds.append(time.perf_counter() - start)
    if not loss.isfinite():
        raise RuntimeError("The loss is not finite: these figures would not be those of a training.")
    figures = {
        "seconds_per_iteration": statistics.median(seconds),
        "seconds_per_iteration.std": statistics.pstdev(seconds),
        "million_parameters": sum(p.numel() for p in training.net.parameters()) / 1e6,
        "million_trained": sum(p.numel() for p in training.trained) / 1e6,
    }
    if on_gpu:
        figures["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        figures["reserved_gib"] = torch.cuda.max_memory_reserved() / 2**30
    return figures


def run(args: argparse.Namespace, config: Sam3Config, device: torch.device) -> dict[str, float]:
    """Figures of all settings; names of the first have no prefix."""
    iterations, warmup = (3, 2) if args.quick else (20, 5)
    figures: dict[str, float] = {}
    for name, setting in SETTINGS.items():
        found = measure(config, device, setting, iterations=iterations, warmup=warmup)
        figures |= {f"{name}.{key}" if name else key: value for key, value in found.items()}
    figures["ratio_5_to_1"] = figures["five_prompts.seconds_per_iteration"] / figures["seconds_per_iteration"]
    return figures


def main() -> None:
    args = harness.arguments(__doc__ or "").parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("sam3_full_gpu measures a CUDA GPU, and torch finds none here.")
    start = time.perf_counter()
    torch.set_float32_matmul_precision("high")
    figures = run(args, Sam3Config(), torch.device("cuda"))
    harness.publish(
        args,
        "sam3_full_gpu",
        figures,
        command="python -m benchmarks.sam3_full_gpu",
        seeds=[SEED],
        minutes=(time.perf_counter() - start) / 60,
        notes=(
            f"SAM 3 from its configuration with random weights, LoRA attention_mlp r16, 1008 px, batch "
            f"{BATCH}, {OBJECTS} objects per image, one prompt each (five_prompts: five, four of them "
            "negatives), masks supervised at 12,544 points, float32 weights under bf16 autocast, TF32 "
            "allowed; data already on the GPU. peak_gib is what tensors occupied, reserved_gib what the "
            "allocator held. checkpointing recomputes the vision encoder."
        ),
    )


if __name__ == "__main__":
    main()
