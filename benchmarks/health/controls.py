"""Healthy trainings: as they should be, and as they look strange without being ill (hard negatives)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.health.catalogue import ALL, GAN, OBJECTS, Family
from benchmarks.health.injection import Put
from benchmarks.health.miniature import MINIATURES


@dataclass(frozen=True)
class Control:
    """One kind of healthy training.

    ``overrides`` of all families, ``own`` of some beside them; ``put``: callbacks, with the share of
    the run behind which they begin; ``resumes``: stopped and resumed in the middle; ``small``: as
    short, and on as few images, as the runs with faults.
    """

    name: str
    families: tuple[Family, ...] = ALL
    overrides: tuple[str, ...] = ()
    own: Mapping[Family, tuple[str, ...]] = field(default_factory=dict)
    put: tuple[tuple[Put, float, float], ...] = ()
    resumes: bool = False
    small: bool = False

    def command(self, family: Family) -> tuple[str, ...]:
        """The overrides of this family."""
        return (*self.overrides, *self.own.get(family, ()))


def _rate(factor: float) -> dict[Family, tuple[str, ...]]:
    return {f: (f"{small.rate}={small.lr * factor:g}",) for f, small in MINIATURES.items()}


_CONSTANT: dict[Family, tuple[str, ...]] = {
    "points": ("optim.final_share=1.0",),
    "sam_lora": ("optim.final_share=1.0",),
    "detr": ("model.recipe.optim.final_share=1.0",),
    "s4gan": ("model.rates.power=0.0",),
}
_FLOOR: dict[Family, tuple[str, ...]] = {
    "points": ("optim.final_share=0.0001",),
    "sam_lora": ("optim.final_share=0.0001",),
    "detr": ("model.recipe.optim.final_share=0.0001",),
    "s4gan": ("model.rates.power=3.0",),
}
_OTHER: dict[Family, tuple[str, ...]] = {
    "points": ("model.head=xy", "model.order=reading"),
    "sam_lora": ("model.adaptation=heads",),
    "detr": ("model.recipe.optim.weight_decay=0.05",),
    "s4gan": ("model/recipe=supervised",),
}

# (callback, its severity, share of the run behind which it begins)
CONTROLS: tuple[Control, ...] = (
    Control("default"),
    Control("small", small=True),
    Control("batch_of_one", ("s4gan", "points", "detr"), overrides=("data.batch_size=1",)),
    Control("batch_of_four", overrides=("data.batch_size=4",)),
    Control("cyclic_rate", put=((Put("CyclicRate"), 150, 0.0),)),
    Control("constant_rate", own=_CONSTANT),
    Control("low_rate", own=_rate(0.5)),
    Control("floor", own=_FLOOR),
    Control("unfreezing", put=((Put("Unfreezing"), 1, 0.4),)),
    Control("weight_ramp", put=((Put("Ramp"), 150, 0.4),)),
    Control("sparse_targets", OBJECTS, put=((Put("EmptyTargets"), 0.4, 0.0),)),
    # SGD, unlike Adam, knows how large a loss is
    Control(
        "high_loss",
        overrides=("callbacks.grad_clip.max_norm=null",),
        own={"s4gan": ("model.rates.lr_generator=1e-4",)},
        put=((Put("Heavy"), 100, 0.0),),
    ),
    Control("resume", resumes=True),
    Control("other_form", own=_OTHER),
    Control("gan_of_the_guide", GAN, ("model/recipe=guide", "model.recipe.pixel_threshold=null")),
    Control("gan_without_norms", GAN, ("model.recipe.spectral_norm=false",)),
)
