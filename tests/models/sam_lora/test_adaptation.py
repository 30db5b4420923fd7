"""What is trained, what stays frozen, and that a fresh adapter is the base."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, Sam3Model

from maskwell.errors import UserError
from maskwell.models.sam_lora.adaptation import PRESETS, Adaptation, Lora, adapt
from maskwell.models.sam_lora.loss import LossWeights, RowTarget, SetLoss
from maskwell.models.sam_lora.net import PromptedSam, PromptOutputs
from maskwell.models.sam_lora.tiny import tiny_config

NewSam = Callable[[], Sam3Model]
Base = tuple[Sam3Model, PreTrainedTokenizerBase]
RANK = 4
CASES: list[tuple[Adaptation, str]] = [
    *(("lora", preset) for preset in PRESETS),
    ("full", "attention"),
    ("heads", "attention"),
]


def adapted(
    sam: Sam3Model, adaptation: Adaptation = "lora", targets: str = "attention_mlp", **options: bool
) -> nn.Module:
    switches = {"train_text": False, "train_semantic": False, **options}
    return adapt(sam, adaptation, Lora(rank=RANK, targets=targets), **switches)


def train_once(net: PromptedSam, images: Tensor, weights: LossWeights | None = None) -> None:
    """One forward and backward pass with an object, two objects, and a negative."""
    boxes = torch.tensor([[0.1, 0.1, 0.5, 0.6], [0.4, 0.3, 0.9, 0.9]])
    masks = torch.zeros(2, 32, 32, dtype=torch.bool)
    masks[0, 3:19, 3:16], masks[1, 10:29, 13:29] = True, True
    targets = [RowTarget(boxes[:n], masks[:n]) for n in (1, 0, 2)]
    outputs = net(images, torch.tensor([0, 0, 1]), ["nucleus", "dog", "red circle"])
    loss, _ = SetLoss(weights=weights or LossWeights())(outputs, targets)
    loss.backward()


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(("adaptation", "targets"), CASES)
def test_every_trained_parameter_has_a_gradient(
    adaptation: Adaptation, targets: str, base: Base, new_sam: NewSam, images: Tensor
) -> None:
    """Text prompts only: what gets no gradient must not be trainable, or DDP refuses it."""
    net = PromptedSam(adapted(new_sam(), adaptation, targets), base[1])
    train_once(net, images)
    assert trainable(net)
    without = [name for name, p in trainable(net).items() if p.grad is None]
    assert without == []
    share = sum(p.numel() for p in trainable(net).values()) / sum(p.numel() for p in net.parameters())
    print(f"{adaptation} {targets}: {share:.1%} of the parameters trained")
    assert (share > 0.5) == (adaptation == "full")


@pytest.mark.parametrize("adaptation", ["lora", "full"])
def test_levels_of_the_published_model_leave_none_without(adaptation: Adaptation, base: Base) -> None:
    """SAM 3 has four levels of features and three upsampling stages, of which text prompts use two."""
    config = tiny_config(len(base[1]), image_size=32)
    config.vision_config.scale_factors = [4.0, 2.0, 1.0, 0.5]
    config.vision_config.backbone_feature_sizes = [[16, 16], [8, 8], [4, 4], [2, 2]]
    config.mask_decoder_config.num_upsampling_stages = 3
    torch.manual_seed(0)
    net = PromptedSam(adapted(Sam3Model(config), adaptation), base[1])
    train_once(net, torch.randn(2, 3, 32, 32))
    assert [name for name, p in trainable(net).items() if p.grad is None] == []


@pytest.mark.parametrize(("adaptation", "targets"), CASES)
def test_text_and_geometry_stay_frozen(adaptation: Adaptation, targets: str, new_sam: NewSam) -> None:
    names = trainable(adapted(new_sam(), adaptation, targets))
    assert not [n for n in names if "text_encoder" in n or "text_projection" in n or "geometry_encoder" in n]


@pytest.mark.parametrize("adaptation", ["full", "lora"])
def test_text_that_trains_gets_gradients(
    adaptation: Adaptation, base: Base, new_sam: NewSam, images: Tensor
) -> None:
    net = PromptedSam(adapted(new_sam(), adaptation, train_text=True), base[1])
    train_once(net, images)
    assert [name for name, p in trainable(net).items() if p.grad is None] == []
    assert any("text_encoder" in name for name in trainable(net))


def test_semantic_output_trains_where_its_loss_is_on(base: Base, new_sam: NewSam, images: Tensor) -> None:
    net = PromptedSam(adapted(new_sam(), "full", train_semantic=True), base[1])
    train_once(net, images, LossWeights(semantic=1.0))
    assert "model.mask_decoder.semantic_projection.weight" in trainable(net)
    assert [name for name, p in trainable(net).items() if p.grad is None] == []


@pytest.mark.parametrize(
    ("targets", "inside", "outside"),
    [
        ("attention", ("vision_encoder", "detr_encoder", "detr_decoder", "mask_decoder"), ("fc1", "fc2")),
        ("attention_mlp", ("vision_encoder", "fc1", "fc2", "q_proj", "o_proj"), ()),
        ("decoder_only", ("detr_decoder", "mask_decoder", "fc1"), ("vision_encoder", "detr_encoder")),
    ],
)
def test_presets_reach_what_their_name_says(
    targets: str, inside: tuple[str, ...], outside: tuple[str, ...], new_sam: NewSam
) -> None:
    names = trainable(adapted(new_sam(), targets=targets))
    assert all("lora_" in name for name in names)
    assert all(any(part in name for name in names) for part in inside)
    assert not any(part in name for name in names for part in outside)


def test_adapter_parameters_are_few_and_as_many_as_the_layers_say(new_sam: NewSam) -> None:
    model = adapted(new_sam(), targets="attention_mlp")
    expected = 0
    for name, module in new_sam().named_modules():
        parts = name.split(".")
        if parts[0] in ("vision_encoder", "detr_encoder", "detr_decoder", "mask_decoder") and parts[-1] in (
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "fc1",
            "fc2",
        ):
            expected += RANK * (module.in_features + module.out_features)
    assert sum(p.numel() for p in trainable(model).values()) == expected


def test_a_fresh_adapter_is_the_base_and_a_changed_one_is_not(
    base: Base, new_sam: NewSam, images: Tensor
) -> None:
    rows, prompts, images = torch.tensor([0, 1]), ["nucleus", "dog"], images.double()
    before = PromptedSam(new_sam().double(), base[1])(images, rows, prompts)
    net = PromptedSam(adapted(new_sam()).double(), base[1])
    assert isinstance(net.model, PeftModel)
    _assert_equal(before, net(images, rows, prompts))
    with torch.no_grad():
        for name, parameter in trainable(net).items():
            if "lora_B" in name:
                parameter.fill_(0.01)
    assert not torch.allclose(before.logits, net(images, rows, prompts).logits, atol=1e-3)
    with net.model.disable_adapter():
        _assert_equal(before, net(images, rows, prompts))


def _assert_equal(first: PromptOutputs, second: PromptOutputs) -> None:
    for field in fields(PromptOutputs):
        one, other = getattr(first, field.name), getattr(second, field.name)
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10, msg=field.name)


def test_modules_to_save_train_beside_the_adapter(base: Base, new_sam: NewSam, images: Tensor) -> None:
    lora = Lora(rank=RANK, targets="decoder_only", modules_to_save=("box_head", "presence_head"))
    net = PromptedSam(adapt(new_sam(), "lora", lora, train_text=False, train_semantic=False), base[1])
    train_once(net, images)
    names = trainable(net)
    assert any("box_head" in name for name in names)
    assert [name for name, p in names.items() if p.grad is None] == []


def test_a_regular_expression_chooses_layers(new_sam: NewSam) -> None:
    names = trainable(adapted(new_sam(), targets=r"detr_decoder\.layers\.0\.self_attn\.q_proj"))
    assert len(names) == 2
    assert all("detr_decoder.layers.0.self_attn.q_proj.lora_" in name for name in names)


def test_unknown_names_are_refused_with_the_nearest_known_one(new_sam: NewSam) -> None:
    with pytest.raises(UserError, match=r"model\.lora\.targets=atention .*Did you mean 'attention'\?"):
        adapted(new_sam(), targets="atention")
    with pytest.raises(UserError, match=r"model\.adaptation=ful .*Did you mean 'full'\?"):
        adapted(new_sam(), "ful")  # type: ignore[arg-type]
