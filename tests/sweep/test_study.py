"""Searches: trials as processes, failures recorded, hopeless ones stopped, a cut-off search gone on with."""

from __future__ import annotations

import json
import multiprocessing
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from maskwell import build, compose
from maskwell.errors import UserError
from maskwell.sweep import __main__ as sweep
from maskwell.sweep import search, study
from support import CONF

TRIAL = (sys.executable, str(Path(__file__).with_name("small_trial.py")))
FLAGS = ["--config-dir", str(CONF)]

pytestmark = pytest.mark.usefixtures("small_family")


def arguments(tmp_path: Path, *more: str) -> list[str]:
    own = ["sweep.poll_seconds=0.1", "model=tiny_conv", "data=tiny_scenes", f"paths.runs={tmp_path}"]
    return [*own, *more]


def wanted(tmp_path: Path, *more: str, does: str = "well") -> search.Search:
    """A search whose trials are played by small_trial.py, ``+does`` being for its ears alone."""
    found = search.read(arguments(tmp_path, *more), FLAGS)
    return search.Search(**{**vars(found), "program": (*TRIAL, f"+does={does}")})


def trials(tmp_path: Path) -> list[dict[str, Any]]:
    content = json.loads((tmp_path / "sweeps" / "tiny_conv" / "study.json").read_text())
    return list(content["trials"])


def test_grid_of_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = wanted(tmp_path, "optim.lr=0.5,0.1,1", "seed=3")
    sweep.show(study.run(asked), asked)
    said = capsys.readouterr().out
    assert "best: trial" in said and "python train.py" in said
    found = trials(tmp_path)
    assert sorted(trial["value"] for trial in found) == [0.1, 0.5, 1.0]  # the least of each run's rows
    assert {trial["state"] for trial in found} == {"complete"}
    folders = [tmp_path / "sweeps" / "tiny_conv" / trial["folder"] for trial in found]
    assert all("seed=3" in (folder / "given").read_text() for folder in folders)
    before = study.run(asked)
    assert len(before.trials) == 3  # nothing was left to do


def test_a_failed_trial_is_recorded_and_the_study_goes_on(tmp_path: Path) -> None:
    asked = wanted(tmp_path, "optim.lr=0.5,2,0.1", does="fails_above_1")
    sweep.show(study.run(asked), asked)
    failed, *others = sorted(trials(tmp_path), key=lambda trial: trial["state"] != "fail")
    assert failed["state"] == "fail" and failed["exit"] == 2
    assert failed["note"] == "exit code 2: error: no such rate"
    assert [trial["state"] for trial in others] == ["complete", "complete"]


def test_a_broken_run_is_pruned_by_its_health(tmp_path: Path) -> None:
    asked = wanted(tmp_path, "optim.lr=0.5,0.1", does="breaks")
    sweep.show(study.run(asked), asked)
    assert [trial["state"] for trial in trials(tmp_path)] == ["pruned", "pruned"]
    assert all(trial["note"].startswith("health: broken") for trial in trials(tmp_path))


def test_hopeless_trials_are_pruned(tmp_path: Path) -> None:
    more = ["optim.lr=0.1,0.2,9", "sweep.startup_trials=2"]
    asked = wanted(tmp_path, *more, does="slow_when_bad")
    sweep.show(study.run(asked), asked)
    states = {trial["params"]["optim.lr"]: trial["state"] for trial in trials(tmp_path)}
    assert states == {"0.1": "complete", "0.2": "complete", "9": "pruned"}


