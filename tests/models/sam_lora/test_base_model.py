"""Where a base comes from, and that a bad one is refused in one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase, Sam3Model

from maskwell.errors import UserError
from maskwell.models.sam_lora.base_model import load_base, weight_hash
from maskwell.models.sam_lora.net import PromptedSam, PromptOutputs

Base = tuple[Sam3Model, PreTrainedTokenizerBase]
NewSam = Callable[[], Sam3Model]


@pytest.fixture(scope="module")
def hub_folder(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small base as ``save_pretrained`` writes it; not to be changed."""
    folder = tmp_path_factory.mktemp("hub")
    base[0].save_pretrained(folder)
    base[1].save_pretrained(folder)
    return folder


@pytest.fixture
def own_folder(hub_folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    for file in hub_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def edit_weights(folder: Path, edit: Callable[[dict[str, Tensor]], None]) -> None:
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_saved_model_answers_as_before(base: Base, hub_folder: Path, images: Tensor) -> None:
    sam, tokenizer = load_base(str(hub_folder))
    assert weight_hash(sam) == weight_hash(base[0])
    rows, prompts = torch.tensor([0, 1, 1]), ["nucleus", "Small red circle", "zebra"]
    before = PromptedSam(base[0], base[1])(images, rows, prompts)
    after = PromptedSam(sam, tokenizer)(images, rows, prompts)
    for field in fields(PromptOutputs):
        torch.testing.assert_close(getattr(after, field.name), getattr(before, field.name))


def test_loading_says_nothing_of_its_own(hub_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_base(str(hub_folder))
    assert "missing" not in capfd.readouterr().err.lower()


def test_a_video_model_gives_its_image_model(own_folder: Path, base: Base, images: Tensor) -> None:
    """Upstream's repository: the image model's configuration and weights lie inside the video model's."""
    config = json.loads((own_folder / "config.json").read_text())
    wrapped = {"model_type": "sam3_video", "detector_config": config, "tracker_config": {}}
    (own_folder / "config.json").write_text(json.dumps(wrapped))

    def wrap(weights: dict[str, Tensor]) -> None:
        for name in list(weights):
            weights[f"detector_model.{name}"] = weights.pop(name)
        weights["tracker_model.memory"] = torch.zeros(3)

    edit_weights(own_folder, wrap)
    sam, _ = load_base(str(own_folder))
    assert weight_hash(sam) == weight_hash(base[0])
    larger, _ = load_base(str(own_folder), image_size=64)
    assert larger.config.vision_config.backbone_config.image_size == 64


def test_weights_load_in_float32_from_half_precision(own_folder: Path) -> None:
    edit_weights(
        own_folder, lambda w: w.update({k: v.bfloat16() for k, v in w.items() if v.is_floating_point()})
    )
    sam, _ = load_base(str(own_folder))
    assert {p.dtype for p in sam.parameters()} == {torch.float32}


def test_a_missing_weight_is_refused(own_folder: Path) -> None:
    edit_weights(own_folder, lambda w: w.pop("detr_decoder.query_embed.weight"))
    with pytest.raises(UserError, match=r"1 weights .*first: detr_decoder\.query_embed\.weight"):
        load_base(str(own_folder))


def test_renamed_weights_are_refused(own_folder: Path) -> None:
    """A prefix too much is how fine-tuned weights silently go missing elsewhere."""

    def rename(weights: dict[str, Tensor]) -> None:
        for name in [n for n in weights if n.startswith("detr_decoder.")]:
            weights[f"module.{name}"] = weights.pop(name)

    edit_weights(own_folder, rename)
    with pytest.raises(UserError, match="weights of the model are not in the file"):
        load_base(str(own_folder))


def test_a_weight_of_another_shape_is_refused(own_folder: Path) -> None:
    name = "detr_decoder.query_embed.weight"
    edit_weights(own_folder, lambda w: w.update({name: w[name][:-1].clone()}))
    with pytest.raises(UserError, match=str(own_folder)):
        load_base(str(own_folder))


def test_a_truncated_file_is_refused(own_folder: Path) -> None:
    weights = own_folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="could not be read as a SAM 3"):
        load_base(str(own_folder))


def test_another_kind_of_model_is_refused(own_folder: Path) -> None:
    config = json.loads((own_folder / "config.json").read_text())
    (own_folder / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    with pytest.raises(UserError, match="of the kind 'bert', not a SAM 3"):
        load_base(str(own_folder))


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere-at-all"])
def test_a_path_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"model\.base=.*no config\.json there"):
        load_base(name)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json there"):
        load_base(str(tmp_path))


def test_a_hub_name_without_the_hub_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("We couldn't connect to 'https://huggingface.co' to load the files")

    monkeypatch.setattr("maskwell.models.sam_lora.base_model.Sam3Config.get_config_dict", unreachable)
    with pytest.raises(UserError, match=r"model\.base=facebook/sam3: neither .* nor reachable"):
        load_base("facebook/sam3")


def test_gated_weights_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def gated(*_: object, **__: object) -> None:
        raise OSError("You are trying to access a gated repo. 401 Client Error")

    monkeypatch.setattr("maskwell.models.sam_lora.base_model.Sam3Config.get_config_dict", gated)
    with pytest.raises(UserError, match="accept the licence"):
        load_base("facebook/sam3")


def test_image_size_of_a_saved_base_can_be_changed(hub_folder: Path) -> None:
    sam, tokenizer = load_base(str(hub_folder), image_size=64)
    output = PromptedSam(sam, tokenizer)(torch.zeros(1, 3, 64, 64), torch.tensor([0]), ["dog"])
    assert output.masks.shape[-2:] == (16, 16)


def test_image_size_must_be_a_multiple_of_the_patch(hub_folder: Path) -> None:
    for name in (str(hub_folder), "scratch"):
        with pytest.raises(UserError, match=r"model\.image_size=45 .*multiple of .* 8 px; try 48"):
            load_base(name, image_size=45)


def test_fresh_weights_are_a_function_of_the_seed() -> None:
    state = torch.get_rng_state()
    hashes = [weight_hash(load_base("scratch", image_size=32, seed=seed)[0]) for seed in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]
    assert torch.equal(state, torch.get_rng_state())


def test_hash_tells_weights_apart(base: Base, new_sam: NewSam) -> None:
    sam = new_sam()
    before = weight_hash(sam)
    assert before == weight_hash(base[0])
    sam.requires_grad_(False).train()
    assert weight_hash(sam) == before
    with torch.no_grad():
        sam.detr_decoder.presence_token.weight[0, 0] += 1e-6
    assert weight_hash(sam) != before


def test_hash_knows_names() -> None:
    first, second = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    second.load_state_dict(first.state_dict())
    both = torch.nn.ModuleDict({"a": first, "b": torch.nn.Linear(3, 3)})
    swapped = torch.nn.ModuleDict({"b": second, "a": both["b"]})
    assert weight_hash(first) == weight_hash(second)
    assert weight_hash(both) != weight_hash(swapped)
