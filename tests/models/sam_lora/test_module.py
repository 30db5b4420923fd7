"""The Lightning module: steps, metrics, what checkpoints hold and refuse, adapters, checkpointing, bf16."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers.models.sam3.modeling_sam3 import Sam3ViTRoPEAttention

from maskwell.data.sample import Batch, Geometry, Prediction, Prompt, Sample, Truth, collate
from maskwell.errors import UserError
from maskwell.models.sam_lora.adaptation import Lora
from maskwell.models.sam_lora.answers import Detection
from maskwell.models.sam_lora.base_model import load_base, weight_hash
from maskwell.models.sam_lora.loss import SetLoss
from maskwell.models.sam_lora.module import SamLora
from maskwell.models.sam_lora.net import PromptedSam
from maskwell.ops import masks

SIZE = 32
CATEGORIES = ("cell", "debris")


def make_task(**options: Any) -> SamLora:
    defaults: dict[str, Any] = {
        "image_size": SIZE,
        "lora": Lora(rank=4),
        "detection": Detection(max_per_prompt=10, nms=None),
    }
    torch.manual_seed(0)
    task = SamLora("scratch", **{**defaults, **options})
    task.bind(categories=CATEGORIES)
    return task


def make_batch(objects: int = 2) -> Batch:
    """Two images of rectangles: cells on both, debris asked for and absent."""
    generator = torch.Generator().manual_seed(1)
    return collate([_sample(i, objects - i, generator) for i in range(2)])


def _sample(index: int, objects: int, generator: torch.Generator) -> Sample:
    grids = torch.zeros(objects, SIZE, SIZE, dtype=torch.bool)
    for i in range(objects):
        grids[i, 4 + 12 * i : 12 + 12 * i, 5:20] = True
    rles, labels = masks.encode(grids), torch.zeros(objects, dtype=torch.int64)
    boxes, crowd = masks.boxes(rles), torch.zeros(objects, dtype=torch.bool)
    return Sample(
        image=torch.randn(3, SIZE, SIZE, generator=generator),
        boxes=boxes / SIZE,
        labels=labels,
        geometry=Geometry((SIZE, SIZE), (0, 0, SIZE, SIZE), (SIZE, SIZE), (SIZE, SIZE)),
        image_id=index,
        file_name=f"{index}.png",
        masks=grids,
        prompts=(Prompt("cell", tuple(range(objects)), 0), Prompt("debris", (), 1)),
        truth=Truth((SIZE, SIZE), boxes, labels, crowd, masks.area(rles).float(), rles),
    )


@pytest.fixture(scope="module")
def shared() -> SamLora:
    """An adapted task that no test changes."""
    return make_task()


def shaken(task: SamLora) -> SamLora:
    """Give the adapter something to say: B starts at zero."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for _, parameter in task.trainable_parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return task


def assert_same(first: list[Prediction], second: list[Prediction]) -> None:
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one.scores, other.scores, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(one.boxes, other.boxes, atol=1e-3, rtol=1e-4)
        assert one.labels.tolist() == other.labels.tolist()


def test_input_is_the_square_of_the_base(shared: SamLora) -> None:
    spec = shared.input_spec
    assert (spec.fit, spec.size, spec.mean, spec.std) == ("square", SIZE, (0.5,) * 3, (0.5,) * 3)


def test_step_gives_loss_parts_and_facts(shared: SamLora) -> None:
    output = shared.step(make_batch(), "train")
    names = {"loss_box", "loss_giou", "loss_cls", "loss_presence", "loss_mask", "loss_dice", "loss_aux"}
    assert set(output.parts) == names
    facts = {name: float(value) for name, value in output.facts.items()}
    assert 0 < facts.pop("mask_fill") < 1
    true_fill = 8 * 15 / SIZE**2  # every object is a rectangle of 8 by 15 px
    assert facts == {
        "num_objects": 3.0,
        "num_prompts": 4.0,
        "negative_share": 0.5,
        "mask_fill_true": pytest.approx(true_fill),
    }
    assert output.loss.requires_grad
    assert output.loss.isfinite()


@pytest.mark.parametrize(("logit", "fill"), [(-1.0, 0.0), (1.0, 1.0)])
def test_masks_that_are_all_empty_or_full_are_told(
    shared: SamLora, monkeypatch: pytest.MonkeyPatch, logit: float, fill: float
) -> None:
    answer = shared._answer

    def spoilt(batch: Batch) -> Any:
        rows, outputs = answer(batch)
        return rows, replace(outputs, masks=torch.full_like(outputs.masks, logit))

    monkeypatch.setattr(shared, "_answer", spoilt)
    assert float(shared.step(make_batch(), "train").facts["mask_fill"]) == fill
    boxes_only = collate([replace(_sample(0, 2, torch.Generator()), masks=None)])
    assert float(shared.step(boxes_only, "train").facts["mask_fill_true"]) == 0


