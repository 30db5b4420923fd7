"""Images per second of the loader, against the plain way to load COCO instances.

The plain way decodes each image with PIL and each object's mask to a plane of its own with
pycocotools' ``annToMask``, cuts the window out of all of them and augments them one by one. Both
ways make the same samples in the same order, from the same windows and seeds, with the same
augmentation, in one single-threaded process; they are timed in turns, in processor time.

    python -m benchmarks.loader [--quick] [--out FILE]
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pycocotools.coco import COCO

from benchmarks import harness
from maskwell.data.coco import CocoSource
from maskwell.data.dataset import SampleDataset
from maskwell.data.instances import InstanceMasks
from maskwell.data.sample import InputSpec, Sample, collate
from maskwell.data.sampler import TrainSampler
from maskwell.data.source import Record, Split, Window
from maskwell.data.synthetic import cached_cells
from maskwell.data.transforms import Augmentation

SEED = 0
BATCH = 8
SPEC = InputSpec("square", 128, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""The input of the small SAM 3 base."""


class PlainSource(CocoSource):
    """The plain way to read a sample; windows and everything after reading are the loader's own."""

    def setup(self) -> None:
        super().setup()
        with contextlib.redirect_stdout(io.StringIO()):
            self.coco = COCO(str(self.layout.files["train"]))

    def read(self, split: Split, index: int, epoch: int, window: Window | None) -> Record:
        entry = self.index[split][index]
        pixels = np.asarray(Image.open(entry.path).convert("RGB"))
        height, width = pixels.shape[:2]
        x, y, w, h = window or (0, 0, width, height)
        annotations = self.coco.imgToAnns[entry.image_id]
        whole = [self.coco.annToMask(annotation) for annotation in annotations]
        cut = [mask[y : y + h, x : x + w] for mask in whole]
        inside = [i for i, mask in enumerate(cut) if mask.any()]
        planes = np.stack([cut[i] for i in inside]) if inside else np.zeros((0, h, w), np.uint8)
        masks = InstanceMasks(len(inside), planes=planes) if inside else InstanceMasks.from_planes(planes)
        area = masks.areas()
        return Record(
            image=np.ascontiguousarray(pixels[y : y + h, x : x + w]),
            boxes=masks.boxes(),
            labels=entry.labels[inside],
            area=area,
            iscrowd=entry.iscrowd[inside],
            visible=area / np.array([whole[i].sum() for i in inside], np.float32).clip(1),
            image_id=entry.image_id,
            file_name=entry.file_name,
            file_size=(height, width),
            window=(x, y, w, h),
            masks=masks,
        )


def dataset(source: CocoSource, crop: int | None) -> SampleDataset:
    """Augmented training samples for the small base."""
    source.setup()
    return SampleDataset(source, "train", SPEC, SEED, augment=Augmentation(), crop=crop)


def check_equal(ours: Sample, plain: Sample) -> None:
    """Both ways must do the same work."""
    assert ours.masks is not None and plain.masks is not None
    assert ours.image.equal(plain.image) and ours.masks.equal(plain.masks) and ours.labels.equal(plain.labels)


def measure(root: Path, crop: int | None, images: int, repeats: int) -> dict[str, float]:
    """Images per second of processor time of both ways over the same samples, and their ratio."""
    ours, plain = dataset(CocoSource(str(root)), crop), dataset(PlainSource(str(root)), crop)
    batches = list(TrainSampler(len(ours), BATCH, SEED))[: images // BATCH]
    for key in batches[0]:
        check_equal(ours[key], plain[key])

    def epoch(source: SampleDataset) -> Callable[[], None]:
        def load() -> None:
            for keys in batches:
                collate([source[key] for key in keys])

        return load

    timed = harness.paired(epoch(plain), epoch(ours), repeats=repeats, clock=time.process_time)
    count = sum(len(keys) for keys in batches)
    return {
        "images_per_second": count / float(np.median(timed.second)),
        "plain_images_per_second": count / float(np.median(timed.first)),
        "speedup": timed.ratio,
        "speedup.std": timed.spread,
    }


def main() -> None:
    """Measure every data set that is at hand, print the table and write the figures."""
    args = harness.arguments(__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    images, repeats = (32, 2) if args.quick else (128, 5)
    cells: list[tuple[str, Path, int | None]] = [("cells", cached_cells(), None)]
    nuclei = harness.real_data("dsb2018")
    if nuclei is None:
        print("dsb2018 is left out: MASKWELL_DATA is not set.")
    else:
        cells += [("dsb2018_crop128", nuclei, 128), ("dsb2018_whole", nuclei, None)]
    figures = {name: measure(root, crop, images, repeats) for name, root, crop in cells}
    harness.print_table(
        "Loader, images per second in one process",
        ["data", "ours", "plain", "speedup"],
        [
            [name, found["images_per_second"], found["plain_images_per_second"], found["speedup"]]
            for name, found in figures.items()
        ],
    )
    harness.publish(
        args,
        "loader",
        {"speedup": min(found["speedup"] for found in figures.values()), **figures},
        command=harness.command_line("benchmarks.loader"),
        seeds=[SEED],
        minutes=(time.perf_counter() - start) / 60,
        notes=(
            "speedup is the smallest of the data sets' medians. Plain: PIL, pycocotools annToMask for every "
            "object, a plane per object through the same augmentation. One thread, no workers, files in the "
            f"page cache, processor time, {images} samples per turn, input 128 x 128."
        ),
    )


if __name__ == "__main__":
    main()
