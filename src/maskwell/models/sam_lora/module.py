"""SAM-LoRA: promptable instance segmentation with SAM 3 and low-rank adapters."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import Sam3Model

from maskwell.data.sample import Batch, InputSpec, Prediction, Sample
from maskwell.errors import UserError
from maskwell.metrics.coco_map import PHRASES, CocoMap
from maskwell.metrics.concept import ConceptF1, DetectionStats, PromptResult, named_by
from maskwell.models.base import Ahead, BaseTask, Stage, StepOutput
from maskwell.models.sam_lora.adaptation import Adaptation, Lora, adapt
from maskwell.models.sam_lora.answers import Answers, Detection, Row
from maskwell.models.sam_lora.base_model import SCRATCH, load_base, weight_hash
from maskwell.models.sam_lora.loss import RowTarget, SetLoss
from maskwell.models.sam_lora.net import PromptedSam, PromptOutputs
from maskwell.models.sam_lora.tiny import SCENES


class SamLora(BaseTask):
    """Trains adapters (or all, or the heads) of a SAM 3 on images with text prompts.

    Args:
        base: ``tiny``, ``scratch``, a directory in Hub layout, or a Hub name.
        image_size: side of the square input in px; None: the base's own.
        adaptation: ``lora``, ``full`` or ``heads``.
        train_text: also train the text encoder (off: prompts are encoded once and kept).
        gradient_checkpointing: recompute the vision encoder in the backward pass to save memory.
        seed: of fresh weights.
    """

    family = "sam_lora"
    promptable = True

    def __init__(
        self,
        base: str,
        *,
        image_size: int | None = None,
        adaptation: Adaptation = "lora",
        train_text: bool = False,
        lora: Lora | None = None,
        loss: SetLoss | None = None,
        detection: Detection | None = None,
        gradient_checkpointing: bool = False,
        max_dets: tuple[int, ...] = (1, 10, 100),
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.base, self.adaptation = base, adaptation
        self.trained_label = "adapter" if adaptation == "lora" else adaptation
        self.criterion = loss or SetLoss()
        self.detection = detection or Detection()
        self.max_dets = tuple(max_dets)
        sam, tokenizer = load_base(base, image_size=image_size, seed=seed)
        self.base_hash = weight_hash(sam)
        self.knows_scenes = base != SCRATCH and getattr(sam.config, "pretrained_on", None) == SCENES
        self._set_input_spec(sam)
        if gradient_checkpointing:
            enable_checkpointing(sam)
        semantic = bool(self.criterion.weights.semantic or self.criterion.weights.semantic_dice)
        model = adapt(sam, adaptation, lora or Lora(), train_text=train_text, train_semantic=semantic)
        self.net = PromptedSam(model, tokenizer)
        self.strict_loading = False  # checkpoints hold what is trained, not the frozen base

    def _set_input_spec(self, sam: Sam3Model) -> None:
        size = int(sam.config.vision_config.backbone_config.image_size)
        half = (0.5, 0.5, 0.5)
        self.input_spec = InputSpec(fit="square", size=size, mean=half, std=half)

    def configure_metrics(self) -> None:
        """COCO mAP, concept F1 and the notes' detection statistics."""
        self.coco = CocoMap((*self.categories, PHRASES), max_dets=self.max_dets)
        self.concept = ConceptF1()
        self.stats = DetectionStats()

    def step(self, batch: Batch, stage: Stage) -> StepOutput:
        """One row per (image, prompt); the same loss in every stage."""
        rows, outputs = self._answer(batch)
        targets = _targets(batch, rows)
        loss, parts = self.criterion(outputs, targets, self.together)
        positives = sum(len(target.boxes) > 0 for target in targets)
        facts = {
            "num_objects": torch.tensor(float(sum(len(t.boxes) for t in targets))),
            "num_prompts": torch.tensor(float(len(rows))),
            "negative_share": torch.tensor(1 - positives / len(rows)),
            **_mask_fill(outputs, targets),
        }
        if stage == "train":  # nobody asks for predictions there, and float32 copies of masks are large
            return StepOutput(loss, parts, facts)
        answers = Answers(rows, outputs.detached(), batch, self.detection)
        return StepOutput(loss, parts, facts, predict=answers)

    def look_ahead(self, batch: Batch) -> Ahead:
        """Objects that prompts name, and prompts."""
        return Ahead(self.criterion.counts(_targets(batch, _rows(batch))))

    def predict_batch(self, batch: Batch) -> list[Prediction]:
        """Answers to the prompts each sample carries; labels are the prompts' labels."""
        rows, outputs = self._answer(batch)
        return Answers(rows, outputs.detached(), batch, self.detection)()

    def _answer(self, batch: Batch) -> tuple[list[Row], PromptOutputs]:
        rows = _rows(batch)
        if not rows:
            raise UserError(
                "The data carries no prompts; sam_lora needs data.prompts (category names or phrases)."
            )
        image_of_row = torch.tensor([i for i, _ in rows], device=batch.images.device)
        return rows, self.net(batch.images, image_of_row, [prompt.text for _, prompt in rows])

    def update_metrics(self, batch: Batch, output: StepOutput, stage: Stage) -> None:
        """Category prompts feed COCO mAP; every prompt, negatives included, feeds concept F1.

        Free phrases that name objects (generated scenes) count as an image each, of the category PHRASES.
        """
        answers = output.predict
        assert isinstance(answers, Answers)
        for sample, merged, by_prompt in zip(batch.samples, output.preds(), answers.by_prompt, strict=True):
            assert sample.truth is not None
            if any(prompt.label >= 0 for prompt in sample.prompts):
                self.coco.update([merged], [sample.truth])
                self.stats.update([merged])
            for prompt, answer in by_prompt:
                truth = named_by(prompt, sample.truth, label=len(self.categories))
                if truth is None:
                    continue
                self.concept.update(
                    [PromptResult(answer.scores, answer.boxes, truth.boxes, answer.rles, truth.rles)]
                )
                if prompt.label < 0 and prompt.objects:
                    as_category = replace(answer, labels=torch.full_like(answer.labels, len(self.categories)))
                    self.coco.update([as_category], [truth])
                    self.stats.update([as_category])

    def compute_metrics(self, stage: Stage) -> dict[str, Tensor]:
        """All metrics by name; resets them."""
        result: dict[str, Any] = {}
        for metric in (self.coco, self.concept, self.stats):
            result |= metric.compute()
            metric.reset()
        return result

    def prepare_inference(self) -> None:
        """Add the adapters to the weights that they adapt."""
        if isinstance(self.net.model, PeftModel):
            self.net.model.merge_adapter()

    def save_adapter(self, folder: str | Path) -> bool:
        """Write the adapter as a plain peft folder; False (and nothing written) without an adapter."""
        if not isinstance(self.net.model, PeftModel):
            return False
        self.net.model.peft_config["default"].base_model_name_or_path = self.base
        # The word embeddings are never changed; left to itself peft asks the Hub whether they were.
        self.net.model.save_pretrained(str(folder), save_embedding_layers=False)
        return True

    def save_merged(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write the whole model, adapters merged, with its tokenizer in Hub layout.

        The task itself is left as it is; ``dtype`` is that of the file.
        """
        model = copy.deepcopy(self.net.model)
        merged = model.merge_and_unload() if isinstance(model, PeftModel) else model
        merged.to(dtype).save_pretrained(str(folder))
        self.net.tokenizer.save_pretrained(str(folder))

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """What is trained: adapters, or all of it in full fine-tuning; never the frozen base."""
        trained = {name for name, _ in self.trainable_parameters()}
        return {k: v for k, v in super().state_dict(*args, **kwargs).items() if k in trained}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the base's name and weight hash, without which an adapter means nothing."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["base"] = self.base
        checkpoint["base_hash"] = self.base_hash

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights of another base or of another set of trained parameters.

        Raises:
            UserError: naming both.
        """
        super().on_load_checkpoint(checkpoint)
        if checkpoint.get("base_hash") != self.base_hash:
            raise UserError(
                f"The checkpoint was trained on base '{checkpoint.get('base')}' with other weights than "
                f"model.base={self.base} has; give the base it was trained on."
            )
        expected = {(name, p.shape) for name, p in self.trainable_parameters()}
        stored = {(name, tensor.shape) for name, tensor in checkpoint["state_dict"].items()}
        if expected != stored:
            odd = min(name for name, _ in expected ^ stored)
            raise UserError(
                f"The checkpoint holds {len(stored)} trained tensors, this model trains {len(expected)} "
                f"(first difference: {odd}); model.adaptation and model.lora must be those of the checkpoint."
            )


def enable_checkpointing(sam: Sam3Model) -> None:
    """Recompute the layers of the vision encoder in the backward pass instead of keeping them."""
    # The port marks the class as unable although its layers support it (transformers 5.23).
    type(sam).supports_gradient_checkpointing = True
    sam.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    sam.vision_encoder.train()


def _rows(batch: Batch) -> list[Row]:
    """(image, prompt) of a batch."""
    return [(i, prompt) for i, sample in enumerate(batch.samples) for prompt in sample.prompts]


def _targets(batch: Batch, rows: list[Row]) -> list[RowTarget]:
    return [_row_target(batch.samples[i], prompt.objects) for i, prompt in rows]


def _row_target(sample: Sample, objects: tuple[int, ...]) -> RowTarget:
    index = torch.tensor(objects, dtype=torch.int64, device=sample.boxes.device)
    return RowTarget(sample.boxes[index], None if sample.masks is None else sample.masks[index])


@torch.no_grad()
def _mask_fill(outputs: PromptOutputs, targets: list[RowTarget]) -> dict[str, Tensor]:
    """Shares of the image that the surest mask of each prompt covers, and that an object which it names does.

    Means over the prompts whose objects have masks; 0 without any.
    """
    named = [(row, t.masks) for row, t in enumerate(targets) if t.masks is not None and len(t.masks)]
    if not named:
        return {"mask_fill": torch.zeros(()), "mask_fill_true": torch.zeros(())}
    rows = [row for row, _ in named]
    surest = outputs.masks[rows, outputs.logits[-1, rows].argmax(-1)]
    true = torch.stack([masks.count_nonzero() / masks.numel() for _, masks in named])
    return {"mask_fill": (surest > 0).float().mean(), "mask_fill_true": true.mean()}
