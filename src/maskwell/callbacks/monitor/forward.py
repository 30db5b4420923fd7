"""How to ask a module for a loss or an output outside of its training step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor

from maskwell.data.sample import Batch

LossOf = Callable[[Any], Tensor | Mapping[str, Tensor]]


def loss_of(module: LightningModule, batch: Any) -> tuple[LossOf, Any] | None:
    """(how to get the loss of a batch, the batch to ask with); None where the module offers no way.

    Any module may offer ``loss_on(batch)``, which returns a scalar or a mapping of scalars with
    "loss" among them; tasks of this package are asked by ``step``, with the labelled part of a batch.
    """
    offered: Any = module
    if hasattr(module, "loss_on"):
        return lambda b: offered.loss_on(b), batch
    own = labelled_part(batch)
    if own is not None and hasattr(module, "step"):
        return lambda b: _named(offered.step(b, "train")), own
    return None


def labelled_part(batch: Any) -> Batch | None:
    """The batch of this package, or the labelled one of several."""
    if isinstance(batch, Batch):
        return batch
    inner = batch.get("labelled") if isinstance(batch, Mapping) else None
    return inner if isinstance(inner, Batch) else None


def scalars(result: Tensor | Mapping[str, Tensor]) -> dict[str, float]:
    """Name -> value of everything that is a single number; a bare tensor is "loss"."""
    named = result if isinstance(result, Mapping) else {"loss": result}
    return {name: float(value) for name, value in named.items() if torch.as_tensor(value).numel() == 1}


def outputs_of(module: LightningModule, batch: Any) -> tuple[Callable[[Tensor], Tensor], Tensor] | None:
    """(images -> one output row per image, the images of the batch); None where there is no way.

    By ``class_probabilities`` of semantic tasks, else by ``forward`` of modules that take the first
    tensor of the batch.
    """
    own = labelled_part(batch)
    offered: Any = module
    if own is not None:
        if getattr(module, "semantic", False) and hasattr(module, "class_probabilities"):
            return lambda images: offered.class_probabilities(images).float(), own.images
        return None
    first = batch[0] if isinstance(batch, list | tuple) and batch else batch
    if not isinstance(first, Tensor) or type(module).forward is LightningModule.forward:
        return None
    return lambda images: _first_tensor(offered(images)), first


def _first_tensor(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output.float()
    inner = list(output.values()) if isinstance(output, Mapping) else list(output)
    return _first_tensor(inner[0])


def _named(output: Any) -> dict[str, Tensor]:
    return {"loss": output.loss, **output.parts}
