"""The set loss against a plain float64 loop over layers, rows and objects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from transformers.loss.loss_for_object_detection import (
    box_iou,
    dice_loss,
    generalized_box_iou,
    sigmoid_focal_loss,
)

from maskwell.models.sam_lora import loss as loss_module
from maskwell.models.sam_lora.loss import LossWeights, RowTarget, SetLoss
from maskwell.models.sam_lora.net import PromptOutputs
from maskwell.ops.boxes import xyxy_to_cxcywh
from maskwell.ops.matcher import MatchCosts, focal_cost
from maskwell.ops.sampling import uncertain_points

LAYERS, QUERIES, SIDE, TARGET_SIDE = 3, 10, 8, 24
DENSE = SetLoss(mask_supervision="dense")
SEMANTIC = LossWeights(semantic=3.0, semantic_dice=2.0)


def boxes(*shape: int, generator: torch.Generator) -> Tensor:
    centre = 0.2 + 0.6 * torch.rand(*shape, 2, generator=generator)
    size = 0.1 + 0.3 * torch.rand(*shape, 2, generator=generator)
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def make_outputs(rows: int, seed: int = 0) -> PromptOutputs:
    generator = torch.Generator().manual_seed(seed)
    return PromptOutputs(
        logits=torch.randn(LAYERS, rows, QUERIES, generator=generator),
        boxes=boxes(LAYERS, rows, QUERIES, generator=generator),
        presence=torch.randn(LAYERS, rows, generator=generator),
        masks=3 * torch.randn(rows, QUERIES, SIDE, SIDE, generator=generator),
        semantic=torch.randn(rows, SIDE, SIDE, generator=generator),
    )


def make_target(objects: int, seed: int, side: int = TARGET_SIDE) -> RowTarget:
    """Random boxes, each filled by an ellipse as its mask."""
    corners = boxes(objects, generator=torch.Generator().manual_seed(seed))
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    pixels = torch.stack([x, y], dim=-1).add(0.5).div(side)
    centre, size = (part.reshape(objects, 1, 1, 2) for part in xyxy_to_cxcywh(corners).split(2, dim=-1))
    return RowTarget(corners, (((pixels - centre) / (size / 2)) ** 2).sum(-1) <= 1)


def make_targets(*counts: int) -> list[RowTarget]:
    return [make_target(count, seed=10 + i) for i, count in enumerate(counts)]


def with_gradient(outputs: PromptOutputs) -> PromptOutputs:
    return replace(
        outputs,
        **{f.name: getattr(outputs, f.name).detach().clone().requires_grad_() for f in fields(outputs)},
    )


def gradients(loss: Tensor, outputs: PromptOutputs) -> dict[str, Tensor]:
    names = [f.name for f in fields(outputs)]
    values = torch.autograd.grad(loss, [getattr(outputs, n) for n in names], allow_unused=True)
    return {
        n: torch.zeros_like(getattr(outputs, n)) if v is None else v
        for n, v in zip(names, values, strict=True)
    }


def reference(
    outputs: PromptOutputs, targets: Sequence[RowTarget], weights: LossWeights
) -> tuple[Tensor, dict[str, Tensor]]:
    """Upstream's definition, term by term: float64, one row of one layer at a time."""
    objects = max(1, sum(len(t.boxes) for t in targets))
    layers = [_layer_reference(outputs, layer, targets, objects) for layer in range(LAYERS)]
    parts = {name: layers[-1][name] for name in ("box", "giou", "cls", "presence")}
    auxiliary = sum(
        getattr(weights, n) * layer[n] for layer in layers[:-1] for n in ("box", "giou", "cls", "presence")
    )
    parts |= {"mask": torch.zeros(()).double(), "dice": torch.zeros(()).double()}
    for row, (queries, wanted) in enumerate(layers[-1]["pairs"]):
        if len(queries):
            logits = F.interpolate(outputs.masks[row, queries][None], (TARGET_SIDE,) * 2, mode="bilinear")[0]
            masks = targets[row].masks[wanted].double().flatten(1)
            parts["mask"] = parts["mask"] + sigmoid_focal_loss(logits.flatten(1), masks, objects)
            parts["dice"] = parts["dice"] + dice_loss(logits, masks, objects)
    total = sum(getattr(weights, n) * v for n, v in parts.items()) + auxiliary
    return total, {f"loss_{n}": v for n, v in parts.items()} | {"loss_aux": auxiliary}


