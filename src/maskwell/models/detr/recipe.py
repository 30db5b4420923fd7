"""What keeps a DETR training stable, as one choice: padding, pixel mask, clipping, rate and decay."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from maskwell.errors import UserError
from maskwell.models.optimisation import AdamWCosine

Padding = Literal["mean", "zero"]


@dataclass(frozen=True)
class Recipe:
    """The parts of the field notes' recipe; the defaults are those of the notes.

    ``padding``: what lies beside smaller images of a batch: the ``mean`` colour, or ``zero`` (black, an
    edge that is not in the picture). ``pixel_mask``: tell the network which pixels are padding, where it
    reads that. ``max_norm`` of the gradient; None: not clipped. ``optim``: rate, decay and schedule.
    """

    padding: Padding = "mean"
    pixel_mask: bool = True
    max_norm: float | None = 1.0
    optim: AdamWCosine = field(
        default_factory=lambda: AdamWCosine(lr=5e-5, weight_decay=1e-4, warmup_share=0.0, final_share=0.02)
    )

    def __post_init__(self) -> None:
        if self.padding not in ("mean", "zero"):
            raise UserError(f"model.recipe.padding={self.padding}: give mean or zero.")
