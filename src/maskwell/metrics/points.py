"""Points: how well marks fit objects one to one, how well they count, and when the marking stops.

Matches are one to one within a radius (Hungarian). Radii are pixels of an image whose longer side
has ``reference`` pixels, so that they mean the same at every file size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_auroc, binary_calibration_error

from maskwell.data.sample import Prediction, Truth
from maskwell.ops.points import match_points

STEPS = 20
"""Radii, evenly spaced up to the largest one, over which ``f1_integral`` is taken."""
RELATIVE = 0.5
"""The relative radius: this share of the square root of an object's box area."""
K_BINS = ((0, 0), (1, 4), (5, 9), (10, 19), (20, None))
"""Numbers of marks (first and last) over which the pixel error is shown."""


@dataclass(frozen=True)
class ImageMatch:
    """What the marks of one image come to.

    ``hits`` int64 [R]: matches at each radius; ``distance`` sum over the matches at the largest;
    ``marked`` and ``objects``: how many there are; ``ended_on_object``: whether the last mark
    matches an object at the largest radius, or there is no mark.
    """

    hits: Tensor
    distance: float
    marked: int
    objects: int
    ended_on_object: bool


def match_image(points: Tensor, objects: Tensor, radii: Sequence[float | Tensor], largest: int) -> ImageMatch:
    """Match marks with objects at each radius.

    Args:
        points: float [K, 2], in the order in which they were marked.
        objects: float [N, 2], in the same pixels.
        radii: each one number, or float [N] with one for every object.
        largest: index of the radius at which distances are taken.
    """
    pairs = [match_points(points, objects, radius) for radius in radii]
    chosen, true = pairs[largest]
    hits = torch.tensor([len(found) for found, _ in pairs])
    distance = float((points[chosen] - objects[true]).norm(dim=1).sum())
    ended = not len(points) or bool((chosen == len(points) - 1).any())
    return ImageMatch(hits, distance, len(points), len(objects), ended)


def f1(hits: Tensor, marked: Tensor, objects: Tensor) -> Tensor:
    """2 hits / (marked + objects); 1 where there was nothing and nothing was marked."""
    total = (marked + objects).float()
    return torch.where(total > 0, 2 * hits / total.clamp(min=1), torch.ones_like(total))


