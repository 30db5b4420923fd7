"""Files that are not what they say: valid small ones with one mutation, and plain rubbish, for every reader.

What :mod:`benchmarks.fuzz` feeds by the thousand and the tests in part. Everything is drawn from a
``random.Random``, so that a number names an input.
"""

from __future__ import annotations

import copy
import io
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

SIDE = 16
"""Pixels of the images' sides: what is read is small, only what it claims is not."""

CANARY = "maskwell_canary"
"""Name of the file that code run from an input would leave beside it."""

HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 0.5, 1e308, -1e308, math.inf, -math.inf, math.nan, 2**31, 2**63, 10**30,
    "", " ", "\0", "a" * 5000, "../../../../etc/passwd", "/etc/passwd", "C:\\x", "~/x", "${oc.env:HOME}",
    "é\u202e", [], {}, [[]], [None], [[None]], [0], [[0, 0, 1, 1]], [[math.nan] * 6],
    [[1e9, 1e9, -1e9, 1e9, 0, -1e9]], {"size": [0, 0], "counts": ""}, {"size": [10**6, 10**6], "counts": "1"},
    {"size": [16, 16], "counts": [2**40]}, {"size": [16, 16], "counts": "~~~~"}, {"counts": "x"},
    {"size": [-1, 16], "counts": [0]}, {"a": {"b": {}}},
)  # fmt: skip
"""Values for any place of a structure."""

TARGETS = (
    "os.system", "subprocess.run", "builtins.exec", "maskwell.data.folders.shutil.rmtree",
    "maskwell.callbacks.run_record.subprocess.run", "maskwell.sweep.trial_process.TrialProcess",
    "lightning.pytorch.LightningModule.load_from_checkpoint", "torch.hub.load", "posix.system",
    "maskwell.checkpoint.write",
)  # fmt: skip
"""What a configuration must not build."""


def image_bytes(rng: random.Random, form: str = "PNG", mode: str = "RGB") -> bytes:
    """A small image file."""
    channels = {"RGB": 3, "L": 1, "RGBA": 4}[mode]
    noise = np.frombuffer(rng.randbytes(SIDE * SIDE * channels), np.uint8)
    array = noise.reshape((SIDE, SIDE) if channels == 1 else (SIDE, SIDE, channels))
    file = io.BytesIO()
    Image.fromarray(array, mode).save(file, form)
    return file.getvalue()


def coco(rng: random.Random) -> dict[str, Any]:
    """A valid COCO file of two images with polygons, run lengths, boxes and keypoints."""
    square = np.zeros((SIDE, SIDE), np.uint8, order="F")
    square[3:9, 2:7] = 1
    encoded = coco_mask.encode(square)
    compressed = {"size": [SIDE, SIDE], "counts": encoded["counts"].decode("ascii")}
    plain = {"size": [SIDE, SIDE], "counts": [35, 6, SIDE * SIDE - 41]}
    outline = [[2, 2, 9, 2, 9, 8.5, 2, 8]]
    annotations = [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 2, 7, 6], "segmentation": outline, "area": 42},
        {"id": 2, "image_id": 1, "category_id": 2, "segmentation": compressed, "iscrowd": 0},
        {"id": 3, "image_id": 2, "category_id": 1, "segmentation": plain, "iscrowd": rng.randint(0, 1)},
        {"id": 4, "image_id": 2, "category_id": 2, "bbox": [1, 1, 5, 5], "keypoints": [3, 3, 2]},
    ]
    images = [
        {"id": number, "file_name": f"{number}.png", "height": SIDE, "width": SIDE, "group": "a"}
        for number in (1, 2)
    ]
    categories = [{"id": 1, "name": "cell", "supercategory": "x"}, {"id": 2, "name": "fibre"}]
    return {"images": images, "annotations": annotations, "categories": categories, "info": {}}


def voc() -> str:
    """A valid Pascal VOC file."""
    box = "<bndbox><xmin>2</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    return (
        f"<annotation><filename>1.png</filename><size><width>{SIDE}</width><height>{SIDE}</height><depth>3</depth>"
        f"</size><object><name>cell</name><difficult>0</difficult>{box}</object></annotation>"
    )


def bomb() -> str:
    """XML entities that multiply."""
    entities = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10 if i else "ha"}">' for i in range(12))
    return f"<!DOCTYPE annotation [{entities}]><annotation><filename>&e11;</filename></annotation>"


