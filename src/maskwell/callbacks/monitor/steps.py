"""What happens around an optimiser step: the flag that is read before it, and all that is measured."""

from __future__ import annotations

import math
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from maskwell.callbacks.clock import batches_before, iteration, optimiser_suffixes
from maskwell.callbacks.grad_clip import GradClip, Norms, TakesNorms, total_and_groups, with_gradients
from maskwell.callbacks.head_gradients import layout, rms
from maskwell.callbacks.monitor.batchnorm import StatisticsMemory
from maskwell.callbacks.monitor.buffer import DeviceBuffer
from maskwell.callbacks.monitor.capture import ENTRY, Capture
from maskwell.callbacks.monitor.gradients import GradientWatch, bad_values, finite
from maskwell.callbacks.monitor.model_probe import DiscriminatorProbe
from maskwell.callbacks.monitor.plain import bad_inputs
from maskwell.callbacks.monitor.rates import RateWatch, scale_rates
from maskwell.callbacks.monitor.readings import total
from maskwell.callbacks.monitor.system import CHECKSUM_EVERY, SystemWatch
from maskwell.callbacks.step_seed import StepSeed
from maskwell.health import signals as names
from maskwell.health.signals import Signals

STATE_EVERY = 64
"""Steps between looks at weights, buffers and optimiser states."""


