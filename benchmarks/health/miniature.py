"""The four families as trainings of seconds: small images of generated cells, the shipped small networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.health.catalogue import Family

SIZE = 128
"""Side of the images in their files, px: four cells each, more or less; the networks see them smaller."""
STATIC, MOVING = "static", "moving"
"""A fault that is there from the beginning, and one that begins behind a healthy prefix."""
PREFIX = (300, 380)
"""Steps among which a moving fault begins: the monitor's windows are full by then (32 against 256)."""

_SHARED = (
    "trainer=cpu",
    "logger=none",
    "health.preflight.seconds=120",  # whatever else the machine does: every run is measured alike
    "evaluate_base=false",
    "test=false",
    *(
        f"callbacks.{name}=null"
        for name in (
            "checkpoint",
            "adapter_checkpoint",
            "early_stopping",
            "lr_monitor",
            "panels",
            "run_record",
            "progress",
            "iteration_report",
            "confusion",
            "head_gradients",
            "point_panels",
            "point_report",
        )
    ),
)
_CELLS = (
    "data=cells",
    f"data.size={SIZE}",
    "data.num_val=16",
    "data.num_test=2",
    "data.crop=null",
    "data.augment=null",
    "data.num_workers=0",
    "data.batch_size=2",
    "data.rehearsal=null",
)


@dataclass(frozen=True)
class Miniature:
    """A family's training.

    ``overrides`` of ``train.py``; ``rate``: the key of the learning rate; ``lr``: its value here;
    ``steps`` of a run with a static fault, with a moving one, and of a healthy one.
    """

    family: Family
    overrides: tuple[str, ...]
    rate: str
    lr: float
    static_steps: int
    moving_steps: int
    healthy_steps: int

    @property
    def iterated(self) -> bool:
        """Whether the family counts its own iterations and brings labelled and unlabelled data."""
        return self.family == "s4gan"

    def command(
        self, seed: int, steps: int, images: int, evaluate_every: int, *more: str, folder: str = ""
    ) -> list[str]:
        """All overrides of a training of so many steps on so many images; ``folder`` of generated cells."""
        base = [*_SHARED, *self.overrides, f"{self.rate}={self.lr:g}", f"seed={seed}"]
        if self.iterated:
            length = [
                f"data.root={folder}",
                f"data.labelled={images // 2}",
                f"model.iterations={steps}",
                f"model.evaluate_every={evaluate_every}",
            ]
        else:
            length = [
                f"data.num_train={images}",
                f"trainer.max_steps={steps}",
                "trainer.max_epochs=-1",
                f"trainer.val_check_interval={evaluate_every}",
                "trainer.check_val_every_n_epoch=null",
            ]
        return [*base, *length, *more]


MINIATURES: dict[Family, Miniature] = {
    "points": Miniature(
        "points",
        (
            "model=points",
            *_CELLS,
            "model.image_size=64",
            "model.hidden=16",
            "model.encoder.width=16",
            "model.states=4",
            "model.own_share=0.0",
            "model.max_points=12",
            "model.min_distance=2.0",
            "model.noise.jitter=0.5",
        ),
        "optim.lr",
        1e-3,
        static_steps=400,
        moving_steps=640,
        healthy_steps=2800,
    ),
    "s4gan": Miniature(
        "s4gan",
        (
            "model=s4gan",
            "data=semi",
            "data.coco=true",
            "data.near_duplicates=false",
            "model.image_size=48",
            "data.augment=null",
            "data.num_workers=0",
            "data.batch_size=2",
            "model.generator.norm=group",
            "model.generator.width=16",
            "model.discriminator.ndf=4",
            "model.recipe.st_start=100",
            "model.recipe.pixel_threshold=0.8",
            "model.rates.lr_discriminator=1e-4",
        ),
        "model.rates.lr_generator",
        0.01,
        static_steps=400,
        moving_steps=640,
        healthy_steps=1600,
    ),
    "detr": Miniature(
        "detr",
        (
            "model=detr",
            *_CELLS,
            "model.image_size=96",
            "model.queries=20",
            "model.one_to_many=4",  # as all trainings from fresh weights
            "model.recipe.optim.warmup_share=0.02",
        ),
        "model.recipe.optim.lr",
        1e-3,
        static_steps=320,
        moving_steps=480,
        healthy_steps=600,
    ),
    "sam_lora": Miniature(
        "sam_lora",
        (
            "model=sam_lora",
            *_CELLS,
            "model.image_size=64",
            "data.batch_size=1",  # a step costs several times that of the others
            "data.prompts.num_negatives=1",
        ),
        "optim.lr",
        1e-3,
        static_steps=320,
        moving_steps=480,
        healthy_steps=500,
    ),
}

FAULTY_IMAGES, FAULTY_EVALUATIONS = 64, 40
"""Training images of a run with a fault, and steps between its evaluations."""
HEALTHY_IMAGES = 512
"""Training images of a healthy run, so that a long one has no reason to learn them by heart."""


def cells_folder(seed: int, images: int) -> str:
    """A folder of generated cells for data that reads one, made at the first call."""
    from maskwell.data.synthetic import cached_cells

    return str(cached_cells(seed=seed, counts=(images, 16, 2), size=SIZE))


def command(
    family: Family, seed: int, steps: int, images: int, evaluate_every: int, more: Sequence[str] = ()
) -> list[str]:
    """All overrides of a training."""
    small = MINIATURES[family]
    folder = cells_folder(seed, images) if small.iterated else ""
    return small.command(seed, steps, images, evaluate_every, *more, folder=folder)
