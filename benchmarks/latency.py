"""Time of one answer of the small base: one image at its native size, one prompt.

The whole way is ``maskwell.api.Model.predict`` on a PNG file: decoding, resizing and normalising, the
network, and suppression, masks at image size and their run lengths. Text is encoded once for each new
phrase and kept; ``new_phrase_ms`` is the time with a phrase that was not asked before. Target: 150 ms on two
cores.

    python -m benchmarks.latency
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import torch
from PIL import Image

from benchmarks import harness
from maskwell.api import Model
from maskwell.data.phrases import VOCABULARY
from maskwell.data.scenes import generate_scene
from maskwell.data.transforms import network_image
from maskwell.models.sam_lora.module import SamLora

PHRASE = "cell nucleus"
SEED = 2  # of the scene: a series that no training uses
WARM_UP = 10


def milliseconds(call: Callable[[], object], repeats: int) -> dict[str, float]:
    """Median and 90th percentile of the wall time of a call, after some that do not count."""
    times = []
    for number in range(WARM_UP + repeats):
        started = time.perf_counter()
        call()
        if number >= WARM_UP:
            times.append(1000 * (time.perf_counter() - started))
    return {"median": statistics.median(times), "p90": statistics.quantiles(times, n=10)[-1]}


def measure(task: SamLora, repeats: int) -> dict[str, float]:
    """Figures in ms at the present number of threads."""
    model = Model(task)
    side = task.input_spec.size
    assert side is not None
    scene = generate_scene(SEED, 0, size=side, min_objects=8, max_objects=8)
    prepared = network_image(scene.image, task.input_spec)[None]
    first = torch.zeros(1, dtype=torch.int64)
    phrases = (f"{one} {two}" for one, two in itertools.permutations(VOCABULARY, 2))
    task.eval()

    def network() -> None:
        with torch.inference_mode():
            task.net(prepared, first, [PHRASE])

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "scene.png"
        Image.fromarray(scene.image).save(file)
        whole = milliseconds(lambda: model.predict(file, PHRASE), repeats)
        new = milliseconds(lambda: model.predict(file, next(phrases)), repeats)
    alone = milliseconds(network, repeats)
    return {
        "latency_ms": whole["median"],
        "latency_ms.p90": whole["p90"],
        "new_phrase_ms": new["median"],
        "network_ms": alone["median"],
        "network_ms.p90": alone["p90"],
    }


def main() -> None:
    parser = harness.arguments(__doc__ or "")
    parser.add_argument("--base", default="tiny", help="another base: a folder in Hub layout")
    args: argparse.Namespace = parser.parse_args()
    started = time.monotonic()
    task = SamLora(args.base)
    figures: dict[str, float] = {}
    for threads in (2, 1):
        if threads <= harness.usable_cores():
            harness.use_cores(threads)
            cv2.setNumThreads(threads)
            prefix = "" if threads == 2 else "one_thread."
            measured = measure(task, 20 if args.quick else 100)
            figures |= {f"{prefix}{name}": value for name, value in measured.items()}
    harness.publish(
        args,
        "latency",
        figures,
        command="python -m benchmarks.latency",
        seeds=[SEED],
        minutes=(time.monotonic() - started) / 60,
        notes=(
            f"One image of {task.input_spec.size} px with eight objects, one prompt, two threads "
            "(one_thread: one); medians. latency_ms: PNG decoding, resizing, network, suppression and masks; "
            "network_ms: the network alone, phrase known; new_phrase_ms: with a phrase that has to be "
            "encoded."
        ),
    )


if __name__ == "__main__":
    main()
