"""The first step that was not finite, kept so that it can be replayed, and its replay."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn

from maskwell.callbacks.monitor import rng
from maskwell.callbacks.monitor.plain import bad_inputs, from_plain, sample_names, tensors, to_plain
from maskwell.errors import UserError

FILE = "first_bad.ckpt"
"""Beside ``health.json``: a checkpoint with the weights before the step, its batch and random states."""
ENTRY = "health_capture"
"""Key of what is added to the checkpoint."""


class Capture:
    """Keeps the first bad step of a run.

    Attributes:
        reseeded: random states follow from the number of the step, so that none have to be noted.
        pending: what goes into the checkpoint that is being written.
    """

    def __init__(self) -> None:
        self.done = False
        self.reseeded = False
        self.pending: dict[str, Any] | None = None
        self._random: tuple[Any, ...] | None = None

    def begin(self) -> None:
        """Note the random states with which a batch begins."""
        if not (self.done or self.reseeded):
            self._random = rng.current()

    def keep(self, trainer: Trainer, batch: Any, step: int, why: str, here: bool) -> Path | None:
        """Write the checkpoint of the first bad step; None at later ones. All ranks call it together.

        Args:
            trainer: that writes it.
            batch: of this rank; ``here``: something of it is not finite. The first rank of which that is
                so has its batch kept, else the first one.
            step: number of the step; ``why``: what was seen.
        """
        if self.done:
            return None
        self.done = True
        own = {
            "step": step,
            "why": why,
            "rank": trainer.global_rank,
            "samples": sample_names(batch),
            "batch": to_plain(batch),
            "random": rng.states(self._random),
            "bad_inputs": bad_inputs(batch),
        }
        self.pending = _of_the_bad_rank(trainer, own, here)
        path = Path(trainer.default_root_dir) / FILE
        try:
            trainer.save_checkpoint(path)
        finally:
            self.pending = None
        return path


def _of_the_bad_rank(trainer: Trainer, own: dict[str, Any], here: bool) -> dict[str, Any]:
    """What the first rank has whose own batch is bad: a file is written by one of them alone."""
    if trainer.world_size == 1:
        return own
    strategy = trainer.strategy
    flags = strategy.all_gather(torch.tensor(float(here), device=strategy.root_device)).reshape(-1).tolist()
    chosen: dict[str, Any] = strategy.broadcast(own, src=flags.index(1.0) if 1.0 in flags else 0)
    return chosen


def first_bad_module(
    module: nn.Module, run: Callable[[], Tensor], backward: bool = True
) -> tuple[str, str, Tensor | None]:
    """Run a step and name the first module whose output, or gradient, is not finite.

    Args:
        module: whose submodules are watched.
        run: the step; gives its loss.
        backward: go on with the backward pass where the forward pass was finite.

    Returns:
        (name or "", "forward", "backward" or "", loss).
    """
    found: list[tuple[str, str]] = []

    def watch(name: str) -> Callable[..., None]:
        def backward_hook(gradient: Tensor) -> None:
            if not found and _is_bad(gradient):
                found.append((name, "backward"))

        def hook(module: nn.Module, given: Any, output: Any) -> None:
            if not found and _is_bad(output):
                found.append((name, "forward"))
            # on the tensors: hooks of modules refuse what works in place
            for _, tensor in tensors(output):
                if backward and tensor.requires_grad:
                    tensor.register_hook(backward_hook)

        return hook

    # a container fails only after what it holds: the innermost comes first
    handles = [
        inner.register_forward_hook(watch(place or "the whole network"))
        for place, inner in module.named_modules()
    ]
    loss = None
    try:
        loss = run()
        if not found and not bool(torch.isfinite(loss).all()):
            found.append(("the loss function", "forward"))
        if backward and not found and loss.requires_grad:
            loss.backward()
            bad = [n for n, p in module.named_parameters() if p.grad is not None and _is_bad(p.grad)]
            if bad and not found:
                found.append((bad[0], "backward"))
    finally:
        for handle in handles:
            handle.remove()
    name, direction = found[0] if found else ("", "")
    return name, direction, loss


def replay(
    module: LightningModule,
    content: dict[str, Any],
    loss_of: Callable[[Any], Tensor],
    prepare: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Repeat the captured step on a module of the same kind, with the weights and random states of then.

    Args:
        module: will hold the weights of the capture.
        content: of the capture file.
        loss_of: batch -> loss, as in training.
        prepare: (iteration before the step, rank) -> sets what else is random, as a seed per step.

    Returns:
        ``module`` the first bad one or "", ``direction``, ``loss``, ``samples``, ``step``, ``bad_inputs``.

    Raises:
        UserError: the file is no capture, or its batch cannot be built again.
    """
    kept = content.get(ENTRY)
    if not isinstance(kept, dict):
        raise UserError(f"This checkpoint holds no captured step; give a run folder with {FILE} in it.")
    module.load_state_dict(content["state_dict"], strict=False)
    module.zero_grad()
    module.train()
    batch = from_plain(kept["batch"])
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    batch = module.transfer_batch_to_device(batch, device, 0)
    with torch.random.fork_rng(devices=[]) if device.type == "cpu" else nullcontext():
        rng.restore(kept["random"])
        if prepare is not None:
            prepare(int(kept["step"]) - 1, int(kept["rank"]))
        name, direction, loss = first_bad_module(module, lambda: loss_of(batch))
    return {
        "module": name,
        "direction": direction,
        "loss": float("nan") if loss is None else float(loss.detach()),
        "samples": list(kept["samples"]),
        "step": int(kept["step"]),
        "bad_inputs": list(kept["bad_inputs"]),
    }


def _is_bad(output: Any) -> bool:
    return any(t.is_floating_point() and not bool(torch.isfinite(t).all()) for _, t in tensors(output))
