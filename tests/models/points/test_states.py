"""States of training: what is marked, what is left, in which order, and from which random numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from maskwell.errors import UserError
from maskwell.models.points import states
from maskwell.models.points.states import MarkNoise, OwnMarks, Policy, State

SCALE = torch.tensor([96.0, 192.0])


def truth(count: int = 7) -> Tensor:
    return torch.rand(count, 2, generator=torch.Generator().manual_seed(count))


def drawn(policy: Policy, points: Tensor, seed: int = 0, own: OwnMarks | None = None) -> list[State]:
    generator = torch.Generator().manual_seed(seed)
    return states.draw(policy, points, SCALE, 3, own=own, generator=generator)


def as_set(points: Tensor) -> set[tuple[float, ...]]:
    return {tuple(row) for row in points.tolist()}


@pytest.mark.parametrize("order", states.ORDERS)
def test_marked_and_left_are_the_objects_once_each(order: states.Order) -> None:
    points = truth()
    found = drawn(Policy(order, states=64), points)
    assert len(found) == 64 and {state.image for state in found} == {3}
    for state in found:
        assert as_set(state.marks) | as_set(state.left) == as_set(points)
        assert len(state.marks) + len(state.left) == 7
        assert state.marked == len(state.marks) and state.finished == (state.marked == 7)
    assert {state.marked for state in found} == set(range(8))


def test_sequential_orders_go_on_where_they_are() -> None:
    points = truth()
    pixels = points * SCALE
    rows = sorted(range(7), key=lambda i: (pixels[i, 1] // states.ROW_HEIGHT, pixels[i, 0]))
    for state in drawn(Policy("reading", states=16), points):
        assert torch.equal(torch.cat([state.marks, state.left]), points[rows])
    for state in drawn(Policy("nearest", states=16), points):
        last = torch.zeros(2)
        rest = pixels.clone()
        for mark in torch.cat([state.marks, state.left]) * SCALE:
            distances = (rest - last).norm(dim=1)
            assert torch.allclose(rest[distances.argmin()], mark)
            rest = rest[torch.arange(len(rest)) != distances.argmin()]
            last = mark


def test_random_orders_differ_from_state_to_state_and_seeds_repeat_them() -> None:
    points, policy = truth(), Policy("random", states=32)
    first, again, other = drawn(policy, points), drawn(policy, points), drawn(policy, points, seed=1)
    assert all(torch.equal(a.marks, b.marks) for a, b in zip(first, again, strict=True))
    assert any(a.marks.tolist() != b.marks.tolist() for a, b in zip(first, other, strict=True))
    assert len({tuple(state.left[0].tolist()) for state in first if not state.finished}) > 3


def test_modes_decide_which_states_occur() -> None:
    points = truth(3)
    assert not any(s.finished for s in drawn(Policy(mode="regression", states=64), points))
    assert {s.marked for s in drawn(Policy(mode="done", states=64), points)} == {2, 3}
    balanced = drawn(Policy(sampling="balanced", states=400), truth(20))
    assert 0.4 < sum(s.finished for s in balanced) / 400 < 0.6


def test_images_without_objects_are_finished() -> None:
    for mode in ("mixed", "regression", "done"):
        found = drawn(Policy(mode=mode, noise=MarkNoise(1.0, 0.1, 0.1, 0.0)), torch.zeros(0, 2))  # type: ignore[arg-type]
        assert all(state.finished and not len(state.marks) and state.marked == 0 for state in found)


def test_an_object_whose_mark_was_dropped_is_left() -> None:
    points = truth(12)
    found = drawn(Policy(states=64, noise=MarkNoise(drop=0.5)), points)
    assert any(0 < state.marked < 12 for state in found)
    for state in found:
        assert as_set(state.marks) | as_set(state.left) == as_set(points)
        assert not as_set(state.marks) & as_set(state.left)


def test_noise_moves_doubles_and_invents_marks_but_no_object_is_lost() -> None:
    points = truth(12)
    found = drawn(Policy(states=256, noise=MarkNoise(2.0, 0.0, 0.2, 0.5)), points)
    assert all(as_set(state.left) <= as_set(points) for state in found)
    assert any(len(state.marks) > state.marked for state in found)
    clean = drawn(Policy(states=256, noise=MarkNoise(jitter=2.0)), points)
    away = torch.cat([((s.marks[:, None] - points) * SCALE).norm(dim=2).amin(1) for s in clean])
    assert 0.5 < float(away.mean()) < 4  # px: the displacement is the same in both directions


def test_own_marks_leave_what_they_did_not_hit() -> None:
    points = torch.tensor([[0.2, 0.2], [0.5, 0.5], [0.8, 0.8]])
    made = torch.tensor([[0.5, 0.501], [0.05, 0.9], [0.2, 0.2], [0.5, 0.52]])
    own = OwnMarks.matched(made, points, SCALE, radius=4.0)
    assert own.objects.tolist() == [1, -1, 0, -1]
    found = drawn(Policy(states=200, own_share=1.0), points, own=own)
    kinds = {(len(s.marks), s.marked): as_set(s.left) for s in found}
    everything = as_set(points)
    assert set(kinds) == {(0, 0), (1, 1), (2, 1), (3, 2), (4, 2)}
    assert kinds[0, 0] == everything
    assert kinds[2, 1] == everything - as_set(points[1:2])
    assert kinds[4, 2] == as_set(points[2:])
    # Three are never hit: the marks until the second hit stand for it, and none that came after.
    assert sum(len(s.marks) == 3 for s in found) > sum(len(s.marks) == 4 for s in found) * 3
    share = drawn(Policy(states=8, own_share=0.25), points, own=own)
    assert sum(as_set(s.marks) <= as_set(made) and len(s.marks) > 0 for s in share[2:]) == 0


def test_later_own_marks_take_no_object_from_earlier_ones() -> None:
    points = torch.tensor([[0.5, 0.5]])
    made = torch.tensor([[0.5, 0.51], [0.5, 0.5]])  # the second is nearer, and a duplicate
    own = OwnMarks.matched(made, points, SCALE, radius=4.0)
    assert own.objects.tolist() == [0, -1]
    found = drawn(Policy(states=400, own_share=1.0), points, own=own)
    assert all(state.finished == (len(state.marks) > 0) for state in found)
    ended = [len(state.marks) for state in found if state.finished]
    assert ended.count(1) > 2 * ended.count(2) > 0  # three to one
    assert not len(OwnMarks.matched(made[:0], points, SCALE, 4.0).objects)
    assert OwnMarks.matched(made, points[:0], SCALE, 4.0).objects.tolist() == [-1, -1]


def test_a_mark_anywhere_on_an_object_is_about_it_and_a_second_one_is_not() -> None:
    points = torch.tensor([[0.25, 0.25], [0.75, 0.25]])
    sides = torch.tensor([100.0, 100.0])
    reach = torch.tensor([20.0, 6.0])
    made = torch.tensor([[0.25, 0.43], [0.25, 0.25], [0.75, 0.33], [0.75, 0.38]])
    own = OwnMarks.matched(made, points, sides, 9.0, reach)
    assert own.objects.tolist() == [0, -1, 1, -1]  # 18 px off, a repetition, 8 px off, a repetition
    assert OwnMarks.matched(made, points, sides, 9.0).objects.tolist() == [-1, 0, 1, -1]
    close = torch.tensor([[0.5, 0.5], [0.5, 0.62]])  # 12 px apart
    twice = torch.tensor([[0.5, 0.5], [0.5, 0.51]])
    both = OwnMarks.matched(twice, close, sides, 9.0, torch.tensor([20.0, 20.0]))
    assert both.objects.tolist() == [0, -1]  # the second is no mark of the neighbour


def test_the_share_of_own_marks_can_be_less_than_the_policys() -> None:
    points = truth(6)
    own = OwnMarks(points + 1.0, torch.arange(6))
    for share, borrowed in ((0.0, 0), (0.5, 4), (1.0, 8)):
        generator = torch.Generator().manual_seed(0)
        policy = Policy(sampling="balanced", mode="done", states=8, own_share=1.0)
        found = states.draw(policy, points, SCALE, 0, own=own, own_share=share, generator=generator)
        assert [bool((s.marks > 1).all()) for s in found] == [True] * borrowed + [False] * (8 - borrowed)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"order": "spiral"}, "model.order=spiral"),
        ({"sampling": "even"}, "model.sampling=even"),
        ({"mode": "both"}, "model.mode=both"),
        ({"states": 0}, "model.states=0"),
        ({"own_share": 1.5}, "model.own_share=1.5"),
    ],
)
def test_bad_settings_are_refused_by_name(settings: dict[str, object], key: str) -> None:
    with pytest.raises(UserError, match=key.replace(".", r"\.")):
        Policy(**settings)  # type: ignore[arg-type]


def test_bad_noise_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"model\.noise\.jitter=-1"):
        MarkNoise(jitter=-1)
    with pytest.raises(UserError, match=r"model\.noise\.drop=1"):
        MarkNoise(drop=1)
