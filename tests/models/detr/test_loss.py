"""The set loss against the criteria of transformers, float64 and an assignment of its own."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from detr_small import batch, make_task, targets
from maskwell.models.detr import base_model
from maskwell.models.detr.loss import SetLoss, match
from maskwell.models.detr.net import Denoising, DetectorOutputs, Layers, Target
from maskwell.ops import boxes as box_ops
from maskwell.ops.matcher import MatchCosts


@pytest.mark.parametrize("architecture", base_model.KINDS)
def test_it_is_the_loss_of_transformers_on_one_process(architecture: str) -> None:
    task = make_task(architecture).eval()
    content = batch(3, 0, 5)
    wanted = targets(content)
    total, parts = task.criterion(task.net(content.images, content.pixel_mask, wanted), wanted)
    theirs = task.net.model
    del theirs._loss_function  # the library's own again
    theirs.config.group_detr = 1  # its criterion forgets that groups are for training
    labels = [
        {"class_labels": target.labels, "boxes": box_ops.xyxy_to_cxcywh(target.boxes)} for target in wanted
    ]
    found = theirs(pixel_values=content.images, pixel_mask=content.pixel_mask, labels=labels)
    assert float(total) == pytest.approx(float(found.loss), rel=1e-4)
    weight = task.criterion.box if architecture == "rt_detr_v2" else 1.0  # that one weighs its parts
    assert weight * float(parts["loss_box"]) == pytest.approx(float(found.loss_dict["loss_bbox"]), rel=1e-4)


def test_denoising_is_counted_as_transformers_counts_it() -> None:
    task = make_task().train()
    content = batch(2, 0, 4)
    wanted = targets(content)
    torch.manual_seed(3)
    total, parts = task.criterion(task.net(content.images, content.pixel_mask, wanted), wanted)
    theirs = task.net.model
    del theirs._loss_function
    labels = [
        {"class_labels": target.labels, "boxes": box_ops.xyxy_to_cxcywh(target.boxes)} for target in wanted
    ]
    torch.manual_seed(3)
    found = theirs(pixel_values=content.images, labels=labels)
    noisy = sum(float(value) for name, value in found.loss_dict.items() if "_dn_" in name)
    assert float(parts["loss_dn"]) == pytest.approx(noisy, rel=1e-4) and noisy > 0
    assert float(total) == pytest.approx(float(found.loss), rel=1e-4)


def by_hand(layers: Layers, wanted: list[Target], objects: int) -> tuple[float, float, float]:
    """Box, GIoU and focal term of the last layer, object by object in float64."""
    box = giou = focal = 0.0
    for image, target in enumerate(wanted):
        logits, boxes = layers.logits[-1, image].double(), layers.boxes[-1, image].double()
        corners, true = box_ops.cxcywh_to_xyxy(boxes), target.boxes.double()
        probability = logits.sigmoid()
        cost = torch.zeros(len(boxes), len(true), dtype=torch.float64)
        for q in range(len(boxes)):
            for n in range(len(true)):
                p = float(probability[q, target.labels[n]])
                cls = 0.25 * (1 - p) ** 2 * -math.log(p) - 0.75 * p**2 * -math.log(1 - p)
                l1 = float((boxes[q] - box_ops.xyxy_to_cxcywh(true[n])).abs().sum())
                cost[q, n] = 2 * cls + 5 * l1 - 2 * float(box_ops.generalised_iou(corners[q], true[n]))
        rows, columns = linear_sum_assignment(cost.numpy())
        positive = torch.zeros_like(logits)
        for q, n in zip(rows, columns, strict=True):
            box += float((boxes[q] - box_ops.xyxy_to_cxcywh(true[n])).abs().sum())
            giou += 1 - float(box_ops.generalised_iou(corners[q], true[n]))
            positive[q, target.labels[n]] = 1
        for p, wanted_one in zip(probability.flatten().tolist(), positive.flatten().tolist(), strict=True):
            focal += 0.25 * (1 - p) ** 2 * -math.log(p) if wanted_one else 0.75 * p**2 * -math.log(1 - p)
    return box / objects, giou / objects, focal / objects


def random_layers(queries: int = 6, classes: int = 3) -> Layers:
    torch.manual_seed(0)
    return Layers(torch.randn(2, 2, queries, classes), 0.2 + 0.5 * torch.rand(2, 2, queries, 4))


WANTED = [
    Target(torch.tensor([[0.1, 0.1, 0.4, 0.5], [0.5, 0.5, 0.9, 0.9]]), torch.tensor([0, 2])),
    Target(torch.tensor([[0.2, 0.3, 0.6, 0.7]]), torch.tensor([1])),
]
FOCAL = SetLoss("focal", MatchCosts())


def test_terms_equal_those_of_float64() -> None:
    layers = random_layers()
    total, parts = FOCAL(DetectorOutputs(layers), WANTED)
    box, giou, focal = by_hand(layers, WANTED, 3)
    expected = {"loss_box": box, "loss_giou": giou, "loss_cls": focal}
    assert {name: float(parts[name]) for name in expected} == pytest.approx(expected, rel=1e-5)
    last = focal + 5 * box + 2 * giou
    assert float(total) == pytest.approx(last + float(parts["loss_aux"]), rel=1e-5)


def test_every_term_is_divided_by_the_objects_of_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    def global_count(local: int | Tensor, device: object = "cpu") -> Tensor:
        return torch.as_tensor(local, dtype=torch.float32) * 7  # the other ranks have six times as many

    layers = random_layers()
    alone = FOCAL(DetectorOutputs(layers), WANTED)[1]
    monkeypatch.setattr("maskwell.ops.losses.global_count", global_count)
    shared = FOCAL(DetectorOutputs(layers), WANTED)[1]
    for name, value in alone.items():
        assert float(shared[name]) == pytest.approx(float(value) / 7, rel=1e-5), name


def test_everything_twice_is_the_same_loss() -> None:
    layers = random_layers()
    twice = Layers(torch.cat([layers.logits] * 2, dim=1), torch.cat([layers.boxes] * 2, dim=1))
    for loss in (FOCAL, SetLoss("quality", MatchCosts()), SetLoss("iou_bce", MatchCosts())):
        once = float(loss(DetectorOutputs(layers), WANTED)[0])
        assert float(loss(DetectorOutputs(twice), [*WANTED, *WANTED])[0]) == pytest.approx(once, rel=1e-5)


@pytest.mark.parametrize("kind", ["quality", "focal", "iou_bce", "softmax"])
def test_no_object_anywhere_teaches_background_only(kind: str) -> None:
    layers = random_layers()
    layers.logits.requires_grad_(True)
    nothing = [Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))] * 2
    total, parts = SetLoss(kind, MatchCosts())(DetectorOutputs(layers), nothing)
    total.backward()
    assert torch.isfinite(total) and float(parts["loss_box"]) == float(parts["loss_giou"]) == 0
    assert layers.logits.grad is not None and float(layers.logits.grad.abs().sum()) > 0


def test_boxes_of_one_pixel_and_more_objects_than_queries_are_finite() -> None:
    pixel = torch.tensor([[0.5, 0.5, 0.5 + 1 / 640, 0.5 + 1 / 640]])
    crowd = Target(pixel.repeat(9, 1), torch.zeros(9, dtype=torch.int64))
    layers = random_layers(queries=4)
    total, _ = FOCAL(DetectorOutputs(layers), [crowd, crowd])
    assert torch.isfinite(total)


def test_predictions_that_are_not_finite_give_a_loss_that_is_not() -> None:
    layers = random_layers()
    layers.boxes[0, 0, 0] = float("nan")
    broken = Layers(layers.logits, torch.full_like(layers.boxes, float("nan")))
    assert not torch.isfinite(FOCAL(DetectorOutputs(broken), WANTED)[0])


def test_groups_are_matched_apart_and_weigh_as_one() -> None:
    layers = random_layers()
    grouped = Layers(torch.cat([layers.logits] * 3, dim=2), torch.cat([layers.boxes] * 3, dim=2))
    once = float(FOCAL(DetectorOutputs(layers), WANTED)[0])
    assert float(FOCAL(DetectorOutputs(grouped, groups=3), WANTED)[0]) == pytest.approx(once, rel=1e-5)


def test_more_queries_per_object_leave_the_last_layer_alone() -> None:
    layers = random_layers(queries=12)
    plain = FOCAL(DetectorOutputs(layers), WANTED)[1]
    many = replace(FOCAL, one_to_many=3)(DetectorOutputs(layers), WANTED)[1]
    for name in ("loss_cls", "loss_box", "loss_giou"):
        assert float(many[name]) == pytest.approx(float(plain[name]), rel=1e-6)
    assert float(many["loss_aux"]) != pytest.approx(float(plain["loss_aux"]), rel=1e-3)


def test_an_object_weighs_as_much_with_more_queries() -> None:
    """All queries say the same, so the mean over three of them is that of one."""
    boxes = torch.tensor([0.4, 0.4, 0.3, 0.2]).expand(2, 1, 12, 4).contiguous()
    outputs = DetectorOutputs(Layers(torch.zeros(2, 1, 12, 3), boxes))
    found = [replace(FOCAL, one_to_many=many, cls=0.0)(outputs, WANTED[:1])[1]["loss_aux"] for many in (1, 3)]
    assert float(found[0]) == pytest.approx(float(found[1]), rel=1e-5)


def test_queries_are_left_for_background() -> None:
    outputs = DetectorOutputs(random_layers(queries=6))
    greedy = replace(FOCAL, one_to_many=100)
    matched = match(outputs.layers, WANTED, 1, greedy.costs, greedy._class_cost(), greedy._copies)
    first = (matched.layer == 0) & (matched.image == 0)
    assert int(first.sum()) == 2 and int(((matched.layer == 0) & (matched.image == 1)).sum()) == 3


def test_denoising_queries_belong_to_their_objects() -> None:
    """Copies that are exact have no box loss, whatever the cheapest assignment would be."""
    layers = random_layers()
    boxes = torch.full((1, 2, 8, 4), 0.5)
    boxes[0, 0, [0, 1, 4, 5]] = box_ops.xyxy_to_cxcywh(WANTED[0].boxes).repeat(2, 1)
    boxes[0, 1, [0, 4]] = box_ops.xyxy_to_cxcywh(WANTED[1].boxes).repeat(2, 1)
    queries = [torch.tensor([0, 1, 4, 5]), torch.tensor([0, 4])]
    confident = torch.full((1, 2, 8, 3), -20.0)
    for image, (query, target) in enumerate(zip(queries, WANTED, strict=True)):
        confident[0, image, query, target.labels.repeat(2)] = 20.0
    noisy = Denoising(Layers(confident, boxes), queries, 2)
    _, parts = FOCAL(DetectorOutputs(layers, denoising=noisy), WANTED)
    assert float(parts["loss_dn"]) == pytest.approx(0, abs=1e-5)
