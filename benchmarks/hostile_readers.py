"""The readers that hostile input goes through: how an input is written, and everything that reads it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from benchmarks import hostile
from benchmarks.hostile import put

BUILT = ("model", "data", "optim", "trainer", "callbacks", "logger", "health")
"""Parts of a configuration that objects are built from."""


class LetThrough(Exception):
    """A configuration with a forbidden ``_target_`` was accepted."""


@dataclass(frozen=True)
class Reader:
    """``write(rng, folder, mutated)``: valid with one mutation, or rubbish; ``read(folder)``: all of it."""

    write: Callable[[random.Random, Path, bool], None]
    read: Callable[[Path], None]


def load() -> None:
    """Import what the readers need, before a worker's memory is limited."""
    from PIL import Image

    import maskwell.app
    import maskwell.callbacks.lr_monitor
    import maskwell.data.convert
    import maskwell.data.kinds
    import maskwell.models.detr.module  # noqa: F401
    from maskwell import build, runs

    Image.init()
    cfg = runs.parse(yaml.safe_dump(hostile.config()), "the example")
    for group in ("model", "data", "optim", "trainer", "callbacks"):
        build.check_node(cfg[group], group)  # imports what the libraries import late


def _write_coco(rng: random.Random, folder: Path, mutated: bool) -> None:
    for name in ("1.png", "2.png"):
        put(folder, f"images/{name}", hostile.image_bytes(rng))
    content = hostile.coco(rng)
    kind = rng.random()
    if not mutated:
        text: bytes | str = hostile.rubbish(rng) if kind < 0.5 else hostile.json_text(_rubbish_coco(rng))
    elif kind < 0.75:
        text = hostile.json_text(hostile.mutate(rng, content))
    elif kind < 0.9:
        text = hostile.mutate_bytes(rng, hostile.json_text(content).encode())
    else:
        text = hostile.json_text(content)
        put(folder, "images/1.png", hostile.mutate_bytes(rng, hostile.image_bytes(rng)))
    put(folder, "train.json", text)


def _rubbish_coco(rng: random.Random) -> dict[str, Any]:
    """The right lists with the wrong things in them."""
    keys = ("id", "image_id", "category_id", "file_name", "name", "bbox", "segmentation", "height", "width")

    def entry() -> Any:
        values = (*hostile.HOSTILE, 1, 1, 1, "1.png")
        return {key: rng.choice(values) for key in rng.sample(keys, rng.randrange(len(keys)))}

    return {
        name: [
            entry() if rng.random() < 0.9 else rng.choice(hostile.HOSTILE) for _ in range(rng.randrange(4))
        ]
        for name in ("images", "annotations", "categories")
    }


def _read_coco(folder: Path) -> None:
    from maskwell.data import checks
    from maskwell.data.coco import CocoSource
    from maskwell.data.semantic import CocoSemanticSource
    from maskwell.errors import UserError

    refused: list[UserError] = []
    for kind in (CocoSource, CocoSemanticSource):
        try:
            source = kind(str(folder), val_split=0.0, test_split=0.0)
            source.setup()
            _read_all(source)
        except UserError as error:
            refused.append(error)
    checks.check_dataset(folder, fast=False)
    if refused:
        raise refused[0]


def _read_all(source: Any) -> None:
    from maskwell.data.source import SPLITS

    source.fingerprint()
    for split in SPLITS:
        for index in range(source.size(split)):
            height, width = source.image_size(split, index)
            source.objects(split, index)
            source.read(split, index, 0, None)
            source.read(split, index, 0, (0, 0, min(width, 5), min(height, 5)))


def _write_voc(rng: random.Random, folder: Path, mutated: bool) -> None:
    put(folder, "JPEGImages/1.png", hostile.image_bytes(rng))
    lists = "1\n"
    text: bytes = hostile.voc().encode()
    if mutated and rng.random() < 0.15:
        lists = rng.choice(("../1\n", "1 1\n\n", "\0\n", "/etc/passwd\n", "1\n1\n", "é\n"))
    elif mutated and rng.random() < 0.5:
        old = rng.choice(("cell", ">2<", ">9<", "1.png", ">0<", f">{hostile.SIDE}<"))
        new = str(rng.choice(hostile.HOSTILE)).replace("&", "&amp;").replace("<", "&lt;")
        text = hostile.voc().replace(old, f">{new}<" if old[0] == ">" else new).encode("utf-8", "replace")
    elif mutated:
        text = hostile.mutate_bytes(rng, text)
    else:
        text = hostile.rubbish(rng)
    put(folder, "Annotations/1.xml", text)
    put(folder, "ImageSets/Main/train.txt", lists)