def test_loss_is_the_same_in_every_stage(shared: SamLora) -> None:
    values = [shared.step(make_batch(), stage).loss.item() for stage in ("train", "val", "test")]  # type: ignore[arg-type]
    assert values[0] == values[1] == values[2]


@pytest.mark.parametrize("normalisation", ["global", "local", "one"])
def test_normalisation_holds_in_training_and_validation(shared: SamLora, normalisation: Any) -> None:
    task = copy.copy(shared)
    task.criterion = replace(SetLoss(), normalisation=normalisation)
    train, val = (task.step(make_batch(), stage).parts for stage in ("train", "val"))  # type: ignore[arg-type]
    reference = shared.step(make_batch(), "train").parts
    assert train["loss_box"].item() == val["loss_box"].item()
    factor = 3.0 if normalisation == "one" else 1.0
    assert train["loss_box"].item() == pytest.approx(factor * reference["loss_box"].item(), rel=1e-5)


def test_a_batch_without_objects_can_be_trained_on(shared: SamLora) -> None:
    batch = make_batch()
    for sample in batch.samples:
        sample.prompts = (Prompt("debris", (), 1),)
    output = shared.step(batch, "train")
    assert output.loss.isfinite()
    assert output.parts["loss_box"].item() == output.parts["loss_mask"].item() == 0.0
    gradients = torch.autograd.grad(output.loss, [p for _, p in shared.trainable_parameters()])
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_predictions_are_one_per_sample_and_those_of_predict_batch(shared: SamLora) -> None:
    batch = make_batch()
    predictions = shared.step(batch, "val").preds()
    assert [p.size for p in predictions] == [(SIZE, SIZE)] * 2
    assert all(set(p.present or {}) == {0, 1} for p in predictions)
    assert_same(predictions, shared.predict_batch(batch))


def test_metrics_see_negatives_and_start_anew(shared: SamLora) -> None:
    for _ in range(2):
        batch = make_batch()
        shared.update_metrics(batch, shared.step(batch, "val"), "val")
        metrics = shared.compute_metrics("val")
        assert {"map", "map_50", "pmf1", "il_mcc", "cgf1", "detections_per_image", "max_confidence"} <= set(
            metrics
        )
        assert float(metrics["detections_per_image"]) <= 20
    free = make_batch()
    for sample in free.samples:
        sample.prompts = (Prompt("two boxes", tuple(range(len(sample.labels))), -1), Prompt("piano", (), -1))
    shared.update_metrics(free, shared.step(free, "val"), "val")
    assert "map" in shared.compute_metrics("val")


def test_data_without_prompts_is_refused(shared: SamLora) -> None:
    batch = make_batch()
    for sample in batch.samples:
        sample.prompts = ()
    with pytest.raises(UserError, match="no prompts"):
        shared.predict_batch(batch)


def test_boxes_without_masks_are_learnt_and_scored(shared: SamLora) -> None:
    batch = make_batch()
    for sample in batch.samples:
        sample.masks = None
        assert sample.truth is not None
        sample.truth.rles = None
    output = shared.step(batch, "val")
    assert output.parts["loss_mask"].item() == 0 < output.parts["loss_box"].item()
    shared.update_metrics(batch, output, "val")
    figures = shared.compute_metrics("val")
    assert "map_50" in figures
    assert "bbox_map_50" not in figures  # the boxes are the figures


