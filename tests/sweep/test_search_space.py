"""Search spaces: Hydra's words for a sweep, read into choices and intervals."""

from __future__ import annotations

import pytest
from optuna.trial import FixedTrial

from maskwell.errors import UserError
from maskwell.sweep import search_space
from maskwell.sweep.search_space import Choices, Interval


@pytest.mark.parametrize(
    ("form", "entry"),
    [
        ("4,8,16", Choices(("4", "8", "16"))),
        ("choice(a,[1,2])", Choices(("a", "[1,2]"))),
        ("range(1,8,3)", Choices(("1", "4", "7"))),
        ("interval(0.1,0.5)", Interval(0.1, 0.5, False)),
        ("tag(log,interval(1e-5,1e-3))", Interval(1e-5, 1e-3, True)),
        ("int(interval(1,8))", Interval(1, 8, False)),
    ],
)
def test_forms(form: str, entry: object) -> None:
    assert search_space.split([f"a.b={form}"], {}) == ([], {"a.b": entry})
    assert search_space.split([], {"a.b": form}) == ([], {"a.b": entry})


def test_command_line_goes_on_top_of_the_file() -> None:
    stored = {"a": "1,2", "b": "1,2", "c": "1,2"}
    fixed, space = search_space.split(["a=7", "b=3,4", "model=x", "'q=[1,2]'"[1:-1]], stored)
    assert fixed == ["a=7", "model=x", "q=[1,2]"]
    assert space == {"b": Choices(("3", "4")), "c": Choices(("1", "2"))}


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("glob(*)", "no glob"),
        ("interval(3,1)", "empty"),
        ("tag(log,interval(0,1))", "empty"),
        ("range(3,1)", "nothing to choose"),
        ("interval(", "Cannot read"),
    ],
)
def test_what_is_no_search(form: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        search_space.split([f"a={form}"], {})


def test_a_file_holds_searched_keys_only() -> None:
    with pytest.raises(UserError, match=r"sweep.space.a: '3' is one value"):
        search_space.split([], {"a": "3"})


def test_grid_is_every_combination() -> None:
    space = {"a": Choices(("1", "2")), "b": Choices(("x", "y"))}
    assert search_space.grid(space) == [
        {"a": "1", "b": "x"},
        {"a": "1", "b": "y"},
        {"a": "2", "b": "x"},
        {"a": "2", "b": "y"},
    ]
    assert search_space.grid({**space, "c": Interval(0.0, 1.0, False)}) is None


def test_suggestions_are_overrides() -> None:
    trial = FixedTrial({"a": "x", "b": 3, "c": 2.5e-05})
    assert Choices(("x", "y")).suggest(trial, "a") == "x"  # type: ignore[arg-type]
    assert Interval(1, 8, False).suggest(trial, "b") == "3"  # type: ignore[arg-type]
    assert float(Interval(1e-5, 1e-3, True).suggest(trial, "c")) == 2.5e-05  # type: ignore[arg-type]
    assert search_space.example({"a": Choices(("x", "y")), "b": Interval(1, 8, False)}) == ["a=x", "b=1"]