def _layer_reference(outputs: PromptOutputs, layer: int, targets: Sequence[RowTarget], objects: int) -> dict:
    terms = {name: torch.zeros(()).double() for name in ("box", "giou", "cls", "presence")}
    terms["pairs"] = []
    for row, target in enumerate(targets):
        logits, found = outputs.logits[layer, row], outputs.boxes[layer, row]
        visible = float(len(target.boxes) > 0)
        entropy = F.binary_cross_entropy_with_logits(
            outputs.presence[layer, row], torch.tensor(visible).double()
        )
        terms["presence"] = terms["presence"] + 0.5 * entropy / len(targets)
        if not visible:
            terms["pairs"].append(([], []))
            continue
        wanted = target.boxes.double()
        distance = torch.cdist(xyxy_to_cxcywh(found), xyxy_to_cxcywh(wanted), p=1)
        giou = generalized_box_iou(found, wanted)
        cost = 2 * focal_cost(logits)[:, None] + 5 * distance - 2 * giou
        queries, matched = linear_sum_assignment(cost.detach().numpy())
        terms["pairs"].append((queries, matched))
        terms["box"] = terms["box"] + distance[queries, matched].sum() / objects
        terms["giou"] = terms["giou"] + (1 - giou[queries, matched]).sum() / objects
        overlap = box_iou(found, wanted)[0][queries, matched]
        p = logits.sigmoid()
        soft = torch.zeros(QUERIES).double()
        soft[queries] = (p[queries] ** 0.25 * overlap**0.75).clamp(min=0.01).detach()
        weight = p**2
        weight[queries] = 10
        entropy = F.binary_cross_entropy_with_logits(logits, soft, reduction="none")
        terms["cls"] = terms["cls"] + (weight * entropy).mean() / len(targets)
    return terms


def in_float64(outputs: PromptOutputs) -> PromptOutputs:
    return replace(outputs, **{f.name: getattr(outputs, f.name).double() for f in fields(outputs)})


@pytest.mark.parametrize("counts", [(3,), (2, 0, 5), (0, 0), (1, 10), (12, 1)])
def test_terms_and_gradients_are_those_of_the_reference(counts: tuple[int, ...]) -> None:
    outputs, targets = with_gradient(make_outputs(len(counts))), make_targets(*counts)
    loss, parts = DENSE(outputs, targets)
    exact = with_gradient(in_float64(outputs))
    expected, expected_parts = reference(exact, targets, LossWeights())
    assert set(parts) == set(expected_parts)
    for name, value in parts.items():
        torch.testing.assert_close(value.double(), expected_parts[name], rtol=1e-4, atol=1e-6, msg=name)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
    slopes, expected_slopes = gradients(loss, outputs), gradients(expected, exact)
    for name, slope in slopes.items():
        torch.testing.assert_close(slope.double(), expected_slopes[name], rtol=1e-3, atol=1e-5, msg=name)


def test_total_is_the_weighted_sum_of_the_parts() -> None:
    weights = LossWeights(
        box=1.5, giou=0.5, cls=2.0, presence=3.0, mask=7.0, dice=0.3, semantic=4, semantic_dice=5
    )
    loss, parts = SetLoss(weights=weights)(make_outputs(3), make_targets(2, 0, 3))
    expected = parts["loss_aux"] + sum(
        getattr(weights, name.removeprefix("loss_")) * value
        for name, value in parts.items()
        if name != "loss_aux"
    )
    torch.testing.assert_close(loss, expected)