def _write_yolo(rng: random.Random, folder: Path, mutated: bool) -> None:
    put(folder, "images/train/1.png", hostile.image_bytes(rng))
    names: dict[str, Any] = {"path": ".", "train": "images/train", "names": {0: "cell", 1: "fibre"}}
    labels: bytes = b"0 0.5 0.5 0.25 0.25\n1 0.1 0.1 0.9 0.1 0.9 0.9\n"
    described: bytes = yaml.safe_dump(names).encode()
    kind = rng.random()
    if not mutated:
        labels, described = (
            (hostile.rubbish(rng), described) if kind < 0.5 else (labels, hostile.rubbish(rng))
        )
    elif kind < 0.4:
        words = labels.decode().split(" ")
        words[rng.randrange(len(words))] = str(rng.choice(hostile.HOSTILE))
        labels = " ".join(words).encode("utf-8", "replace")
    elif kind < 0.6:
        labels = hostile.mutate_bytes(rng, labels)
    elif kind < 0.9:
        described = yaml.safe_dump(hostile.mutate(rng, names), allow_unicode=True).encode()
    else:
        described = hostile.mutate_bytes(rng, described)
    put(folder, "labels/train/1.txt", labels)
    put(folder, "data.yaml", described)


def _write_masks(rng: random.Random, folder: Path, mutated: bool) -> None:
    """One mask per object, and beside them an index mask with its list of classes."""
    image, mask = hostile.image_bytes(rng), hostile.image_bytes(rng, mode="L")
    classes: bytes | str = hostile.json_text({"classes": [str(i) for i in range(255)], "ignore_index": 255})
    kind = rng.random()
    if not mutated:
        mask = hostile.rubbish(rng)
    elif kind < 0.4:
        mask = hostile.mutate_bytes(rng, mask)
    elif kind < 0.6:
        image = hostile.mutate_bytes(rng, image)
    else:
        tree = {"classes": ["a", "b"], "ignore_index": 255}
        classes = hostile.json_text(hostile.mutate(rng, tree))
    put(folder, "objects/one/images/1.png", image)
    put(folder, "objects/one/masks/1.png", mask)
    put(folder, "index/images/train/1.png", image)
    put(folder, "index/masks/train/1.png", mask)
    put(folder, "index/classes.json", classes)


def _read_masks(folder: Path) -> None:
    from maskwell.data.semantic import SemanticSource
    from maskwell.errors import UserError

    refused: list[UserError] = []
    try:
        source = SemanticSource(str(folder / "index"), val_split=0.0, test_split=0.0)
        source.setup()
        assert source.categories is not None
        _read_all(source)
    except UserError as error:
        refused.append(error)
    _convert("masks")(folder / "objects")
    if refused:
        raise refused[0]


