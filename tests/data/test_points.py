"""Where each object is: keypoints, centroids, centres, through windows, augmentation and network input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskwell.data.checks import check_dataset, main
from maskwell.data.coco import CocoSource
from maskwell.data.datamodule import DataModule
from maskwell.data.done_balance import advice, done_balance
from maskwell.data.instances import InstanceMasks
from maskwell.data.sample import Geometry, InputSpec, Prediction, collate
from maskwell.data.source import Record
from maskwell.data.transforms import Augmentation, content_size, to_sample
from maskwell.errors import UserError
from tests.data.coco_folder import box_annotation, content, dataset, write, write_images

SPEC = InputSpec("pad", 96, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), enlarge=True)
SIZE = (40, 60)


def _blobs() -> np.ndarray:
    """Three discs [3, H, W]; the last overlaps nothing and touches the right border."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    return np.stack([(x - cx) ** 2 + (y - cy) ** 2 <= 36 for cx, cy in ((15, 12), (33, 28), (57, 10))])


def _record(planes: np.ndarray | None, keypoints: np.ndarray | None = None) -> Record:
    masks = InstanceMasks.from_planes(_blobs())
    boxes = masks.boxes()
    count = len(boxes)
    image = np.repeat((_blobs().any(0) * 200).astype(np.uint8)[..., None], 3, 2)
    return Record(
        image=image,
        boxes=boxes,
        labels=np.zeros(count, np.int64),
        area=masks.areas(),
        iscrowd=np.zeros(count, bool),
        visible=np.ones(count, np.float32),
        image_id=1,
        file_name="1.png",
        file_size=SIZE,
        window=(0, 0, SIZE[1], SIZE[0]),
        masks=None if planes is None else InstanceMasks.from_planes(planes),
        keypoints=keypoints,
    )


def _centroids(planes: np.ndarray) -> np.ndarray:
    return np.array([[np.nonzero(p)[1].mean() + 0.5, np.nonzero(p)[0].mean() + 0.5] for p in planes])


def test_centroids_of_both_forms_of_masks() -> None:
    planes = np.random.default_rng(0).random((4, 9, 13)) > 0.6
    overlapping = InstanceMasks.from_planes(planes)
    assert overlapping.flat is None
    np.testing.assert_allclose(overlapping.centroids(), _centroids(planes), rtol=1e-6)
    flat = InstanceMasks.from_planes(_blobs())
    assert flat.flat is not None
    np.testing.assert_allclose(flat.centroids(), _centroids(_blobs()), rtol=1e-6)
    empty = np.zeros((2, 4, 4), np.uint8)
    empty[1, 1, 2] = 1
    assert InstanceMasks.from_planes(empty).centroids().tolist() == [[0, 0], [2.5, 1.5]]


def test_the_keypoint_wins_over_the_mask_and_the_mask_over_the_box() -> None:
    bite = _blobs()
    bite[0, :, :15] = False  # a mask whose centroid is not the middle of its box
    record = _record(bite)
    np.testing.assert_allclose(record.points(), _centroids(bite), rtol=1e-5)
    boxes = _record(None)
    np.testing.assert_allclose(boxes.points(), (boxes.boxes[:, :2] + boxes.boxes[:, 2:]) / 2)
    keypoints = np.array([[14.0, 11.0], [np.nan, np.nan], [61.0, 10.0]], np.float32)  # the last lies outside
    found = _record(bite, keypoints).points()
    np.testing.assert_allclose(found, [[14, 11], *_centroids(bite)[1:]], rtol=1e-5)
    only = np.array([False, False, True])
    np.testing.assert_allclose(_record(bite, keypoints).select(only).points(), found[2:])


@pytest.mark.parametrize("size", [(40, 60), (60, 40), (96, 96), (200, 150)])
def test_the_longer_side_becomes_the_size_where_images_may_be_enlarged(size: tuple[int, int]) -> None:
    assert max(content_size(size, SPEC)) == 96
    assert max(content_size(size, InputSpec("pad", 96, SPEC.mean, SPEC.std))) == min(96, max(size))
    with pytest.raises(ValueError, match="size"):
        InputSpec("pad", None, SPEC.mean, SPEC.std, enlarge=True)