def test_batch_without_an_object_keeps_presence_alone() -> None:
    """Two prompts that name nothing: no box, mask or class term, and a gradient on presence only."""
    outputs = with_gradient(make_outputs(2))
    loss, parts = SetLoss()(outputs, make_targets(0, 0))
    for name in ("loss_box", "loss_giou", "loss_cls", "loss_mask", "loss_dice"):
        assert parts[name].item() == 0.0, name
    assert parts["loss_presence"].item() > 0.1
    assert loss.isfinite()
    slopes = gradients(loss, outputs)
    assert slopes["presence"].abs().min() > 0
    assert all(slopes[name].abs().max() == 0 for name in ("logits", "boxes", "masks"))


def test_masks_that_no_object_needs_cannot_spoil_the_loss() -> None:
    outputs = make_outputs(2)
    outputs.masks[0, 3] = math.inf
    loss, _ = SetLoss()(outputs, make_targets(0, 0))
    assert loss.isfinite()


def test_presence_of_a_negative_prompt_pushes_down_and_of_a_positive_up() -> None:
    outputs = with_gradient(make_outputs(2))
    loss, _ = SetLoss()(outputs, make_targets(0, 2))
    slope = gradients(loss, outputs)["presence"]
    assert (slope[:, 0] > 0).all()
    assert (slope[:, 1] < 0).all()


def test_order_of_objects_rows_and_queries_does_not_matter() -> None:
    outputs, targets = make_outputs(3), make_targets(4, 0, 2)
    loss, parts = DENSE(outputs, targets)
    objects, rows = [2, 0, 3, 1], [2, 0, 1]
    queries = torch.tensor([7, 2, 9, 0, 4, 1, 8, 3, 6, 5])
    moved = [RowTarget(targets[0].boxes[objects], targets[0].masks[objects]), *targets[1:]]
    shuffled = PromptOutputs(
        logits=outputs.logits[:, rows][:, :, queries],
        boxes=outputs.boxes[:, rows][:, :, queries],
        presence=outputs.presence[:, rows],
        masks=outputs.masks[rows][:, queries],
        semantic=outputs.semantic[rows],
    )
    again, again_parts = DENSE(shuffled, [moved[row] for row in rows])
    torch.testing.assert_close(again, loss)
    for name, value in parts.items():
        torch.testing.assert_close(again_parts[name], value)


def one_row(outputs: PromptOutputs, row: int) -> PromptOutputs:
    return PromptOutputs(
        outputs.logits[:, [row]],
        outputs.boxes[:, [row]],
        outputs.presence[:, [row]],
        outputs.masks[[row]],
        outputs.semantic[[row]],
    )


def test_batched_rows_add_up_to_single_rows() -> None:
    """With nothing divided the loss of a batch is the sum over its rows."""
    outputs, targets = make_outputs(3), make_targets(4, 0, 2)
    criterion = replace(DENSE, normalisation="one", weights=SEMANTIC)
    loss, _ = criterion(outputs, targets)
    single = [criterion(one_row(outputs, row), [targets[row]])[0] for row in range(3)]
    torch.testing.assert_close(loss, sum(single))


def test_normalisation_one_is_the_sum_that_reads_like_69300() -> None:
    """Object terms grow by the number of objects, prompt terms by the number of prompts."""
    outputs, targets = make_outputs(3), make_targets(4, 0, 3)
    _, divided = DENSE(outputs, targets)
    _, summed = replace(DENSE, normalisation="one")(outputs, targets)
    for name, factor in {"box": 7, "giou": 7, "mask": 7, "dice": 7, "cls": 3, "presence": 3}.items():
        torch.testing.assert_close(summed[f"loss_{name}"], factor * divided[f"loss_{name}"])


def test_local_equals_global_in_one_process() -> None:
    outputs, targets = make_outputs(3), make_targets(4, 0, 3)
    first, second = (replace(DENSE, normalisation=n)(outputs, targets)[0] for n in ("global", "local"))
    torch.testing.assert_close(first, second)