def yaml_bomb(key: str) -> str:
    """YAML aliases that multiply."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    return "\n".join([*lines, f"{key}: *a11"]) + "\n"


def config(run_dir: str = "runs/x") -> dict[str, Any]:
    """A configuration as it lies in a checkpoint, without its defaults."""
    return {
        "model": {
            "_target_": "maskwell.models.detr.module.Detr",
            "base": "small",
            "recipe": {
                "_target_": "maskwell.models.detr.recipe.Recipe",
                "optim": {"_target_": "maskwell.models.optimisation.AdamWCosine", "lr": 1e-3},
            },
        },
        "data": {"_target_": "maskwell.data.kinds.cells", "num_train": 2, "augment": None},
        "optim": {"_target_": "maskwell.models.optimisation.AdamWCosine", "lr": 1e-3},
        "trainer": {"_target_": "lightning.Trainer", "max_epochs": 1},
        "callbacks": {"lr": {"_target_": "maskwell.callbacks.lr_monitor.LRMonitor"}},
        "paths": {"runs": "runs", "run_dir": run_dir},
        "seed": 0,
    }


def mutate(rng: random.Random, value: Any, extra: tuple[Any, ...] = ()) -> Any:
    """``value`` (nested dicts and lists) with one place changed, removed, doubled or wrapped."""
    changed = copy.deepcopy(value)
    holder, key = rng.choice(list(_places(changed)))
    kind = rng.randrange(5)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(holder[key]))
    elif kind == 2:
        holder[key] = [holder[key]]
    elif kind == 3 and isinstance(holder, dict):
        holder[rng.choice(["id", "", "\0", "_target_", "x" * 300])] = holder.pop(key)
    else:
        holder[key] = copy.deepcopy(rng.choice((*HOSTILE, *extra)))
    return changed


def _places(value: Any) -> Any:
    """(holder, key) of everything below ``value``."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in list(pairs):
        yield value, key
        yield from _places(child)


def mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    """``data`` with one run of bytes flipped, cut, doubled, inserted or replaced by an extreme."""
    if not data:
        return rng.randbytes(8)
    at, length = rng.randrange(len(data)), rng.choice((1, 1, 2, 4, 16))
    piece = data[at : at + length]
    return {
        0: lambda: data[:at] + bytes(b ^ (1 << rng.randrange(8)) for b in piece) + data[at + length :],
        1: lambda: data[:at],
        2: lambda: data[:at] + piece * rng.choice((2, 50)) + data[at + length :],
        3: lambda: data[:at] + rng.randbytes(length) + data[at:],
        4: lambda: data[:at] + rng.choice((b"\xff", b"\0", b"\x7f")) * len(piece) + data[at + length :],
        5: lambda: data[:at] + data[at + length :],
    }[rng.randrange(6)]()


def rubbish(rng: random.Random) -> bytes:
    """No file of any kind: noise, deep nesting, half a structure, a bomb."""
    depth = rng.choice((10, 2000, 100_000))
    choices: tuple[Callable[[], bytes], ...] = (
        lambda: rng.randbytes(rng.randrange(400)),
        lambda: b"[" * depth,
        lambda: b"[" * depth + b"]" * depth,
        lambda: b'{"images":' * depth,
        lambda: ("<a>" * depth).encode(),
        lambda: ("- " * min(depth, 2000) + "x").encode(),
        lambda: json.dumps(rng.choice(HOSTILE)).encode(),
        lambda: "\n".join(str(rng.choice(HOSTILE)) for _ in range(rng.randrange(9))).encode(),
        lambda: b"\xef\xbb\xbf" + rng.randbytes(20),
        lambda: b"",
        lambda: bomb().encode(),
        lambda: yaml_bomb(rng.choice(("names", "model", "train"))).encode(),
        lambda: claims_much(rng),
    )
    return rng.choice(choices)()


def claims_much(rng: random.Random) -> bytes:
    """An image file of a few bytes that says it has billions of pixels."""
    form = rng.choice(("PNG", "BMP", "TIFF"))
    data = bytearray(image_bytes(rng, form))
    places = {"PNG": (16, 20), "BMP": (18, 22), "TIFF": (0, 4)}[form]
    for place in places:
        data[place : place + 4] = rng.choice((b"\x7f\xff\xff\xff", b"\0\x01\0\0", b"\xff\xff\xff\x7f"))
    return bytes(data)


def json_text(value: Any) -> str:
    """As Python writes it: NaN and Infinity too, which readers meet."""
    return json.dumps(value)


def put(folder: Path, name: str, content: bytes | str) -> None:
    """Write a file, its folders too."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
