"""A small training of every family on the same generated cells: what ddp, resume and overhead measure."""

from __future__ import annotations

from pathlib import Path

FAMILIES = ("sam_lora", "s4gan", "points", "detr")

SIDE = 64
"""Pixels of the images' sides."""

_QUIET = ("callbacks.panels=null", "callbacks.progress=null", "logger=csv", "trainer=cpu")

_MODELS = {
    "sam_lora": ("model.base=scratch", f"model.image_size={SIDE}", "model.lora.rank=2"),
    "s4gan": ("model.generator.norm=group", "model.generator.width=16", "model.discriminator.ndf=8"),
    "points": (f"model.image_size={SIDE}", "model.hidden=16", "model.encoder.width=16", "model.states=4"),
    "detr": (f"model.image_size={SIDE}", "model.queries=20"),
}


def write_data(root: Path, train: int = 16, val: int = 5) -> Path:
    """A COCO folder of generated cells, made once."""
    from maskwell.data.synthetic import write_cells

    if not root.exists():
        write_cells(root, seed=0, counts=(train, val, 2), size=SIDE)
    return root


def overrides(family: str, root: Path, batch_size: int, *, augment: bool) -> list[str]:
    """Of ``train.py`` on the folder that :func:`write_data` made, without base evaluation and test.

    With ``augment`` everything random is on (augmentation, dropout, noise); without it a step is a
    function of its batch alone, whichever process computes it.
    """
    kind = ["data=semi", "data.coco=true", "data.labelled=0.5"] if family == "s4gan" else ["data=coco"]
    data = [*kind, f"data.root={root}", "data.near_duplicates=false", f"data.batch_size={batch_size}"]
    random = _RANDOM[family] if augment else ["data.augment=null", *_STILL[family]]
    return [
        f"model={family}",
        *_MODELS[family],
        *data,
        *random,
        *_QUIET,
        *([] if family != "s4gan" else ["callbacks.confusion=null", "callbacks.iteration_report=null"]),
        "evaluate_base=false",
        "test=false",
    ]


_RANDOM: dict[str, list[str]] = {
    "sam_lora": ["model.lora.dropout=0.1"],
    "s4gan": ["model.generator.dropout=0.1", "model.recipe.st_start=2", "model.recipe.pixel_threshold=0.3"],
    "points": ["model.noise.drop=0.1"],
    "detr": [],  # noise of its denoising queries
}

_STILL: dict[str, list[str]] = {
    "sam_lora": ["data.rehearsal=null"],
    "s4gan": [
        "model.generator.dropout=0",
        "model.recipe.strong_views=false",
        "model.recipe.cutmix=0",
        "model.recipe.st_start=1",
        "model.recipe.pixel_threshold=0.3",
    ],
    "points": [],
    "detr": ["model.architecture=detr"],  # without noise
}
