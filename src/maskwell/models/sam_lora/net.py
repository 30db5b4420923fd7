"""SAM 3 as a network over (image, prompt) rows: images encoded once, prompts sharing them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, Sam3Model
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.sam3.modeling_sam3 import Sam3VisionEncoderOutput, inverse_sigmoid

from maskwell.errors import UserError
from maskwell.ops import boxes as box_ops


@dataclass
class PromptOutputs:
    """Outputs of P (image, prompt) rows, L decoder layers, Q queries.

    ``logits`` [L, P, Q]; ``boxes`` [L, P, Q, 4] xyxy in [0, 1]; ``presence`` [L, P] logits;
    ``masks`` [P, Q, h, w] logits of the last layer; ``semantic`` [P, h, w] logits.
    """

    logits: Tensor
    boxes: Tensor
    presence: Tensor
    masks: Tensor
    semantic: Tensor

    def float(self) -> PromptOutputs:
        """The same in float32, which the losses need under autocast."""
        return replace(self, **{f.name: getattr(self, f.name).float() for f in fields(self)})

    def detached(self) -> PromptOutputs:
        """The same in float32 outside the graph, for predictions."""
        return replace(self, **{f.name: getattr(self, f.name).detach().float() for f in fields(self)})

    def scores(self) -> Tensor:
        """[P, Q] in [0, 1]: sigmoid(logit) x sigmoid(presence) of the last layer."""
        return self.logits[-1].sigmoid() * self.presence[-1].sigmoid().unsqueeze(-1)


class PromptedSam(nn.Module):
    """Wraps a (possibly LoRA-injected) :class:`Sam3Model`; owns prompts, sharing and all layers' outputs.

    transformers returns only the last decoder layer's logits and boxes; two forward hooks read the
    other layers', which are computed anyway.
    """

    def __init__(self, sam: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.model = sam
        self.tokenizer = tokenizer
        self._text_cache: dict[str, tuple[Tensor, Tensor]] = {}
        self._captured: dict[str, Any] = {}
        self.sam.detr_decoder.register_forward_hook(self._capture("decoder"))
        self.sam.dot_product_scoring.register_forward_hook(self._capture("scores"))

    @property
    def sam(self) -> Sam3Model:
        """The bare SAM 3, also where peft wraps it."""
        model = self.model
        return model if isinstance(model, Sam3Model) else model.get_base_model()

    @property
    def text_is_frozen(self) -> bool:
        """Whether a prompt's embedding can be kept."""
        text = [*self.sam.text_encoder.parameters(), *self.sam.text_projection.parameters()]
        return not any(p.requires_grad for p in text)

    def _capture(self, name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self._captured[name] = output

        return hook

    def encode_prompts(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Text features [P, T, d] and mask bool [P, T] of P phrases; distinct phrases once.

        Raises:
            UserError: a phrase has no token.
        """
        unique = list(dict.fromkeys(prompts))
        if self.text_is_frozen:
            missing = [phrase for phrase in unique if phrase not in self._text_cache]
            if missing:
                # In full precision: what is kept serves inside and outside of autocast.
                with torch.no_grad(), torch.autocast(self.sam.device.type, enabled=False):
                    features, mask = self._encode(missing)
                for i, phrase in enumerate(missing):
                    self._text_cache[phrase] = (features[i], mask[i])
            device = self.sam.device
            known = {p: tuple(t.to(device) for t in self._text_cache[p]) for p in unique}
            features = torch.stack([known[p][0] for p in unique])
            mask = torch.stack([known[p][1] for p in unique])
        else:
            features, mask = self._encode(unique)
        order = torch.tensor([unique.index(p) for p in prompts], device=features.device)
        longest = int(mask.sum(-1).max())
        return features[order, :longest], mask[order, :longest]

    def _encode(self, phrases: Sequence[str]) -> tuple[Tensor, Tensor]:
        for phrase in phrases:
            if not self.tokenizer(phrase, add_special_tokens=False).input_ids:
                raise UserError(
                    f"The prompt {phrase!r} has no word in it; give a short noun phrase such as 'nucleus'."
                )
        length = self.sam.config.text_config.max_position_embeddings
        tokens = self.tokenizer(
            list(phrases), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        ).to(self.sam.device)
        output = self.sam.get_text_features(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, return_dict=True
        )
        return output.pooler_output, tokens.attention_mask.bool()

    def forward(self, images: Tensor, image_of_row: Tensor, prompts: Sequence[str]) -> PromptOutputs:
        """Answer P prompts about B images.

        Args:
            images: [B, 3, S, S], normalised.
            image_of_row: int64 [P], which image each prompt is about.
            prompts: P phrases.
        """
        vision = self.sam.get_vision_features(images)
        shared = Sam3VisionEncoderOutput(
            fpn_hidden_states=tuple(level[image_of_row] for level in vision.fpn_hidden_states),
            fpn_position_encoding=tuple(
                level[:1].expand(len(prompts), -1, -1, -1) for level in vision.fpn_position_encoding
            ),
        )
        features, mask = self.encode_prompts(prompts)
        output = self.sam(
            vision_embeds=shared,
            text_embeds=BaseModelOutputWithPooling(pooler_output=features),
            attention_mask=mask.long(),
        )
        return self._all_layers(output.pred_masks, output.semantic_seg)

    def _all_layers(self, masks: Tensor, semantic: Tensor) -> PromptOutputs:
        decoder, scores = self._captured.pop("decoder"), self._captured.pop("scores")
        offsets = self.sam.detr_decoder.box_head(decoder.intermediate_hidden_states)
        centred = (inverse_sigmoid(decoder.reference_boxes) + offsets).sigmoid()
        return PromptOutputs(
            logits=scores.squeeze(-1),
            boxes=box_ops.cxcywh_to_xyxy(centred),
            presence=decoder.presence_logits.squeeze(-1),
            masks=masks,
            semantic=semantic[:, 0],
        )
