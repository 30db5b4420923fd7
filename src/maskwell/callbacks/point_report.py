"""The checklist at the end of a training that marks objects one after another."""

from __future__ import annotations

from typing import Any

from lightning import Callback, LightningModule, Trainer

from maskwell.callbacks.checklist import Line, checklist, concludes, ending, uploads
from maskwell.callbacks.head_gradients import HeadGradients

WATCHED = ("loss", "pixel_error", "done_highest")
"""Metrics of a validation that the checklist looks at, those that the task has."""


class PointReport(Callback):
    """Prints whether the losses fell, the marks came nearer, "no more" was said, and no gradient exploded.

    Acts on tasks that find points (``task.pointwise``). A line whose metric the task does not have is
    left out.

    Args:
        max_loss: what the validation loss should reach; None asks only that it falls, since the value
            means something for one kind of loss alone.
        min_done: the highest predicted probability of "no more" should be above it.
        max_error: pixels of the network input that the next mark may miss its object by.
    """

    def __init__(self, max_loss: float | None = None, min_done: float = 0.2, max_error: float = 20.0) -> None:
        super().__init__()
        self.max_loss, self.min_done, self.max_error = max_loss, min_done, max_error
        self._first: dict[str, float] = {}
        self._last: dict[str, float] = {}
        self._lowest: dict[str, float] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking or not getattr(pl_module, "pointwise", False):
            return
        for name in WATCHED:
            if f"val/{name}" in trainer.callback_metrics:
                value = float(trainer.callback_metrics[f"val/{name}"])
                self._first.setdefault(name, value)
                self._last[name] = value
                self._lowest[name] = min(value, self._lowest.get(name, value))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._conclude(trainer, pl_module, None)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._conclude(trainer, pl_module, exception)

    def _conclude(self, trainer: Trainer, module: LightningModule, error: BaseException | None) -> None:
        if getattr(module, "pointwise", False) and concludes(trainer, error):
            gradients = next((c for c in trainer.callbacks if isinstance(c, HeadGradients)), None)  # type: ignore[attr-defined]
            lines = [*self.lines(), *explosions(gradients), *ending(trainer, error), *uploads(trainer, error)]
            print(checklist(lines))

    def lines(self) -> list[Line]:
        """What the validations so far say."""
        lines: list[Line] = []
        if "loss" in self._last:
            lines.append(("Val loss decreasing", *self._fell("loss", ".3f")))
            if self.max_loss is not None:
                lowest = self._lowest["loss"]
                lines.append((f"Val loss < {self.max_loss:g}", lowest < self.max_loss, f"{lowest:.3f}"))
        if "done_highest" in self._last:
            highest = self._last["done_highest"]
            what = f"Done predictions varying (not all < {self.min_done:g})"
            lines.append((what, highest >= self.min_done, f"highest {highest:.2f}"))
        if "pixel_error" in self._last:
            lines.append(("Pixel errors decreasing", *self._fell("pixel_error", ".1f", " px")))
            last = self._last["pixel_error"]
            what = f"Predictions close to truth (< {self.max_error:g} px)"
            lines.append((what, last < self.max_error, f"{last:.1f} px"))
        return lines

    def _fell(self, name: str, form: str, unit: str = "") -> tuple[bool, str]:
        first, lowest, last = self._first[name], self._lowest[name], self._last[name]
        detail = f"{first:{form}} at first, {lowest:{form}} at best, {last:{form}} at last{unit}"
        return lowest < first, detail

    def state_dict(self) -> dict[str, Any]:
        return {"first": dict(self._first), "last": dict(self._last), "lowest": dict(self._lowest)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._first, self._last = dict(state_dict["first"]), dict(state_dict["last"])
        self._lowest = dict(state_dict["lowest"])


def explosions(gradients: HeadGradients | None) -> list[Line]:
    """Whether less than 1 % of the steps had a gradient above the band; nothing where none was measured."""
    if gradients is None or not gradients.steps:
        return []
    worst = max(gradients.highest, key=lambda name: gradients.highest[name])
    detail = (
        f"{gradients.exploded} of {gradients.steps} steps, highest {worst} {gradients.highest[worst]:.2g}"
    )
    return [("No gradient explosions", gradients.exploded < 0.01 * gradients.steps, detail)]
