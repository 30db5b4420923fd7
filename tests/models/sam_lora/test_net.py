"""Images encoded once, prompts sharing them, outputs of all layers: held against transformers' forward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, Sam3Model

from maskwell.errors import UserError
from maskwell.models.sam_lora.net import PromptedSam, PromptOutputs

PROMPTS = ["nucleus", "small red circle", "striped square on the left", "dog", "nucleus"]
EXACT = {"atol": 1e-9, "rtol": 1e-9}  # of float64
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def rows_of(output: PromptOutputs, rows: Sequence[int]) -> PromptOutputs:
    """The given rows of all fields; logits, boxes and presence carry layers first."""
    index = torch.tensor(rows)
    layered = {name: getattr(output, name)[:, index] for name in ("logits", "boxes", "presence")}
    return PromptOutputs(**layered, masks=output.masks[index], semantic=output.semantic[index])


def assert_same(first: PromptOutputs, second: PromptOutputs) -> None:
    tolerance = EXACT if first.masks.dtype == torch.float64 else CLOSE
    for field in fields(PromptOutputs):
        one, other = getattr(first, field.name), getattr(second, field.name)
        torch.testing.assert_close(one, other, **tolerance, msg=lambda m, f=field: f"{f.name}: {m}")


def calls_of(module: nn.Module) -> list[tuple[int, ...]]:
    """A list that grows by the shape of the first input at each forward of ``module``."""
    shapes: list[tuple[int, ...]] = []
    module.register_forward_pre_hook(
        lambda _m, inputs, kw: shapes.append(_shape(inputs, kw)), with_kwargs=True
    )
    return shapes


def _shape(inputs: tuple[Tensor, ...], keywords: dict[str, Tensor]) -> tuple[int, ...]:
    return tuple((inputs[0] if inputs else next(iter(keywords.values()))).shape)


def test_shapes(net: PromptedSam, images: Tensor) -> None:
    output = net(images, torch.tensor([0, 1, 1]), ["nucleus", "dog", "red circle"])
    layers, queries = 3, 64
    assert output.logits.shape == (layers, 3, queries)
    assert output.boxes.shape == (layers, 3, queries, 4)
    assert output.presence.shape == (layers, 3)
    assert output.masks.shape == (3, queries, 8, 8)
    assert output.semantic.shape == (3, 8, 8)
    assert output.scores().shape == (3, queries)
    expected = output.logits[-1].sigmoid() * output.presence[-1].sigmoid()[:, None]
    torch.testing.assert_close(output.scores(), expected)


def test_prompts_on_one_image_equal_as_many_passes(exact_net: PromptedSam, images: Tensor) -> None:
    together = exact_net(images[:1].double(), torch.zeros(len(PROMPTS), dtype=torch.int64), PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        alone = exact_net(images[:1].double(), torch.zeros(1, dtype=torch.int64), [prompt])
        assert_same(rows_of(together, [row]), alone)


def test_rows_do_not_see_each_other(exact_net: PromptedSam, images: Tensor) -> None:
    """Rows in another order, over two images, are the same rows."""
    image_of_row, order = torch.tensor([0, 0, 1, 1, 1]), [3, 0, 4, 2, 1]
    straight = exact_net(images.double(), image_of_row, PROMPTS)
    shuffled = exact_net(images.double(), image_of_row[order], [PROMPTS[i] for i in order])
    assert_same(rows_of(straight, order), shuffled)


def test_last_layer_is_the_output_of_transformers(exact_net: PromptedSam, images: Tensor) -> None:
    """Full forward of the port, one image per prompt, text padded to its full length."""
    image_of_row = torch.tensor([0, 1, 1, 0, 1])
    output = exact_net(images.double(), image_of_row, PROMPTS)
    tokens = exact_net.tokenizer(
        PROMPTS, padding="max_length", max_length=16, truncation=True, return_tensors="pt"
    )
    reference = exact_net.sam(
        pixel_values=images[image_of_row].double(),
        input_ids=tokens.input_ids,
        attention_mask=tokens.attention_mask,
    )
    torch.testing.assert_close(output.logits[-1], reference.pred_logits, **EXACT)
    torch.testing.assert_close(output.boxes[-1], reference.pred_boxes, **EXACT)
    torch.testing.assert_close(output.presence[-1], reference.presence_logits[:, 0], **EXACT)
    torch.testing.assert_close(output.masks, reference.pred_masks, **EXACT)
    torch.testing.assert_close(output.semantic, reference.semantic_seg[:, 0], **EXACT)


def test_every_layer_has_its_own_boxes_and_logits(net: PromptedSam, images: Tensor) -> None:
    """Box refinement chains the layers: each layer starts from the boxes of the one before."""
    output = net(images[:1], torch.tensor([0]), ["nucleus"])
    captured: list[Tensor] = []
    net.sam.detr_decoder.register_forward_hook(lambda _m, _i, out: captured.append(out.reference_boxes))
    net(images[:1], torch.tensor([0]), ["nucleus"])
    (references,) = captured
    for layer in (0, 1):
        x, y, width, height = references[layer + 1, 0].unbind(-1)
        corners = torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], dim=-1)
        torch.testing.assert_close(output.boxes[layer, 0], corners, **CLOSE)
        assert not torch.allclose(output.logits[layer], output.logits[layer + 1], atol=1e-4)


def test_an_image_is_encoded_once_for_all_its_prompts(net: PromptedSam, images: Tensor) -> None:
    shapes = calls_of(net.sam.vision_encoder)
    net(images, torch.tensor([0, 0, 0, 1, 1]), PROMPTS)
    assert shapes == [(2, 3, 32, 32)]


def test_frozen_text_is_encoded_once_per_phrase(net: PromptedSam, images: Tensor) -> None:
    shapes = calls_of(net.sam.text_encoder)
    image_of_row = torch.tensor([0, 0, 0, 1, 1])
    first = net(images, image_of_row, PROMPTS)
    assert [shape[0] for shape in shapes] == [4]  # "nucleus" is asked twice
    second = net(images, image_of_row, PROMPTS)
    assert len(shapes) == 1
    assert_same(first, second)
    net(images, image_of_row[:2], ["nucleus", "cat"])
    assert [shape[0] for shape in shapes] == [4, 1]


def test_kept_text_equals_text_that_trains(
    base: tuple[Sam3Model, PreTrainedTokenizerBase], new_sam: Callable[[], Sam3Model], images: Tensor
) -> None:
    frozen = PromptedSam(new_sam().requires_grad_(False), base[1])
    training = PromptedSam(new_sam(), base[1])
    assert frozen.text_is_frozen
    assert not training.text_is_frozen
    rows = torch.tensor([0, 0, 0, 1, 1])
    assert_same(frozen(images, rows, PROMPTS), training(images, rows, PROMPTS))


def test_text_that_trains_is_never_kept(
    base: tuple[Sam3Model, PreTrainedTokenizerBase], new_sam: Callable[[], Sam3Model], images: Tensor
) -> None:
    net = PromptedSam(new_sam(), base[1])
    shapes = calls_of(net.sam.text_encoder)
    for _ in range(2):
        net(images[:1], torch.tensor([0]), ["nucleus"]).logits.sum().backward()
    assert len(shapes) == 2
    assert net.sam.text_projection.weight.grad is not None
    before = net.encode_prompts(["nucleus"])[0]
    with torch.no_grad():
        net.sam.text_projection.weight.mul_(2)
    assert not torch.allclose(before, net.encode_prompts(["nucleus"])[0])


def test_text_is_cut_to_the_longest_prompt(net: PromptedSam) -> None:
    features, mask = net.encode_prompts(["dog", "small red circle"])
    lengths = [len(net.tokenizer(p).input_ids) for p in ("dog", "small red circle")]
    assert lengths[0] < lengths[1] < 16
    assert features.shape[:2] == mask.shape == (2, lengths[1])
    assert mask.sum(-1).tolist() == lengths


def test_a_prompt_longer_than_the_text_encoder_is_cut(net: PromptedSam, images: Tensor) -> None:
    _, mask = net.encode_prompts(["very " * 40 + "small nucleus"])
    assert mask.shape == (1, 16)
    assert net(images[:1], torch.tensor([0]), ["very " * 40 + "small nucleus"]).logits.isfinite().all()


@pytest.mark.parametrize("prompt", ["", "   ", "\t\n"])
def test_a_prompt_without_a_token_is_refused(net: PromptedSam, prompt: str) -> None:
    with pytest.raises(UserError, match="no word"):
        net.encode_prompts(["nucleus", prompt])


def test_prompts_kept_during_inference_serve_training(
    base: tuple[Sam3Model, PreTrainedTokenizerBase], new_sam: Callable[[], Sam3Model], images: Tensor
) -> None:
    """The base is evaluated before the first training step, and Lightning does so in inference mode."""
    sam = new_sam().requires_grad_(True)
    sam.text_encoder.requires_grad_(False)
    sam.text_projection.requires_grad_(False)
    net = PromptedSam(sam, base[1])
    with torch.inference_mode():
        before = net(images, torch.tensor([0, 1]), ["nucleus", "dog"])
    after = net(images, torch.tensor([0, 1]), ["nucleus", "dog"])
    after.logits.sum().backward()
    assert_same(before, after)
    assert sam.detr_encoder.layers[0].cross_attn.k_proj.weight.grad is not None


def test_prompts_kept_under_autocast_serve_full_precision(net: PromptedSam, images: Tensor) -> None:
    rows = torch.tensor([0, 1])
    with torch.autocast("cpu", torch.bfloat16):
        net(images, rows, ["nucleus", "dog"])
    kept = net(images, rows, ["nucleus", "dog"])
    net._text_cache.clear()
    assert_same(kept, net(images, rows, ["nucleus", "dog"]))


def test_float_and_detached(net: PromptedSam, images: Tensor) -> None:
    net.sam.requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16):
        output = net(images, torch.tensor([0, 1]), ["nucleus", "dog"])
    assert output.masks.dtype == torch.bfloat16
    for field in fields(PromptOutputs):
        assert getattr(output.float(), field.name).dtype == torch.float32
        assert getattr(output.float(), field.name).requires_grad
        assert not getattr(output.detached(), field.name).requires_grad


def test_nothing_is_kept_between_passes(net: PromptedSam, images: Tensor) -> None:
    """Outputs of the hooks are handed over, so that no graph outlives its step."""
    net(images[:1], torch.tensor([0]), ["nucleus"])
    assert not net._captured