def _convert(form: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        from maskwell.data.convert import convert

        convert(form, folder, folder.parent / "out")

    return read


def _write_image(rng: random.Random, folder: Path, mutated: bool) -> None:
    form, mode = rng.choice(
        (("PNG", "RGB"), ("PNG", "RGBA"), ("JPEG", "RGB"), ("TIFF", "RGB"), ("BMP", "RGB"), ("GIF", "L"))
    )
    data = hostile.image_bytes(rng, form, mode)
    data = (
        hostile.mutate_bytes(rng, data)
        if mutated
        else rng.choice((hostile.rubbish, hostile.claims_much))(rng)
    )
    put(folder, f"1.{form.lower()}", data)


def _read_image(folder: Path) -> None:
    from maskwell.data.images import image_size, read_image

    [path] = folder.iterdir()
    image = read_image(path)
    assert image.shape[:2] == image_size(path)


def _write_config(rng: random.Random, folder: Path, mutated: bool) -> None:
    tree = hostile.config()
    if not mutated:
        put(folder, "config.yaml", hostile.rubbish(rng))
    elif rng.random() < 0.5:
        _place_target(rng, tree)
        put(folder, "config.yaml", yaml.safe_dump(tree))
    elif rng.random() < 0.7:
        put(folder, "config.yaml", yaml.safe_dump(hostile.mutate(rng, tree, hostile.TARGETS)))
    else:
        put(folder, "config.yaml", hostile.mutate_bytes(rng, yaml.safe_dump(tree).encode()))


def _place_target(rng: random.Random, tree: dict[str, Any]) -> None:
    """A forbidden target somewhere in the configuration."""
    evil = {"_target_": rng.choice(hostile.TARGETS), "command": f"touch {hostile.CANARY}"}
    group = rng.choice(("model", "data", "optim", "trainer", "callbacks"))
    kind = rng.randrange(3)
    if kind == 0:
        tree[group]["_target_"] = evil["_target_"]
    elif kind == 1:
        tree[group][rng.choice(("base", "augment", "lr", "callbacks", "mine"))] = evil
    else:
        tree[group]["mine"] = [{"a": [evil]}]


def _read_config(folder: Path) -> None:
    """As a run's configuration, and as one stored in a checkpoint."""
    from maskwell import build, checkpoint, restore, runs
    from maskwell.errors import UserError

    try:
        text = (folder / "config.yaml").read_text(encoding="utf-8", errors="surrogateescape")
        header = {checkpoint.HEADER: {"config": text}}
        stored = restore.stored_config(header, folder / "x.ckpt")
    except UserError as error:
        stored, refused = None, error
    found = runs.load(folder)[0]
    if stored is None:
        raise refused
    for cfg in (stored, found):
        for group in BUILT:
            build.check_node(cfg.get(group), group)
        build.family(cfg)
        if named := targets(OmegaConf.to_container(cfg, resolve=False)).intersection(hostile.TARGETS):
            raise LetThrough(f"{sorted(named)} in {text}")


def targets(value: Any) -> set[str]:
    """What the ``_target_`` keys of nested mappings and lists name; as another value a name does nothing."""
    if isinstance(value, dict):
        own = value.get("_target_")
        return set().union({own} if isinstance(own, str) else (), *map(targets, value.values()))
    return set().union(*map(targets, value)) if isinstance(value, list) else set()


def _write_checkpoint(rng: random.Random, folder: Path, mutated: bool) -> None:
    import torch

    from maskwell import checkpoint

    content = {
        "state_dict": {"w": torch.zeros(3, 4)},
        "iteration": 3,
        "loops": {"fit_loop": {"epoch_loop.state_dict": {"_batches_that_stepped": 3}}},
        checkpoint.HEADER: {"format": 1, "family": "detr", "config": yaml.safe_dump(hostile.config())},
    }
    path = folder / "x.ckpt"
    if not mutated and rng.random() < 0.5:
        put(folder, "x.ckpt", hostile.rubbish(rng))
        return
    if not mutated:
        content["code"] = _Code(rng.choice(("os.system", "eval")))
    elif rng.random() < 0.5:
        tensors, content["state_dict"] = content["state_dict"], {}
        content = hostile.mutate(rng, content)
        content.setdefault("state_dict", tensors)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    if mutated and rng.random() < 0.5:
        path.write_bytes(hostile.mutate_bytes(rng, path.read_bytes()))


class _Code:
    """Pickles as a call."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __reduce__(self) -> Any:
        import os

        call = os.system if self.what == "os.system" else eval
        return call, (f"touch {hostile.CANARY}" if call is os.system else f"open('{hostile.CANARY}', 'w')",)


def _read_checkpoint(folder: Path) -> None:
    from maskwell import checkpoint, restore, session

    content = checkpoint.read(folder / "x.ckpt")
    restore.stored_config(content, folder / "x.ckpt")
    session.resumed(folder / "x.ckpt", "detr")


FORMS: dict[str, Reader] = {
    "checkpoint": Reader(_write_checkpoint, _read_checkpoint),
    "coco": Reader(_write_coco, _read_coco),
    "config": Reader(_write_config, _read_config),
    "image": Reader(_write_image, _read_image),
    "masks": Reader(_write_masks, _read_masks),
    "voc": Reader(_write_voc, _convert("voc")),
    "yolo": Reader(_write_yolo, _convert("yolo")),
}