def test_doubling_the_batch_keeps_the_loss() -> None:
    outputs, targets = make_outputs(2), make_targets(4, 1)
    twice = PromptOutputs(
        *(torch.cat([getattr(outputs, n)] * 2, dim=1) for n in ("logits", "boxes", "presence")),
        *(torch.cat([getattr(outputs, n)] * 2) for n in ("masks", "semantic")),
    )
    torch.testing.assert_close(DENSE(twice, targets * 2)[0], DENSE(outputs, targets)[0])


@pytest.mark.parametrize(("importance", "tolerance"), [(0.0, 0.03), (0.75, 0.5)])
def test_sampled_masks_agree_with_dense_ones(
    importance: float, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uniform points estimate the dense terms; points drawn to the border lean away from them on purpose."""
    monkeypatch.setattr(loss_module, "uncertain_points", partial(uncertain_points, importance=importance))
    outputs = make_outputs(2)
    outputs.masks.copy_(F.interpolate(outputs.masks[:, :, :3, :3], (SIDE, SIDE), mode="bilinear"))
    targets = [make_target(3, 1, side=256), make_target(2, 2, side=256)]
    dense = DENSE(outputs, targets)[1]
    torch.manual_seed(0)
    sampled = SetLoss(mask_points=16_000)(outputs, targets)[1]
    for name in ("loss_mask", "loss_dice"):
        assert sampled[name].item() != dense[name].item()
        torch.testing.assert_close(sampled[name], dense[name], rtol=tolerance, atol=0.0)
    for name in ("loss_box", "loss_giou", "loss_cls", "loss_presence", "loss_aux"):
        torch.testing.assert_close(sampled[name], dense[name])


@pytest.mark.parametrize(("points", "sampled"), [(143, True), (144, False), (12_544, False)])
def test_only_masks_of_more_than_four_times_the_points_are_sampled(points: int, sampled: bool) -> None:
    assert TARGET_SIDE**2 == 4 * 144
    outputs, targets = make_outputs(2), make_targets(2, 1)
    dense = DENSE(outputs, targets)[0]
    loss = SetLoss(mask_points=points)(outputs, targets)[0]
    assert (loss.item() != dense.item()) == sampled
    assert DENSE.mask_supervision == "dense"
    assert replace(DENSE, mask_points=points)(outputs, targets)[0].item() == dense.item()


def test_sampling_is_a_function_of_the_seed() -> None:
    outputs, targets = make_outputs(1), make_targets(2)
    values = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        values.append(SetLoss(mask_points=50)(outputs, targets)[0].item())
    assert values[0] == values[1] != values[2]


def test_rows_without_masks_teach_boxes_only() -> None:
    """A row with boxes only leaves the mask terms to the others, and is not counted in their divisors."""
    outputs, targets = with_gradient(make_outputs(2)), make_targets(2, 3)
    loss = SetLoss(weights=SEMANTIC)
    both = loss(outputs, targets)[1]
    total, parts = loss(outputs, [targets[0], replace(targets[1], masks=None)])
    alone = loss(_rows(outputs, 1), targets[:1])[1]
    for name in ("loss_mask", "loss_dice", "loss_semantic", "loss_semantic_dice"):
        torch.testing.assert_close(parts[name], alone[name])
    for name in ("loss_box", "loss_giou", "loss_cls", "loss_presence", "loss_aux"):
        torch.testing.assert_close(parts[name], both[name])
    assert gradients(total, outputs)["masks"][1].abs().sum() == 0


def test_data_without_any_masks_has_mask_terms_of_zero() -> None:
    outputs, targets = make_outputs(2), [replace(t, masks=None) for t in make_targets(2, 0)]
    total, parts = SetLoss(weights=SEMANTIC)(outputs, targets)
    assert total.isfinite()
    for name in ("loss_mask", "loss_dice", "loss_semantic", "loss_semantic_dice"):
        assert parts[name].item() == 0


def _rows(outputs: PromptOutputs, count: int) -> PromptOutputs:
    """The first rows."""
    return PromptOutputs(
        outputs.logits[:, :count],
        outputs.boxes[:, :count],
        outputs.presence[:, :count],
        outputs.masks[:count],
        outputs.semantic[:count],
    )


def test_one_to_many_changes_the_auxiliary_layers_only() -> None:
    outputs, targets = make_outputs(2), make_targets(2, 1)
    one, many = DENSE(outputs, targets)[1], replace(DENSE, one_to_many=2)(outputs, targets)[1]
    for name in one:
        assert torch.equal(one[name], many[name]) == (name != "loss_aux")


def test_one_to_many_by_hand() -> None:
    """Each of two objects gets its two best queries; each pair weighs one half."""
    wanted = torch.tensor([[0.1, 0.1, 0.4, 0.4], [0.6, 0.6, 0.9, 0.9]])
    outputs = make_outputs(1)
    outputs.boxes[:] = torch.tensor([0.4, 0.0, 0.5, 0.1])  # far from both
    for query, (target, shift) in {1: (0, 0.0), 3: (0, 0.02), 4: (1, 0.0), 2: (1, 0.04)}.items():
        outputs.boxes[:, 0, query] = wanted[target] + shift
    target = RowTarget(wanted, torch.zeros(2, TARGET_SIDE, TARGET_SIDE, dtype=torch.bool))
    boxes_only = LossWeights(box=1, giou=0, cls=0, presence=0, mask=0, dice=0)
    loss = SetLoss(weights=boxes_only, costs=MatchCosts(0, 5, 2), one_to_many=2)
    total, parts = loss(outputs, [target])
    # Every shift moves both centre coordinates; per layer (0.02 + 0.04) x 2 x 1/2, over two objects.
    auxiliary = (LAYERS - 1) * (0.02 + 0.04) * 2 / 2 / 2
    torch.testing.assert_close(parts["loss_aux"], torch.tensor(auxiliary), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(total, torch.tensor(auxiliary), rtol=1e-4, atol=1e-6)


def test_semantic_terms_by_hand() -> None:
    """Union of the objects at the size of the output; nothing to see for a negative prompt."""
    outputs = make_outputs(2)
    masks = torch.zeros(2, TARGET_SIDE, TARGET_SIDE, dtype=torch.bool)
    masks[0, :12], masks[1, :, :6] = True, True  # the upper half, the left quarter
    targets = [RowTarget(make_target(2, 0).boxes, masks), make_target(0, 0)]
    union = torch.zeros(2, SIDE, SIDE).double()
    union[0, :4], union[0, :, :2] = 1, 1
    _, parts = SetLoss(weights=SEMANTIC)(outputs, targets)
    logits = outputs.semantic.double()
    entropy = F.binary_cross_entropy_with_logits(logits, union, reduction="none").mean((1, 2)).sum() / 2
    torch.testing.assert_close(parts["loss_semantic"].double(), entropy, rtol=1e-5, atol=0.0)
    expected = dice_loss(logits, union.flatten(1), 2)
    torch.testing.assert_close(parts["loss_semantic_dice"].double(), expected, rtol=1e-5, atol=0.0)


def test_semantic_terms_are_off_by_default() -> None:
    outputs = with_gradient(make_outputs(2))
    loss, parts = SetLoss()(outputs, make_targets(2, 0))
    assert not any("semantic" in name for name in parts)
    assert gradients(loss, outputs)["semantic"].abs().max() == 0


def test_low_precision_is_lifted_to_float32() -> None:
    """bf16 outputs under autocast give the loss of the same numbers in float32, bit by bit."""
    outputs, targets = make_outputs(2), make_targets(3, 0)
    low = replace(outputs, **{f.name: getattr(outputs, f.name).bfloat16() for f in fields(outputs)})
    with torch.autocast("cpu", torch.bfloat16):
        loss, parts = DENSE(low, targets)
    assert loss.dtype == torch.float32
    assert all(part.dtype == torch.float32 for part in parts.values())
    assert loss.item() == DENSE(low.float(), targets)[0].item()


def test_a_network_that_is_not_finite_meets_the_loss_and_not_a_crash() -> None:
    outputs = make_outputs(2)
    outputs.logits[:] = math.nan
    loss, _ = SetLoss()(outputs, make_targets(2, 1))
    assert not loss.isfinite()
