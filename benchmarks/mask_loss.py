"""Memory of the mask loss at full resolution: every pixel (dense) against sampled points.

One image with 20 objects as SAM 3 meets it: masks of 1008 px, mask logits of 288 x 288. Forward and
backward of the whole set loss; each measurement is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from typing import Any, Literal

import psutil
import torch
import torch.nn.functional as F

from benchmarks import harness
from maskwell.models.sam_lora.loss import RowTarget, SetLoss
from maskwell.models.sam_lora.net import PromptOutputs

SEED = 0
SIZE, LOGITS, OBJECTS, LAYERS = 1008, 288, 20, 6

Mode = Literal["dense", "sampled"]


def make_inputs(size: int, objects: int) -> tuple[PromptOutputs, list[RowTarget]]:
    """Ellipses as targets; one query for each object, its logits a blurred and moved ellipse."""
    generator = torch.Generator().manual_seed(SEED)
    centre = 0.15 + 0.7 * torch.rand(objects, 2, generator=generator)
    extent = 0.05 + 0.25 * torch.rand(objects, 2, generator=generator)
    boxes = torch.cat([centre - extent / 2, centre + extent / 2], dim=-1)
    moved = centre + 0.02 * torch.randn(objects, 2, generator=generator)
    side = LOGITS * size // SIZE
    logits = 6 * (1 - _ellipse_distance(moved, extent, side))
    noise = torch.randn(objects, 1, side // 8, side // 8, generator=generator)
    logits += F.interpolate(noise, (side, side), mode="bilinear")[:, 0]
    masks = torch.stack(
        [_ellipse_distance(c[None], e[None], size)[0] < 1 for c, e in zip(centre, extent, strict=True)]
    )
    outputs = PromptOutputs(
        logits=torch.zeros(LAYERS, 1, objects).requires_grad_(),
        boxes=boxes.expand(LAYERS, 1, -1, -1).clone().requires_grad_(),
        presence=torch.zeros(LAYERS, 1).requires_grad_(),
        masks=logits.clamp(-12, 12)[None].requires_grad_(),
        semantic=torch.zeros(1, side, side),
    )
    return outputs, [RowTarget(boxes, masks)]


def _ellipse_distance(centre: torch.Tensor, extent: torch.Tensor, side: int) -> torch.Tensor:
    """[N, side, side]: below 1 inside the ellipse, growing with the distance from its centre."""
    at = (torch.arange(side) + 0.5) / side
    x = ((at - centre[:, :1]) / (extent[:, :1] / 2)).square()
    y = ((at - centre[:, 1:]) / (extent[:, 1:] / 2)).square()
    return (y[:, :, None] + x[:, None, :]).sqrt()


def loss_and_gradient(mode: Mode, outputs: PromptOutputs, targets: list[RowTarget]) -> dict[str, float]:
    """Value of both mask terms, after a backward pass through the whole loss."""
    torch.manual_seed(SEED)
    loss, parts = SetLoss(mask_supervision=mode)(outputs, targets)
    loss.backward()
    return {name: parts[name].item() for name in ("loss_mask", "loss_dice")}


def measure(mode: Mode) -> dict[str, float]:
    """Growth of this process's peak memory over its inputs, in MiB, and the values of both terms."""
    torch.set_num_threads(1)
    warm_up = make_inputs(SIZE // 8, 2)
    loss_and_gradient(mode, *warm_up)  # code and threads are loaded before anything is measured
    inputs = make_inputs(SIZE, OBJECTS)
    # What start-up has used and given back would hide the growth: fill memory up to the peak so far.
    gap = _peak_bytes() - psutil.Process().memory_info().rss
    ballast = torch.ones(max(gap, 0), dtype=torch.uint8)
    before = _peak_bytes()
    values = loss_and_gradient(mode, *inputs)
    grown = _peak_bytes() - before
    del ballast
    return {"mib": grown / 2**20, **values}


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def in_own_process(mode: Mode) -> dict[str, float]:
    """:func:`measure` in a fresh interpreter."""
    command = [sys.executable, "-m", "benchmarks.mask_loss", "--measure", mode]
    # glibc would keep freed blocks of up to 32 MiB and serve later ones from them, unseen by the kernel.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    output = subprocess.run(
        command, cwd=harness.ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    return result


def arguments() -> argparse.Namespace:
    parser = harness.arguments(__doc__ or "")
    parser.add_argument("--measure", choices=("dense", "sampled"), help="one measurement, printed as JSON")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.measure:
        print(json.dumps(measure(args.measure)))
        return
    start = time.perf_counter()
    harness.use_cores(1)
    repeats = 1 if args.quick else 3
    runs: dict[str, list[dict[str, float]]] = {"dense": [], "sampled": []}
    for _ in range(repeats):
        runs["dense"].append(in_own_process("dense"))
        runs["sampled"].append(in_own_process("sampled"))
    ratios = [d["mib"] / s["mib"] for d, s in zip(runs["dense"], runs["sampled"], strict=True)]
    figures: dict[str, Any] = {"memory_ratio": statistics.median(ratios)}
    if repeats > 1:
        figures["memory_ratio.std"] = statistics.stdev(ratios)
    for mode, results in runs.items():
        names = ("mib", "loss_mask", "loss_dice")
        figures[mode] = {name: statistics.median(r[name] for r in results) for name in names}
    for name in ("loss_mask", "loss_dice"):
        figures[f"{name}.sampled_to_dense"] = figures["sampled"][name] / figures["dense"][name]
    harness.publish(
        args,
        "mask_loss",
        figures,
        command="python -m benchmarks.mask_loss",
        seeds=[SEED],
        minutes=(time.perf_counter() - start) / 60,
        notes=(
            f"{OBJECTS} matched objects, masks {SIZE} x {SIZE}, logits {LOGITS} x {LOGITS}, 12,544 points; "
            "forward and backward of the whole set loss in float32 on a CPU. Peak resident memory of a fresh "
            "process above its inputs (the kernel's ru_maxrss, memory filled up to the earlier peak first, "
            "freed blocks returned at once): what the machine must have, temporary buffers included, which "
            "a count of the tensors saved for the backward pass would miss. Three quarters of the points are "
            "drawn where the mask is uncertain: the sampled focal term is that of the border and no estimate "
            "of the mean over all pixels."
        ),
    )


if __name__ == "__main__":
    main()
