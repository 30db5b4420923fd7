"""Worst, typical and best images of the test, and the score of every one of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from PIL import Image

from maskwell import draw
from maskwell.callbacks.clock import iteration
from maskwell.callbacks.pictures import window_image
from maskwell.data.sample import Batch, InputSpec, Prediction
from maskwell.image_results import THRESHOLD, mean_quality, write_images
from maskwell.metrics.prompted import asked
from maskwell.metrics.quality import Quality, quality

Key = tuple[int, int]
"""Number of a batch, and of a sample in it."""


class Cases(Callback):
    """Scores every image of the evaluation after training and shows the two ends and the middle.

    Writes ``cases/images.csv`` (largest error first) and ``cases/cases.png`` into the run folder: of the
    test split, or of the validation split where the data has no other. The images shown are predicted
    once more, so that only scores are kept of the others. Nothing is written by several processes, which
    each see a share of the images alone.

    Args:
        worst, typical, best: images shown of each kind.
    """

    def __init__(self, worst: int = 3, typical: int = 2, best: int = 1) -> None:
        super().__init__()
        self.counts = {"worst": worst, "typical": typical, "best": best}
        self._scores: dict[Key, tuple[str, Quality]] = {}

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._scores = {}

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._scores = {}

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if (
            not self._wanted(trainer, pl_module)
            or not isinstance(batch, Batch)
            or not hasattr(outputs, "preds")
        ):
            return
        predictions: list[Prediction] = outputs.preds()  # none of a task that does not predict
        for row, (sample, prediction) in enumerate(zip(batch.samples, predictions, strict=False)):
            if sample.truth is not None:
                parts = asked(prediction, sample.truth, sample.prompts)
                found = mean_quality([quality(*part, _threshold(pl_module)) for part in parts])
                self._scores[batch_idx, row] = (sample.file_name, found)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, pl_module, trainer.test_dataloaders)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, pl_module, trainer.val_dataloaders)

    def _wanted(self, trainer: Trainer, module: LightningModule) -> bool:
        apart = trainer.state.fn in ("test", "validate")  # not one of the validations of a fit
        return apart and trainer.world_size == 1 and iteration(trainer, module) > 0

    def _write(self, trainer: Trainer, module: LightningModule, loader: Any) -> None:
        if not self._scores or not self._wanted(trainer, module):
            return
        folder = Path(trainer.default_root_dir) / "cases"
        write_images(list(self._scores.values()), folder / "images.csv")
        chosen = choose({key: found.score for key, (_, found) in self._scores.items()}, **self.counts)
        pictures = [self._picture(trainer, module, loader, key, kind) for key, kind in chosen]
        Image.fromarray(draw.stack(pictures)).save(folder / "cases.png")
        self._scores = {}

    def _picture(
        self, trainer: Trainer, module: LightningModule, loader: Any, key: Key, kind: str
    ) -> draw.Pixels:
        """The sample ``key`` predicted alone."""
        number, row = key
        rows = next(batch for index, batch in enumerate(loader.batch_sampler) if index == number)
        batch = loader.collate_fn([loader.dataset[rows[row]]])
        found = self._scores[key][1]
        was_training = module.training
        module.eval()
        with trainer.precision_plugin.val_step_context(), torch.no_grad():
            batch = trainer.strategy.batch_to_device(batch)
            [prediction] = module.predict_batch(batch)
        module.train(was_training)
        return _panel(module, batch, prediction, f"{kind}, {found.name}", found)


def _panel(
    module: LightningModule, batch: Batch, prediction: Prediction, kind: str, found: Quality
) -> draw.Pixels:
    """Truth beside prediction of a batch of one image."""
    [sample] = batch.samples
    assert sample.truth is not None
    spec = module.input_spec
    assert isinstance(spec, InputSpec)
    points = None
    if prediction.points is not None and sample.points is not None:
        points = sample.geometry.points_to_window(sample.points.cpu()).numpy()
    return draw.panel(
        window_image(batch.images[0], sample, spec),
        sample.truth,
        prediction,
        tuple(getattr(module, "categories", ())),
        title=f"{kind} {found.score:.2f}: {sample.file_name}",
        threshold=_threshold(module),
        truth_points=points,
    )


def choose(scores: dict[Key, float], worst: int, typical: int, best: int) -> list[tuple[Key, str]]:
    """Keys of the lowest, middle and highest scores, each once, with what they stand for.

    Args:
        scores: key -> score; ties are broken by the key, so that the choice is the same every time.
        worst, typical, best: how many of each; fewer where there are fewer images.
    """
    order = sorted(scores, key=lambda key: (scores[key], key))
    middle = max(0, (len(order) - typical) // 2)
    wanted: Iterable[tuple[str, list[Key]]] = (
        ("worst", order[:worst]),
        ("typical", order[middle : middle + typical]),
        ("best", order[len(order) - best :] if best else []),
    )
    chosen: dict[Key, str] = {}
    for kind, keys in wanted:
        for key in keys:
            chosen.setdefault(key, kind)
    return list(chosen.items())


def _threshold(module: LightningModule) -> float:
    chosen = getattr(module, "threshold", None)
    return THRESHOLD if chosen is None else float(chosen)