@pytest.mark.skipif(sys.platform != "linux", reason="the search is forked")
@pytest.mark.parametrize("does", ["stops_the_search", "kills_the_search"])
def test_a_search_that_was_cut_off_goes_on(tmp_path: Path, does: str) -> None:
    command = [*FLAGS, *arguments(tmp_path, "optim.lr=0.5,0.1")]

    def start() -> int | None:
        """The program in a process of its own, without importing everything anew."""
        program = (*TRIAL, f"+does={does}")
        process = multiprocessing.get_context("fork").Process(
            target=lambda: sys.exit(sweep.main(command, program))
        )
        process.start()
        process.join(300)
        return process.exitcode

    assert start() == (75 if does == "stops_the_search" else -signal.SIGKILL)
    codes = [start() for _ in range(2)]  # each of the two trials cuts the search off once
    assert codes[-1] == 0, codes
    found = trials(tmp_path)
    assert [trial["state"] for trial in found] == ["complete", "complete"]
    folders = [tmp_path / "sweeps" / "tiny_conv" / trial["folder"] for trial in found]
    assert len(set(folders)) == 2 and all((folder / "went_on").exists() for folder in folders)


@pytest.mark.skipif(sys.platform != "linux", reason="the searches are forked")
@pytest.mark.parametrize("storage", ["sqlite", "journal"])
def test_two_searches_share_a_study(tmp_path: Path, storage: str) -> None:
    """No trial ends before another has begun, and none is made twice."""
    more = [] if storage == "sqlite" else [f"sweep.storage=journal:///{tmp_path / 'study.log'}"]
    command = [*FLAGS, *arguments(tmp_path, "optim.lr=0.5,0.1,1,2", *more)]
    program = (*TRIAL, "+does=waits_for_another")
    context = multiprocessing.get_context("fork")
    searches = [
        context.Process(target=lambda: sys.exit(sweep.main(command, program))),
        context.Process(target=lambda: sys.exit(sweep.main(command, program))),
    ]
    for process in searches:
        process.start()
    for process in searches:
        process.join(300)
    assert [process.exitcode for process in searches] == [0, 0]
    found = trials(tmp_path)
    assert sorted(trial["value"] for trial in found) == [0.1, 0.5, 1.0, 2.0]
    assert {trial["state"] for trial in found} == {"complete"}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["optim.lr=0.1"], "nothing to search"),
        (["optim.lrr=0.1,0.2"], "Unknown key 'optim.lrr'"),
        (["sweep=sam_lroa"], r"no sweep=sam_lroa\. Did you mean 'sam_lora'"),
        (["sweep.trails=3", "optim.lr=1,2"], r"'sweep\.trails'\. Did you mean 'trials'"),
        (["sweep.trials=x", "optim.lr=1,2"], "Cannot set sweep.trials=x"),
        (["sweep.trials=0", "optim.lr=1,2"], "at least 1"),
        (["sweep.sampler=bayes", "optim.lr=1,2"], "use one of auto, tpe"),
    ],
)
def test_mistakes_are_told_before_anything_runs(tmp_path: Path, more: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        search.read(arguments(tmp_path, *more), FLAGS)


def test_an_interval_is_no_grid(tmp_path: Path) -> None:
    asked = wanted(tmp_path, "optim.lr=interval(0.1,0.2)", "sweep.sampler=grid")
    with pytest.raises(UserError, match="an interval has no end of values"):
        study.run(asked)


@pytest.mark.parametrize(
    "storage", ["nonsense", "postgresql://me:secret@127.0.0.1:9/x", "sqlite:////no/x.db"]
)
def test_a_storage_that_does_not_open_is_one_sentence(tmp_path: Path, storage: str) -> None:
    with pytest.raises(UserError, match=r"^sweep\.storage cannot be opened \(\w+\)"):
        study.run(wanted(tmp_path, "optim.lr=0.5,0.1", f"sweep.storage={storage}"))


def test_another_search_is_another_study(tmp_path: Path) -> None:
    study.run(wanted(tmp_path, "optim.lr=0.5,0.1"))
    with pytest.raises(UserError, match=r"name a new one: sweep\.study=NAME"):
        study.run(wanted(tmp_path, "optim.lr=0.5,0.2"))


def test_every_search_file_fits_its_family() -> None:
    for name in search.names():
        found = search.read([f"sweep={name}", f"model={name}"])
        assert found.study == name and found.space
        assert found.metric == compose_monitor(name)


def compose_monitor(family: str) -> str:
    cfg, _ = compose.compose("train", [f"model={family}"])
    return str(build.task(cfg).monitor)