def test_points_map_back_to_the_window_through_scale_and_padding() -> None:
    record = _record(_blobs())
    batch = collate([to_sample(record, SPEC, pointwise=True)], 32)
    sample = batch.samples[0]
    assert batch.images.shape[2:] == (64, 96) and sample.masks is None
    assert sample.points is not None and ((sample.points >= 0) & (sample.points <= 1)).all()
    np.testing.assert_allclose(
        sample.geometry.points_to_window(sample.points).numpy(), _centroids(_blobs()), rtol=1e-5
    )
    x, y = (sample.points[1] * torch.tensor([96, 64])).long().tolist()
    assert batch.images[0, 0, y, x] > 0.5  # on its disc
    assert to_sample(record, SPEC).points is None


@pytest.mark.parametrize("with_masks", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_augmentation_moves_keypoints_with_their_objects(seed: int, with_masks: bool) -> None:
    centres = _centroids(_blobs()).astype(np.float32)
    record = _record(_blobs() if with_masks else None, centres)
    changed = Augmentation(min_visible=0.9)(record, seed)
    assert changed.keypoints is not None and len(changed.keypoints) == len(changed.boxes) > 0
    middles = (changed.boxes[:, :2] + changed.boxes[:, 2:]) / 2
    whole = (changed.boxes > 0).all(1) & (changed.boxes[:, 2:] < changed.image.shape[1::-1]).all(1)
    assert whole.any()
    np.testing.assert_allclose(changed.keypoints[whole], middles[whole], atol=0.8)


def test_augmentation_keeps_missing_keypoints_missing() -> None:
    keypoints = np.array([[np.nan, np.nan], [33, 28], [np.nan, np.nan]], np.float32)
    changed = Augmentation(scale=(1, 1), shift=0.0, hflip=1.0, vflip=0, rotate90=0)(
        _record(_blobs(), keypoints), 0
    )
    assert changed.keypoints is not None
    np.testing.assert_allclose(changed.keypoints, [[np.nan] * 2, [60 - 33, 28], [np.nan] * 2], atol=1e-4)
    assert np.isfinite(changed.points()).all()


def _folder(
    root: Path, *annotations: dict[str, Any], splits: tuple[str, ...] = ("train", "val", "test")
) -> Path:
    """One image of 60 x 40 px per split, each with the same annotations."""
    for number, split in enumerate(splits, 1):
        data = content(1, number)
        data["annotations"] = [{**a, "id": i, "image_id": number} for i, a in enumerate(annotations, 1)]
        write(root / f"{split}.json", data)
        write_images(root / "images", data)
    return root


def _data(root: Path, **settings: Any) -> DataModule:
    data = DataModule(CocoSource(str(root)), **settings)
    data.bind(SPEC, pointwise=True)
    data.setup()
    return data


def test_points_of_a_coco_folder(tmp_path: Path) -> None:
    crowd = box_annotation(0, 0, (0, 0, 9, 9), iscrowd=1)
    named = box_annotation(0, 0, (4, 6, 20, 10), keypoints=[8, 9, 2, 1, 1, 2], num_keypoints=2)
    unlabelled = box_annotation(0, 0, (30, 6, 20, 10), keypoints=[1, 1, 0])
    data = _data(_folder(tmp_path, crowd, named, unlabelled))
    wanted = [[8, 9], [40, 11]]
    sample = data.dataset("val")[0]
    assert sample.truth is not None and sample.truth.points is not None and sample.points is not None
    assert sample.truth.points.tolist() == wanted and len(sample.truth.boxes) == 3
    np.testing.assert_allclose(sample.geometry.points_to_window(sample.points).numpy(), wanted, rtol=1e-6)
    assert data.dataset("train")[0].points is not None


def test_windows_show_the_points_inside_them(tmp_path: Path) -> None:
    boxes = [
        box_annotation(0, 0, (4, 6, 8, 8)),
        box_annotation(0, 0, (40, 22, 10, 10), keypoints=[43, 30, 2]),
    ]
    dataset_ = _data(_folder(tmp_path, *boxes), crop=32).dataset("val")
    found = []
    for index in range(len(dataset_)):
        sample = dataset_[index]
        assert sample.truth is not None and sample.truth.points is not None
        x, y = sample.geometry.window[:2]
        found += [(px + x, py + y) for px, py in sample.truth.points.tolist()]
    assert {(8.0, 10.0), (43.0, 30.0)} <= set(found)


def test_objects_that_are_points_alone(tmp_path: Path) -> None:
    def point(x: float, y: float, **more: Any) -> dict[str, Any]:
        return {"category_id": 1, "keypoints": [x, y, 2], "num_keypoints": 1, **more}

    root = _folder(tmp_path, point(7.5, 9.25), point(50, 30, bbox=[50, 30, 0, 0], area=0.0))
    truth = _data(root).dataset("val")[0].truth
    assert truth is not None and truth.points is not None
    assert truth.points.tolist() == [[7.5, 9.25], [50, 30]]
    assert not [f.code for f in check_dataset(root) if f.severity != "info"]
    other = DataModule(CocoSource(str(root)))
    other.bind(SPEC)
    with pytest.raises(UserError, match=r"6 objects of the data are points.*model=points"):
        other.setup()


def test_images_without_objects_have_no_points(tmp_path: Path) -> None:
    root = dataset(tmp_path)
    data = content(2, 5)
    data["annotations"] = data["annotations"][:1]
    write(root / "val.json", data)
    empty = _data(root).dataset("val")[1]
    assert empty.points is not None and empty.points.shape == (0, 2)
    assert empty.truth is not None and empty.truth.points is not None and empty.truth.points.shape == (0, 2)


@pytest.mark.parametrize("keypoints", [[1, 2], [1, 2, "v"], 5, [float("nan"), 1, 2]])
def test_malformed_keypoints_are_named(tmp_path: Path, keypoints: Any) -> None:
    root = _folder(tmp_path, box_annotation(0, 0, (4, 6, 20, 10), keypoints=keypoints))
    with pytest.raises(UserError, match=r"Annotation 1 in '.*train\.json' has keypoints that are none"):
        _data(root)
    assert "keypoints-invalid" in [f.code for f in check_dataset(root) if f.severity == "error"]


def test_points_outside_and_on_one_pixel_are_found_and_nothing_is_lost(tmp_path: Path) -> None:
    outside = box_annotation(0, 0, (4, 6, 20, 10), keypoints=[70, 9, 2])
    inner, outer = box_annotation(0, 0, (34, 20, 4, 4)), box_annotation(0, 0, (26, 12, 20, 20))
    root = _folder(tmp_path, outside, inner, outer, splits=("train", "val"))
    found = {f.code: f for f in check_dataset(root, fast=True)}
    assert (found["point-outside"].severity, found["point-outside"].count) == ("warning", 2)
    assert (found["point-shared"].severity, found["point-shared"].count) == ("info", 2)
    assert "annotation 1 in 1.png: [70.0, 9.0]" in found["point-outside"].examples[0]
    truth = _data(root).dataset("val")[0].truth
    assert truth is not None and truth.points is not None
    assert truth.points.tolist() == [[14, 11], [36, 22], [36, 22]]


def _counted(root: Path, **splits: tuple[int, ...]) -> Path:
    """Images with so many objects in each split."""
    first = 1
    for split, counts in splits.items():
        data = content(len(counts), first)
        data["annotations"] = [
            box_annotation(100 * image + i, first + image, (5 * i, 3, 4, 4))
            for image, count in enumerate(counts)
            for i in range(count)
        ]
        write(root / f"{split}.json", data)
        write_images(root / "images", data)
        first += len(counts)
    return root


def test_images_with_other_numbers_of_objects_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = _counted(tmp_path, train=(0, 1, 2, 5, 6), val=(1, 3), test=(9, 2, 4))
    source = CocoSource(str(root), object_range=[2, 5])
    source.setup()
    source.setup()
    assert capsys.readouterr().out == "data.objects=[2, 5]: left out 3 train, 1 val, 1 test images\n"
    assert [source.num_objects(split) for split in ("train", "val", "test")] == [7, 3, 6]
    assert CocoSource(str(root), object_range=[1, None]).size("train") == 4
    assert CocoSource(str(root), object_range=[None, 1]).size("train") == 2


@pytest.mark.parametrize("given", [[5, 2], [1], [1, 2, 3], [-1, 2], [1.5, 2], ["a", 2]])
def test_a_range_of_objects_that_is_none(given: Any) -> None:
    with pytest.raises(UserError, match=r"data.objects=.* is no range"):
        CocoSource("anywhere", object_range=given)


def test_a_range_that_leaves_nothing_to_train(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.objects=\[7, 8\] leaves out every training image"):
        CocoSource(str(_counted(tmp_path, train=(1, 2), val=(7,))), object_range=[7, 8]).setup()


def test_the_balance_of_done_states(tmp_path: Path) -> None:
    root = _counted(tmp_path, train=(4, 4, 9), val=(1,), test=(0, 0, 0, 3))
    found = {(one.split, one.mode, one.sampling): one for one in done_balance(root)}
    assert len(found) == 15
    uniform = found["train", "mixed", "uniform"]
    assert uniform.expected == pytest.approx((0.2 + 0.2 + 0.1) / 3) and not uniform.balanced
    assert uniform.pos_weight == pytest.approx(5)
    low, high = uniform.sampled.interval
    assert uniform.sampled.trials >= 2000 and low - 0.01 < uniform.expected < high + 0.01
    assert found["train", "mixed", "balanced"].balanced and found["train", "done", "uniform"].expected == 0.5
    assert found["train", "regression", "uniform"].expected == 0
    assert found["test", "mixed", "balanced"].expected == pytest.approx(0.875)
    recommended, warning = advice(list(found.values()))
    assert "model.sampling=balanced (50.0% done)" in recommended
    assert "model.done_pos_weight=5.0" in recommended
    assert warning.startswith("warning: test: balanced sampling gives 87.5% done, outside 40% to 60%")


def test_sampling_that_is_balanced_already_needs_nothing(tmp_path: Path) -> None:
    [line] = advice(done_balance(_counted(tmp_path, train=(1, 1), val=(1,), test=(1,))))
    assert line.startswith("recommended: model.sampling=uniform")


def test_the_balance_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = _counted(tmp_path, train=(4, 9, 1), val=(4,))
    assert main([str(root), "--done-balance", "--objects", "2", "9"]) == 0
    said = capsys.readouterr().out
    assert "left out 1 train" in said and "15.0%" in said and "recommended: " in said
    assert main([str(tmp_path / "nowhere"), "--done-balance"]) == 2
    assert "error: " in capsys.readouterr().err


def test_a_prediction_of_points() -> None:
    places = torch.tensor([[3.0, 4.0], [1.0, 2.0]])
    found = Prediction.of_points((10, 20), places, torch.tensor([0.2, 0.9]), stopped=False, done=0.1)
    assert found.boxes.tolist() == [[3, 4, 3, 4], [1, 2, 1, 2]] and found.labels.tolist() == [0, 0]
    assert (found.points is places, found.stopped, found.done) == (True, False, 0.1)
    geometry = Geometry((10, 20), (0, 0, 20, 10), (48, 96), (64, 96))
    assert geometry.points_to_window(torch.tensor([[0.5, 0.375]])).tolist() == [[10.0, 5.0]]
    assert geometry.points_to_window(torch.tensor([[1.0, 1.0]])).tolist() == [[20.0, 10.0]]  # in the padding