def test_merged_adapters_answer_alike() -> None:
    task = make_task(lora=Lora(rank=2)).eval()
    with torch.no_grad():
        for name, parameter in task.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    batch = make_batch()
    with torch.inference_mode():
        rows, before = task._answer(batch)
        task.prepare_inference()
        after = task._answer(batch)[1]
    assert rows
    torch.testing.assert_close(after.masks, before.masks, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(after.boxes, before.boxes, rtol=1e-3, atol=1e-4)


def test_a_checkpoint_holds_the_adapter_alone(shared: SamLora) -> None:
    state = shared.state_dict()
    assert set(state) == {name for name, _ in shared.trainable_parameters()}
    assert all("lora_" in name for name in state)
    size = sum(tensor.numel() for tensor in state.values())
    assert size < 0.15 * sum(p.numel() for p in shared.parameters())


def test_a_checkpoint_holds_modules_to_save_and_full_training_holds_what_it_trains() -> None:
    lora = Lora(rank=2, targets="decoder_only", modules_to_save=("presence_head",))
    assert any("presence_head" in name for name in make_task(lora=lora).state_dict())
    full = make_task(adaptation="full").state_dict()
    assert "net.model.vision_encoder.backbone.embeddings.patch_embeddings.projection.weight" in full
    assert not any("text_encoder" in name for name in full)


def checkpoint_of(task: SamLora) -> dict[str, Any]:
    checkpoint: dict[str, Any] = {"state_dict": task.state_dict()}
    task.on_save_checkpoint(checkpoint)
    return checkpoint


def reload(task: SamLora, checkpoint: dict[str, Any]) -> SamLora:
    task.on_load_checkpoint(checkpoint)
    task.load_state_dict(checkpoint["state_dict"], strict=task.strict_loading)
    return task


@pytest.mark.parametrize("adaptation", ["lora", "heads", "full"])
def test_a_reloaded_task_predicts_the_same(adaptation: Any, tmp_path: Path) -> None:
    trained = shaken(make_task(adaptation=adaptation))
    torch.save(checkpoint_of(trained), tmp_path / "best.ckpt")
    fresh = make_task(adaptation=adaptation)
    before = fresh.predict_batch(make_batch())
    reload(fresh, torch.load(tmp_path / "best.ckpt", weights_only=True))
    assert_same(trained.predict_batch(make_batch()), fresh.predict_batch(make_batch()))
    assert not torch.allclose(before[0].scores, fresh.predict_batch(make_batch())[0].scores, atol=1e-3)


def test_another_base_is_refused(shared: SamLora) -> None:
    with pytest.raises(UserError, match="trained on base 'scratch' with other weights"):
        reload(make_task(seed=1), checkpoint_of(shared))


@pytest.mark.parametrize(
    "options",
    [{"adaptation": "heads"}, {"lora": Lora(rank=4, targets="decoder_only")}, {"lora": Lora(rank=8)}],
)
def test_another_set_of_trained_weights_is_refused(shared: SamLora, options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"model\.adaptation and model\.lora must be those of the checkpoint"):
        reload(make_task(**options), checkpoint_of(shared))


def test_the_adapter_folder_is_plain_peft(tmp_path: Path) -> None:
    trained = shaken(make_task())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # peft warns where it looks for the base on the network
        assert trained.save_adapter(tmp_path / "adapter")
    sam, tokenizer = load_base("scratch", image_size=SIZE)
    assert weight_hash(sam) == trained.base_hash
    plain = PromptedSam(PeftModel.from_pretrained(sam, str(tmp_path / "adapter")), tokenizer)
    images, rows, prompts = make_batch().images, torch.tensor([0, 1]), ["cell", "debris"]
    torch.testing.assert_close(plain(images, rows, prompts).logits, trained.net(images, rows, prompts).logits)


def test_without_an_adapter_no_folder_is_written(tmp_path: Path) -> None:
    assert not make_task(adaptation="heads").save_adapter(tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_a_merged_model_is_a_base_with_the_adapter_in_it(tmp_path: Path) -> None:
    trained = shaken(make_task())
    expected = trained.predict_batch(make_batch())
    trained.save_merged(tmp_path)
    merged = SamLora(str(tmp_path), adaptation="heads", detection=trained.detection)
    assert_same(merged.predict_batch(make_batch()), expected)
    assert_same(trained.predict_batch(make_batch()), expected)  # the task itself is left as it was


@pytest.fixture
def layer_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one at each pass through the attention of a ViT layer, recomputation included."""
    calls: list[int] = []
    forward = Sam3ViTRoPEAttention.forward

    def counted(self: Sam3ViTRoPEAttention, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(Sam3ViTRoPEAttention, "forward", counted)
    return calls


@pytest.mark.parametrize("adaptation", ["lora", "full"])
def test_gradient_checkpointing_recomputes_and_changes_nothing(
    adaptation: Any, layer_calls: list[int]
) -> None:
    results = []
    for switched_on in (False, True):
        task = make_task(adaptation=adaptation, gradient_checkpointing=switched_on)
        task.train()
        layer_calls.clear()
        loss = task.step(make_batch(), "train").loss
        loss.backward()
        assert len(layer_calls) == (12 if switched_on else 6)
        results.append((loss.detach(), {name: p.grad for name, p in task.trainable_parameters()}))
    (loss, gradients), (again, same) = results
    torch.testing.assert_close(again, loss)
    for name, gradient in gradients.items():
        torch.testing.assert_close(same[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


def saved_bytes(task: SamLora) -> int:
    """Bytes that the forward pass keeps for the backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        task.step(make_batch(), "train")
    return sum(kept.values())


def test_gradient_checkpointing_keeps_less_for_the_backward_pass() -> None:
    with_it, without = (saved_bytes(make_task(gradient_checkpointing=on)) for on in (True, False))
    assert with_it < 0.9 * without


def test_bf16_autocast_gives_a_float32_loss(shared: SamLora) -> None:
    exact = shared.step(make_batch(), "train")
    with torch.autocast("cpu", torch.bfloat16):
        output = shared.step(make_batch(), "train")
    assert output.loss.dtype == torch.float32
    assert all(part.dtype == torch.float32 for part in output.parts.values())
    # The other terms hang on a matching that rounding may turn over in an untrained network.
    assert output.parts["loss_presence"].item() == pytest.approx(exact.parts["loss_presence"].item(), rel=0.1)
    gradients = torch.autograd.grad(output.loss, [p for _, p in shared.trainable_parameters()])
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert all(p.scores.dtype == torch.float32 for p in output.preds())