class StepWatch:
    """Measures every optimiser step and skips those that are not finite.

    Args:
        signals: where to.
        every: steps between detailed measurements.
        capture: keep the first step that is not finite.
    """

    def __init__(self, signals: Signals, every: int, capture: bool) -> None:
        self.signals, self.every = signals, every
        self.buffer = DeviceBuffer()
        self.system = SystemWatch(signals)
        self.rates = RateWatch(signals)
        self.capture = Capture()
        self.capture.done = not capture
        self.skipped = 0
        self._made: dict[str, int] = {}
        self._losses: list[Tensor] = []  # of all batches whose gradients are accumulated
        self._earlier = 0  # how many of them are of batches before this one
        self._bad: tuple[bool, bool] = (False, False)  # of this batch: gradients, loss
        self._step = 0
        self._batches = 0
        self._micro: list[Tensor] = []
        self._batch: Any = None
        self._trainable = -1
        self._unbounded: set[str] = set()  # buffers that are infinite by design, as masks of attention are
        self._labels: dict[int, str] = {}
        self._handles: list[Any] = []
        self._before: dict[str, Any] = {}
        self._optimizers: list[Optimizer] = []
        self._takers: list[TakesNorms] = []
        self._factor = 1.0
        self._discriminator: DiscriminatorProbe | None = None

    def begin(self, trainer: Trainer, module: LightningModule) -> None:
        """Optimisers are there and restored."""
        self.end()
        suffixes = optimiser_suffixes(trainer, module)
        self._optimizers = list(trainer.optimizers)
        self._labels = {
            id(o): s.removeprefix("_") or "all" for o, s in zip(trainer.optimizers, suffixes, strict=True)
        }
        name_of = {p: n for n, p in module.named_parameters()}
        self.gradients = GradientWatch(name_of, self.buffer, self.signals, self.every)
        self.rates = RateWatch(self.signals)
        for optimizer in trainer.optimizers:
            self._handles.append(optimizer.register_step_post_hook(self._after_step))
        limit = self._limit(trainer)
        for label in self._labels.values():
            if limit:
                self.signals.record(names.GRAD_LIMIT + label, self.signals.step, limit, "norm")
        self.capture.reseeded = any(isinstance(c, StepSeed) for c in trainer.callbacks)  # type: ignore[attr-defined]
        self._statistics = StatisticsMemory(module)
        self._discriminator = DiscriminatorProbe(module)
        self._trainable = -1
        self._unbounded = {name for name, buffer in module.named_buffers() if _is_infinite(buffer)}
        self._takers = self._next_readers(trainer)

    def end(self) -> None:
        """Hooks are removed, nothing is watched any more."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.system.close()
        if self._discriminator is not None:
            self._discriminator.close()

    def _limit(self, trainer: Trainer) -> float | None:
        clip = self._clip(trainer)
        own = clip.max_norm if clip is not None else None
        by_value = trainer.gradient_clip_algorithm == "value"
        return own or (None if by_value else trainer.gradient_clip_val)

    def _clip(self, trainer: Trainer) -> GradClip | None:
        return next((c for c in trainer.callbacks if isinstance(c, GradClip)), None)  # type: ignore[attr-defined]

    def _next_readers(self, trainer: Trainer) -> list[TakesNorms]:
        """Who finds the gradients as they are measured here: nobody between may change them."""
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        own = next((i for i, c in enumerate(callbacks) if getattr(c, "steps", None) is self), len(callbacks))
        plain = Callback.on_before_optimizer_step
        acting = [c for c in callbacks[own + 1 :] if type(c).on_before_optimizer_step is not plain]
        unchanged = takewhile(lambda c: isinstance(c, TakesNorms), acting)
        clip = next((i for i, c in enumerate(acting) if isinstance(c, GradClip)), len(acting))
        return list(islice(unchanged, clip + 1))

    def batch_starts(self, trainer: Trainer, module: LightningModule, batch: Any) -> None:
        """Its number is known, and its random states."""
        own = isinstance(getattr(module, "iteration", None), int)
        self._step = iteration(trainer, module) + own
        self._batch, self._bad = batch, (False, False)
        if batches_before(trainer) % trainer.accumulate_grad_batches == 0:
            self._losses = []
            self._statistics.keep()
        self._earlier = len(self._losses)
        self.capture.begin()
        self._discriminator.batch_starts()
        self.system.batch_starts(batch)

    @property
    def number(self) -> int:
        """Of the batch that is being trained on."""
        return self._step

    def hear_loss(self, loss: Tensor) -> None:
        """A loss that goes backward."""
        self._losses.append(loss.detach())

    def heard(self, trainer: Trainer) -> list[Tensor]:
        """The losses that went backward in this batch, as they were before any loss scale."""
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        scale = 1.0 if scaler is None else float(scaler.get_scale())
        return [loss / scale for loss in self._losses[self._earlier :]]

    def after_backward(self, trainer: Trainer, module: LightningModule) -> None:
        """The first of several accumulated batches tells how noisy gradients are."""
        together = trainer.accumulate_grad_batches
        before = batches_before(trainer)
        if not module.automatic_optimization or together < 2 or before % together:
            return
        self._micro = []
        whole = before + together <= trainer.num_training_batches
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        if whole and not scaled and self._step % self.every < together:
            gradients = [p.grad for p in module.parameters() if p.grad is not None]
            if gradients:
                self._micro = [nn.utils.get_total_norm(gradients) * together]

    def before_step(
        self, trainer: Trainer, module: LightningModule, optimizer: Optimizer, excluded: bool
    ) -> None:
        """Measure; read the flag; set the gradients to None where it is up, or the batch is ``excluded``."""
        plain = getattr(optimizer, "optimizer", optimizer)
        label = self._labels.get(id(plain), "all")
        if excluded:
            self._statistics.restore()
            self._drop(trainer, plain)
            return
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        each = self.gradients.norms(plain, label, self._step)
        if each is None and not self._losses:
            return
        # where another callback has dropped the gradients already, the loss is still to be judged
        norms = self._losses[0].new_zeros(1) if each is None else self._norms(plain, each)
        (bad_gradients, bad_loss), read = self._flags(trainer, norms)
        if each is not None:
            self.gradients.hear_total(label, self._step, read[0])
        self._bad = (self._bad[0] or bad_gradients, self._bad[1] or bad_loss)
        self._made[label] = self._made.get(label, 0) + 1
        self.rates.record(trainer, plain, label, self._step, self._made[label])
        # a loss scale that is too high makes infinite gradients, which its scaler skips by itself
        if (bad_gradients or bad_loss) and scaler is None:
            self._skip(trainer, plain)
            return
        if self._micro:
            self._noise(trainer, norms[0])
        self.gradients.before_step(plain, self._step)
        if each is not None and len(read) > 1:
            self._heads(module, plain, each)
            for taker in self._takers:
                taker.take(plain, Norms(each, norms[0], read))

    @staticmethod
    def _norms(optimizer: Optimizer, each: Tensor) -> Tensor:
        """[1 + groups], or the total alone where not all gradients were measured (just unfrozen)."""
        if len(with_gradients(optimizer)) != len(each):
            return torch.linalg.vector_norm(each)[None]
        return total_and_groups(optimizer, each)

    def _flags(self, trainer: Trainer, norms: Tensor) -> tuple[tuple[bool, bool], list[float]]:
        """Whether gradients, and losses, of any rank are not finite, and ``norms``: the one transfer.

        NaN and infinity survive a sum, over losses as over ranks.
        """
        flags = torch.stack([norms[0], total(self._losses, norms.device)])
        if trainer.world_size > 1:
            flags = trainer.strategy.reduce(flags, reduce_op="sum")
        gradients, loss, *read = torch.cat([flags, norms]).tolist()
        return (not math.isfinite(gradients), not math.isfinite(loss)), read

    def _skip(self, trainer: Trainer, optimizer: Optimizer) -> None:
        self._statistics.restore()
        own = not bool(torch.isfinite(total(self._losses[self._earlier :], trainer.strategy.root_device)))
        here = own or bool(bad_inputs(self._batch))
        if not self._bad[1] or trainer.strategy.reduce_boolean_decision(own, all=False):
            why = "the loss is not finite" if self._bad[1] else "gradients are not finite"
            self.capture.keep(trainer, self._batch, self._step, why, here)
            self._look_at_input(trainer)
        # else it was an earlier one of the batches whose gradients are accumulated, which is gone
        # what the forward pass writes (buffers) may be bad because of this step, the rest was before it
        self._look_at_state(trainer, self._weights(trainer), self._step)
        self.skipped += 1
        self._drop(trainer, optimizer)

    def _look_at_input(self, trainer: Trainer) -> None:
        """Where the batch of a bad step is not finite itself; all ranks hear of it."""
        bad = bad_inputs(self._batch)
        anywhere = trainer.strategy.reduce_boolean_decision(bool(bad), all=False)
        for place in bad or ["batch of another process"] * anywhere:
            self.signals.record(names.INPUT_BAD + place, self._step, 1.0, "event")
        self.signals.record(names.INPUT_SEEN, self._step, 1.0, "event")

    def _drop(self, trainer: Trainer, optimizer: Optimizer) -> None:
        """Set all gradients to None: the step does nothing, and the weights stay those before it."""
        parameters = with_gradients(optimizer)
        clip = self._clip(trainer)
        if clip is not None:
            clip.skip(parameters)
            return
        for parameter in parameters:
            parameter.grad = None

    def _noise(self, trainer: Trainer, total: Tensor) -> None:
        """Squared norms of one micro-batch's gradient and of the accumulated one."""
        ratio, step = trainer.accumulate_grad_batches, self._step
        pair = torch.stack([self._micro.pop().to(total), total]) ** 2

        def consume(values: list[float]) -> None:
            self.signals.record(names.NOISE_SMALL, step, values[0], "norm")
            self.signals.record(names.NOISE_LARGE, step, values[1], "norm")
            self.signals.record(names.NOISE_RATIO, step, ratio, "norm")

        self.buffer.add(pair, consume)

    def _heads(self, module: LightningModule, optimizer: Optimizer, each: Tensor) -> None:
        groups: Any = getattr(module, "gradient_groups", None)
        if groups is None or self._step % self.every:
            return
        laid, step = layout(groups(), optimizer, each.device), self._step

        def consume(values: list[float]) -> None:
            for name, value in zip(laid.names, values, strict=True):
                self.signals.record(names.HEAD_GRAD + name, step, value, "norm")

        self.buffer.add(rms(laid, each), consume)

    def _after_step(self, optimizer: Optimizer, _: Any, __: Any) -> None:
        self.gradients.after_step(optimizer, self._labels.get(id(optimizer), "all"), self._step)

    def batch_ends(self, trainer: Trainer, step: int, learnt: bool) -> bool:
        """Whether something in this batch was not finite, so that the rules are to be asked at once."""
        self._batches += 1
        self.system.batch_ends(step)
        self._batch = None
        self._discriminator.batch_ends(step, self.signals)
        if not learnt:
            self.skipped += 1
        if not any(self._bad) or getattr(trainer.precision_plugin, "scaler", None) is not None:
            return False
        self.buffer.read(trainer)
        seen = any(s.latest_step == step for _, s in self.signals.under(names.NONFINITE))
        if self._bad[0] and not seen and not self._bad[1]:
            self.signals.record(names.BAD_GRADIENT, step, 1.0, "event")
        return True

    def now_and_then(self, trainer: Trainer, module: LightningModule, step: int) -> None:
        """What is looked at before the rules are asked."""
        signals, device = self.signals, trainer.strategy.root_device
        for label, made in self._made.items():
            signals.record(names.COUNTER + f"optimizer_steps/{label}", step, made, "count")
        signals.record(names.COUNTER + "batches", step, self._batches, "count")
        signals.record(names.COUNTER + "skipped", step, self.skipped, "count")
        signals.record(names.STEPS_PER_EPOCH, step, min(trainer.num_training_batches, 10**9), "count")
        self.system.memory(step, device)
        self.system.watch(Path(trainer.default_root_dir), self.every)
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None:
            signals.record(names.SCALE, step, float(scaler.get_scale()), "norm")
        trainable = sum(p.requires_grad for p in module.parameters())
        if self._trainable not in (-1, trainable):
            signals.declare("unfreeze", step)
        self._trainable = trainable
        if step % STATE_EVERY == 0:
            buffers = [b for name, b in module.named_buffers() if name not in self._unbounded]
            self._look_at_state(trainer, {**self._weights(trainer), "buffers": buffers}, step)
        if step % CHECKSUM_EVERY == 0:
            self.system.ranks_agree(trainer, module, step)
            last = getattr(trainer.checkpoint_callback, "last_model_path", "")
            self.system.disk(step, Path(trainer.default_root_dir), Path(last) if last else None)

    def _weights(self, trainer: Trainer) -> dict[str, list[Tensor]]:
        """What only optimiser steps change."""
        states = (state for optimizer in trainer.optimizers for state in optimizer.state.values())
        return {
            "weights": [p.detach() for p in trainer.lightning_module.parameters()],
            "the optimiser": [v for state in states for v in state.values() if isinstance(v, Tensor)],
        }

    def _look_at_state(self, trainer: Trainer, kinds: dict[str, list[Tensor]], step: int) -> None:
        """Count what is not finite; a fault on one rank (buffers are its own) is one on all."""
        for kind, tensors in kinds.items():
            if any(t.is_floating_point() and t.numel() for t in tensors):

                def consume(values: list[float], kind: str = kind, tensors: list[Tensor] = tensors) -> None:
                    count = 0 if values[0] == 1 else max(1, bad_values(lambda: tensors))
                    self.signals.record(names.STATE_BAD + kind, step, count, "count")

                self.buffer.add(finite(tensors).float(), consume, shared=True, names=[kind])

    def state_is_finite(self, module: LightningModule) -> bool:
        """Whether weights and buffers are finite now."""
        state = ((n, t) for n, t in module.state_dict().items() if isinstance(t, Tensor))
        tensors = [t for n, t in state if t.is_floating_point() and n not in self._unbounded]
        good = not tensors or bool(finite(tensors))
        if not good and self.capture.pending is None:
            before = self.signals.value(names.SYSTEM + "checkpoint_bad") or 0.0
            self.signals.record(names.SYSTEM + "checkpoint_bad", self.signals.step, before + 1, "count")
        return good

    def add_capture(self, checkpoint: dict[str, Any]) -> None:
        """Put the captured step into the checkpoint that is written for it."""
        if self.capture.pending is not None:
            checkpoint[ENTRY] = self.capture.pending

    def resumed(self, trainer: Trainer, factor: float) -> None:
        """Compare optimisers with what they were at the checkpoint, and bring rates to ``factor``."""
        before, step = self._before, self.signals.step
        kept = True
        for optimizer in trainer.optimizers:
            label = self._labels.get(id(optimizer), "all")
            group = optimizer.param_groups[0]
            old = before.get("rates", {}).get(label)
            if old and old[0] > 0 and group["lr"] > 0:
                self.signals.record(names.RESUME + "lr", step, float(group["lr"]) / old[0], "rate")
            if old:
                now = float(group.get("initial_lr", group["lr"]))
                kept = kept and abs(now - old[1]) <= 1e-6 * abs(old[1])
            if before.get("entries", {}).get(label, 0) and not optimizer.state:
                self.signals.record(names.RESUME + "lost/state_of_the_optimiser", step, 1.0, "event")
        wanted = factor / (before.get("factor", 1.0) if kept else 1.0)
        if wanted != 1.0:
            scale_rates(trainer, wanted)
        self._factor = factor

    def state_dict(self) -> dict[str, Any]:
        """Counters, and what the optimisers are like now."""
        rates, entries = {}, {}
        for optimizer in self._optimizers:
            label, group = self._labels.get(id(optimizer), "all"), optimizer.param_groups[0]
            rates[label] = [float(group["lr"]), float(group.get("initial_lr", group["lr"]))]
            entries[label] = len(optimizer.state)
        return {
            "made": dict(self._made),
            "skipped": self.skipped,
            "batches": self._batches,
            "captured": self.capture.done,
            "rates": rates,
            "entries": entries,
            "factor": self._factor,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the counters; what the optimisers were like is compared in :meth:`resumed`."""
        self._made = dict(state["made"])
        self.skipped, self._batches = state["skipped"], state["batches"]
        self.capture.done = self.capture.done or state["captured"]
        self._before = dict(state)
        self._factor = state["factor"]


def _is_infinite(buffer: Tensor) -> bool:
    return buffer.is_floating_point() and bool(buffer.isinf().any()) and not bool(buffer.isnan().any())
