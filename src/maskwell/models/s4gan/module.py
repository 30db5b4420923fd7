"""S4GAN: semi-supervised semantic segmentation with a discriminator over image and class map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from maskwell.data.sample import IMAGENET_MEAN, IMAGENET_STD, Batch, InputSpec, Prediction
from maskwell.errors import UserError
from maskwell.metrics.segmentation import SegmentationScores
from maskwell.models import backbone as backbones
from maskwell.models.base import BaseTask, OptimiserFactory, Stage, StepOutput
from maskwell.models.s4gan import loss, net, optimisation
from maskwell.models.s4gan.discriminator import Discriminator, DiscriminatorSpec
from maskwell.models.s4gan.net import GeneratorSpec
from maskwell.models.s4gan.objective import Losses, Networks, Objective
from maskwell.models.s4gan.optimisation import Rates
from maskwell.models.s4gan.recipe import Recipe
from maskwell.models.s4gan.tally import PseudoTally
from maskwell.models.teacher import Teacher
from maskwell.ops.class_maps import to_window


class S4Gan(BaseTask):
    """Trains a segmentation network from labelled and unlabelled images, as its recipe says.

    The networks are built when the classes are known: by :meth:`bind`, or from a checkpoint.

    Args:
        recipe: what is learnt from unlabelled images, and how.
        generator: architecture of the segmentation network.
        discriminator: size of the discriminator, where the recipe has one.
        rates: of both optimisers.
        iterations: length of the run.
        evaluate_every: iterations between two validations.
        ema_decay: of the averaged generator, which every recipe keeps.
        evaluate: which weights are validated, tested and predict: the averaged ``teacher`` or the
            ``student``.
        background: whether class 0 takes part in the mean IoU.
        image_size: the longer side is scaled down to it, px; None: never.
        max_norm: bound of the gradient norm of each optimiser (callbacks.grad_clip.max_norm=auto).
        seed: of fresh weights.
    """

    family = "s4gan"
    monitor = "val/miou"
    semantic = True
    own_rates = "model.rates.lr_generator, model.rates.lr_discriminator and the rest of model.rates"
    rate_key = "model.rates.lr_generator"
    generator: net.Generator
    teacher: Teacher
    tally: PseudoTally

    def __init__(
        self,
        recipe: Recipe,
        generator: GeneratorSpec | None = None,
        discriminator: DiscriminatorSpec | None = None,
        rates: Rates | None = None,
        *,
        iterations: int = 50_000,
        evaluate_every: int = 500,
        ema_decay: float = 0.996,
        evaluate: Literal["teacher", "student"] = "teacher",
        background: bool = True,
        image_size: int | None = None,
        max_norm: float = 10.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _check(iterations, evaluate_every, ema_decay, evaluate)
        self.automatic_optimization = False
        self.recipe = recipe
        self.generator_spec = generator or GeneratorSpec()
        self.discriminator_spec = discriminator or DiscriminatorSpec()
        self.rates = rates or Rates()
        self.iterations, self.evaluate_every = iterations, evaluate_every
        self.ema_decay, self.evaluated = ema_decay, evaluate
        self.background, self.max_norm, self.seed = background, max_norm, seed
        spec = self.generator_spec
        # In a list, so that it becomes a module only as part of the generator.
        self._backbone = [
            backbones.load(
                spec.backbone,
                norm=spec.norm,
                output_stride=spec.output_stride,
                seed=seed,
                key="model.generator",
            )
        ]
        stride = self._backbone[0].stride
        self.input_spec = InputSpec("pad", image_size, IMAGENET_MEAN, IMAGENET_STD, stride)
        self.objective = Objective(recipe, self.input_spec)
        self.discriminator: Discriminator | None = None
        self.optimizer_names = ("generator", "discriminator") if recipe.adversarial else ("generator",)
        self.trained_label = "teacher" if evaluate == "teacher" else "generator"

    @property
    def needs_unlabelled(self) -> bool:
        """Whether its training batches must hold unlabelled images."""
        return self.recipe.unlabelled

    @property
    def planned_changes(self) -> Mapping[int, str]:
        """The iteration in which pseudo-labels begin to count."""
        late = self.recipe.unlabelled and self.recipe.lambda_st > 0
        return {self.recipe.st_start + 1: "self_training"} if late else {}

    @property
    def confusion(self) -> Tensor | None:
        """Pixels of the last evaluation by true class (row) and predicted class (column), int64 [C, C]."""
        return self.scores.confusion

    def bind(self, *, categories: Sequence[str], optim: OptimiserFactory | None = None) -> None:
        """Take the class names and build the networks; both optimisers are the family's own (``rates``).

        Raises:
            UserError: the weights that were loaded know other classes.
        """
        if self.categories and tuple(categories) != self.categories:
            raise UserError(
                f"The weights know the classes {', '.join(self.categories)}, the data has "
                f"{', '.join(categories)}: the class lists must be the same, in the same order."
            )
        self._build(len(categories))
        super().bind(categories=categories)

    def _build(self, classes: int) -> None:
        if not self._backbone:
            return
        if classes < 2:
            raise UserError(f"Segmentation needs two classes at least, the data has {classes}.")
        self.generator = net.build(self.generator_spec, self._backbone.pop(), classes, self.seed + 1)
        self.teacher = Teacher(self.generator, self.ema_decay)
        self.tally = PseudoTally(classes)
        if self.recipe.adversarial:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed + 2)
                self.discriminator = Discriminator(
                    classes, self.discriminator_spec, spectral=self.recipe.spectral_norm
                )

    def reset_progress(self) -> None:
        """Also forget what was counted of pseudo-labels."""
        super().reset_progress()
        if "tally" in self._modules:
            self.tally.forget()

    def configure_metrics(self) -> None:
        """Mean IoU on evaluated images, and on a fixed part of the training images."""
        self.scores = SegmentationScores(self.categories, background=self.background)
        self.train_scores = SegmentationScores(self.categories, background=self.background)

    def configure_optimizers(self) -> Any:
        """One for the generator and Adam for the discriminator, each with its schedule of the whole run."""
        total = int(self.trainer.estimated_stepping_batches)
        optimisers = [self.rates.generator(self.generator)]
        if self.discriminator is not None:
            optimisers.append(self.rates.discriminator(self.discriminator))
        schedules = [self.rates.schedule(optimiser, total) for optimiser in optimisers]
        self._settings = [optimisation.settings(optimiser) for optimiser in optimisers]
        return optimisers, [{"scheduler": schedule, "interval": "step"} for schedule in schedules]

    def on_fit_start(self) -> None:
        """Refuse float16: its loss scaling knows nothing of gradients that are computed by hand."""
        if str(self.trainer.precision).startswith("16"):
            raise UserError(
                f"trainer.precision={self.trainer.precision}: model=s4gan trains in 32-true or bf16-mixed."
            )
        recipe = self.recipe
        late = recipe.unlabelled and recipe.lambda_st > 0 and recipe.st_start >= self.iterations
        if late and self.trainer.is_global_zero:
            print(
                f"warning: model.recipe.st_start={recipe.st_start} is behind the end of the run "
                f"(model.iterations={self.iterations}): nothing is learnt from pseudo-labels"
            )

    def on_train_start(self) -> None:
        """A resumed run takes rates and length from its configuration, and from the checkpoint the rest."""
        super().on_train_start()
        schedules = _listed(self.lr_schedulers())
        for optimiser, schedule, settings in zip(
            self.trainer.optimizers, schedules, self._settings, strict=True
        ):
            optimisation.configure(optimiser, schedule, settings)

    def training_step(self, batch: Mapping[str, Batch], batch_idx: int) -> dict[str, Any]:  # type: ignore[override]
        """One iteration: both gradients, both steps, the teacher, the schedules."""
        losses = self._losses(batch)
        terms = [(losses.generator, _trained(self.generator))]
        if losses.discriminator is not None and self.discriminator is not None:
            terms.append((losses.discriminator, _trained(self.discriminator)))
        optimisation.set_gradients(terms)
        for optimiser in _listed(self.optimizers()):
            optimiser.step()
            optimiser.zero_grad()
        self.teacher.update(self.generator, self.iteration)
        for schedule in _listed(self.lr_schedulers()):
            schedule.step()
        parts, facts = self._reduced(losses, batch.get("unlabelled"))
        return self.record_training(
            StepOutput(parts["loss_g"], parts, facts), size=sum(len(part) for part in batch.values())
        )

    def training_loss(self, batch: Mapping[str, Batch]) -> Tensor:
        """Those of both networks together."""
        losses = self._losses(batch)
        return losses.generator if losses.discriminator is None else losses.generator + losses.discriminator

    def _losses(self, batch: Mapping[str, Batch]) -> Losses:
        unlabelled = batch.get("unlabelled") if self.recipe.unlabelled else None
        if self.recipe.unlabelled and unlabelled is None:
            raise UserError(
                "This recipe learns from unlabelled images, and the data gives none: use data=semi, or the "
                "control model/recipe=supervised."
            )
        networks = Networks(self.generator, self.teacher, self.discriminator)
        return self.objective(
            networks, batch["labelled"], unlabelled, self.iteration, self.tally.mean_confidence
        )

    def _reduced(
        self, losses: Losses, unlabelled: Batch | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Parts and facts of all ranks; what was learnt of pseudo-labels goes into the tally."""
        parts = {**losses.parts, "loss_g": losses.generator}
        values = torch.stack([value.detach().float() for value in parts.values()])
        if losses.pseudo is None or unlabelled is None:
            optimisation.average([values])
            return dict(zip(parts, values, strict=True)), {}
        counts = self.tally.measure(losses.pseudo, unlabelled)
        optimisation.average([values, counts])
        world = self.trainer.world_size if self._trainer is not None else 1
        facts = self.tally.add(counts * world)
        return dict(zip(parts, values, strict=True)), facts

    def step(self, batch: Batch, stage: Stage) -> StepOutput:
        """Cross-entropy and predictions of the weights that are evaluated."""
        logits = self._evaluated(batch.images)
        parts = {"loss_ce": loss.cross_entropy(logits, batch.semantic())}
        return StepOutput(parts["loss_ce"], parts, predict=lambda: _predictions(logits.softmax(1), batch))

    def _evaluated(self, images: Tensor) -> Tensor:
        network = self.teacher if self.evaluated == "teacher" else self.generator
        return loss.full_precision(network(images))

    def class_probabilities(self, images: Tensor) -> Tensor:
        """float32 [B, 3, H, W], normalised and padded -> probabilities [B, C, H, W]."""
        return self._evaluated(images).softmax(1)

    def predict_batch(self, batch: Batch) -> list[Prediction]:
        """The likeliest class of each pixel, in the window frame."""
        return _predictions(self.class_probabilities(batch.images), batch)

    def update_metrics(self, batch: Batch, output: StepOutput, stage: Stage) -> None:
        """Add the images to the confusion matrix."""
        _score(self.scores, output.preds(), batch)

    def compute_metrics(self, stage: Stage) -> dict[str, Tensor]:
        """Segmentation scores; in validation also those on training images, the gap, and pseudo-labels'."""
        result = dict(self.scores.compute())
        self.scores.reset()
        if stage != "val":
            return result
        training = self._training_miou()
        if training is not None:
            result["train_miou"] = training
            if "miou" in result:
                result["miou_gap"] = training - result["miou"]
        if self.recipe.unlabelled:
            result |= self.tally.summary(self.categories)
        return result

    @torch.no_grad()
    def _training_miou(self) -> Tensor | None:
        """Mean IoU on the data module's fixed training images, un-augmented; None where it offers none."""
        loader = getattr(getattr(self.trainer, "datamodule", None), "fixed_train_loader", None)
        if loader is None:
            return None
        for batch in loader():
            moved = batch.to(self.device)
            _score(self.train_scores, self.predict_batch(moved), moved)
        scores = self.train_scores.compute()
        self.train_scores.reset()
        return scores.get("miou")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build the networks for the checkpoint's classes; refuse other classes or another optimiser.

        Raises:
            UserError: naming both class lists, or both optimisers where a run is resumed.
        """
        super().on_load_checkpoint(checkpoint)
        if self._trainer is not None and self.trainer.state.fn == "fit":
            self.rates.check_state(checkpoint.get("optimizer_states", []))
        known = tuple(checkpoint["categories"])
        if self.categories and known != self.categories:
            raise UserError(
                f"the checkpoint knows the classes {', '.join(known)}, the data has "
                f"{', '.join(self.categories)}."
            )
        self._build(len(known))
        self.categories = known


def _check(iterations: int, evaluate_every: int, ema_decay: float, evaluate: str) -> None:
    for name, value in (("iterations", iterations), ("evaluate_every", evaluate_every)):
        if value < 1:
            raise UserError(f"model.{name}={value}: give at least 1.")
    if not 0 <= ema_decay < 1:
        raise UserError(f"model.ema_decay={ema_decay}: give a number in [0, 1).")
    if evaluate not in ("teacher", "student"):
        raise UserError(f"model.evaluate={evaluate}: give teacher or student.")


def _trained(network: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [p for p in network.parameters() if p.requires_grad]


def _listed(found: Any) -> list[Any]:
    """Lightning gives one optimiser or schedule bare and several in a list."""
    return list(found) if isinstance(found, list | tuple) else [found]


def _predictions(probabilities: Tensor, batch: Batch) -> list[Prediction]:
    places = [sample.geometry for sample in batch.samples]
    return [
        Prediction.of_classes(to_window(map_, place.content, place.window_size).argmax(0).cpu())
        for map_, place in zip(probabilities, places, strict=True)
    ]


def _score(scores: SegmentationScores, predictions: list[Prediction], batch: Batch) -> None:
    truths = [sample.truth for sample in batch.samples]
    if any(truth is None or truth.semantic is None for truth in truths):
        raise UserError(
            "model=s4gan is scored on class maps; this data has none: use data=semi or data=semantic."
        )
    scores.update(predictions, [truth for truth in truths if truth is not None])