class PointScores(Metric):
    """Precision, recall and F1 of marks at several radii, and how well their number fits.

    All images together (micro average). Marks inside a crowd that match no object count nowhere.

    Args:
        radii: in px of an image whose longer side has ``reference`` px, ascending.
        reference: see there.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True
    hits: Tensor
    totals: Tensor
    distance: Tensor
    counts: Tensor
    stops: Tensor

    def __init__(self, radii: Sequence[float] = (9.6, 19.2), reference: float = 384.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not radii or list(radii) != sorted(radii) or radii[0] <= 0:
            raise ValueError(f"Radii are positive and ascending, not {list(radii)}.")
        self.radii = tuple(radii)
        self.reference = reference
        # radii, the relative one, and the steps of the integral
        hits = torch.zeros(len(radii) + 1 + STEPS, dtype=torch.int64)
        self.add_state("hits", default=hits, dist_reduce_fx="sum")
        for name, default in (
            ("totals", torch.zeros(2, dtype=torch.int64)),  # marks, objects
            ("distance", torch.zeros(())),  # sum over the matches at the largest radius
            ("counts", torch.zeros(5, dtype=torch.int64)),  # images, |error|, error^2, exact, within one
            ("stops", torch.zeros(3, dtype=torch.int64)),  # images that were stopped, too early, too late
        ):
            self.add_state(name, default=default, dist_reduce_fx="sum")

    def update(self, predictions: Sequence[Prediction], truths: Sequence[Truth]) -> None:
        """Add images, in the window frame.

        Raises:
            ValueError: a prediction or a truth has no points.
        """
        for prediction, truth in zip(predictions, truths, strict=True):
            points, objects = both_points(prediction, truth)
            self._add(points, prediction.stopped, truth, objects)

    def _add(self, points: Tensor, stopped: bool | None, truth: Truth, objects: Tensor) -> None:
        scale = self.reference / max(truth.size)
        boxes = truth.boxes[~truth.iscrowd].cpu()
        sizes = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).clamp(min=0).sqrt() * scale
        largest = len(self.radii) - 1
        steps = [self.radii[-1] * step / STEPS for step in range(1, STEPS + 1)]
        radii: list[float | Tensor] = [*self.radii, RELATIVE * sizes, *steps]
        points = points[~crowded(points, objects, truth, self.radii[-1] / scale)]
        match = match_image(points * scale, objects * scale, radii, largest)
        error = abs(match.marked - match.objects)
        device = self.hits.device
        self.hits += match.hits.to(device)
        self.totals += torch.tensor([match.marked, match.objects], device=device)
        self.distance += match.distance
        self.counts += torch.tensor([1, error, error**2, error == 0, error <= 1], device=device)
        if stopped is not None:
            found = int(match.hits[largest])
            early = stopped and found < match.objects
            late = not stopped or (found == match.objects and not match.ended_on_object)
            self.stops += torch.tensor([1, early, late], device=device)

    def compute(self) -> dict[str, Tensor]:
        """float32 scalars; what is undefined is left out.

        ``precision_<radius>``, ``recall_<radius>``, ``f1_<radius>`` (9.6 px as ``9_6``);
        ``f1_relative``: at half the size of each object; ``f1_integral``: mean of F1 over radii up to
        the largest; ``mean_distance`` of matches at the largest radius, reference px; ``count_mae``,
        ``count_rmse``, ``exact``, ``within_one``: of the number of marks in an image, the last two as
        shares of the images; ``early``: share of images where the marking stopped while an object had
        no mark within the largest radius; ``late``: where it went on after all had one, or until the
        cap or a repeated mark ended it.
        """
        marked, objects = self.totals
        images = self.counts[0]
        if not int(images):
            return {}
        figures: dict[str, Tensor] = {}
        scores = f1(self.hits, marked, objects)
        for radius, hits, score in zip(self.radii, self.hits, scores, strict=False):
            name = f"{radius:g}".replace(".", "_")
            if int(marked):
                figures[f"precision_{name}"] = hits / marked
            if int(objects):
                figures[f"recall_{name}"] = hits / objects
            figures[f"f1_{name}"] = score
        figures["f1_relative"] = scores[len(self.radii)]
        figures["f1_integral"] = scores[len(self.radii) + 1 :].mean()
        matched = self.hits[len(self.radii) - 1]
        if int(matched):
            figures["mean_distance"] = self.distance / matched
        shares = self.counts[1:] / images
        figures |= {"count_mae": shares[0], "count_rmse": shares[1].sqrt()}
        figures |= {"exact": shares[2], "within_one": shares[3]}
        if int(self.stops[0]):
            figures |= {name: self.stops[i] / self.stops[0] for i, name in ((1, "early"), (2, "late"))}
        return figures


def both_points(prediction: Prediction, truth: Truth) -> tuple[Tensor, Tensor]:
    """Marks [K, 2] and objects [N, 2], float32 on the CPU.

    Raises:
        ValueError: one of the two has no points.
    """
    if prediction.points is None or truth.points is None:
        raise ValueError("Points are scored on points; the prediction or the truth has none.")
    return prediction.points.detach().cpu().float(), truth.points.cpu().float()


def crowded(points: Tensor, objects: Tensor, truth: Truth, radius: float) -> Tensor:
    """Which marks lie in the box of a crowd and match no object, bool [K]."""
    crowds = truth.boxes[truth.iscrowd].cpu()
    x, y = points[:, None, 0], points[:, None, 1]
    inside = (crowds[:, 0] <= x) & (x <= crowds[:, 2]) & (crowds[:, 1] <= y) & (y <= crowds[:, 3])
    left_out = inside.any(1)
    if left_out.any():
        left_out[match_points(points, objects, radius)[0]] = False
    return left_out


class TeacherForced(Metric):
    """The next mark after true ones: its pixel error by the number of marks, and the verdict "no more".

    The verdict is judged by the area under the ROC curve and the expected calibration error (15 bins).
    """

    full_state_update = False
    is_differentiable = False
    marked: list[Tensor]
    error: list[Tensor]
    done: list[Tensor]
    finished: list[Tensor]

    _STATES = (
        ("marked", torch.int64),
        ("error", torch.float32),
        ("done", torch.float32),
        ("finished", torch.int64),
    )

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name, _ in self._STATES:
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, marked: Tensor, error: Tensor, done: Tensor, finished: Tensor) -> None:
        """Add states of images.

        Args:
            marked: int64 [S], how many marks each state has.
            error: float [S], pixels of the network input between the predicted and the true next point;
                nan where there is none.
            done: float [S], predicted probability of "no more".
            finished: bool [S], whether there is no more.
        """
        values = {"marked": marked, "error": error, "done": done, "finished": finished}
        for name, dtype in self._STATES:
            getattr(self, name).append(values[name].detach().to(self.device, dtype).reshape(-1))

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the states of all ranks; a rank without any joins with rows of the right type."""
        for name, dtype in self._STATES:
            if getattr(self, name) == []:
                setattr(self, name, [torch.zeros(0, dtype=dtype, device=self.device)])
        super().sync(*args, **kwargs)

    def compute(self) -> dict[str, Tensor]:
        """float32 scalars; what is undefined is left out.

        ``pixel_error``: mean; ``pixel_error/k_<first>_<last>``: after so many marks; ``done_auroc``,
        ``done_ece``; ``done_mean`` and ``done_highest`` of the predicted probabilities.
        """
        marked, error, done, finished = (_joined(getattr(self, name)) for name, _ in self._STATES)
        if not len(done):
            return {}
        figures = {"done_mean": done.mean(), "done_highest": done.max()}
        figures["done_ece"] = binary_calibration_error(done, finished, n_bins=15)
        if 0 < int(finished.sum()) < len(finished):
            figures["done_auroc"] = binary_auroc(done, finished)
        if not error.isnan().all():
            figures["pixel_error"] = error.nanmean()
        for first, last in K_BINS:
            inside = (marked >= first) & (marked <= (last if last is not None else marked))
            inside &= ~error.isnan()
            if inside.any():
                figures[f"pixel_error/{_bin_name(first, last)}"] = error[inside].mean()
        return figures


def _joined(parts: Tensor | list[Tensor]) -> Tensor:
    """A "cat" state, which is one tensor after the ranks were gathered and a list before."""
    if isinstance(parts, Tensor):
        return parts
    return torch.cat(parts) if parts else torch.zeros(0)


def _bin_name(first: int, last: int | None) -> str:
    if last is None:
        return f"k_{first}_up"
    return f"k_{first}" if first == last else f"k_{first}_{last}"
