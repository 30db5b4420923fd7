"""Command lines that name a run: its model and data are those of the run, without being typed again."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from maskwell import compose, runs, stored_groups
from maskwell.errors import UserError

NOON = datetime(2026, 1, 31, 12, 0, 0)
CHOICES = {
    "model": "s4gan",
    "model/recipe": "guide",
    "data": "semi",
    "trainer": "cpu",
    "paths": "default",
    "experiment": "s4gan_camvid",
    "debug": None,
}


def write_run(root: Path, family: str, choices: dict[str, str | None], hour: int = 12) -> Path:
    folder = runs.create(root, family, NOON.replace(hour=hour))
    runs.save(folder, OmegaConf.create({"seed": 1}), runs.Origin(("seed=1",), choices))
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").touch()
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path, "s4gan", CHOICES)


def test_the_groups_of_the_run_come_first(run: Path) -> None:
    groups = ["model=s4gan", "model/recipe=guide", "data=semi", "trainer=cpu"]
    named = [f"ckpt_path={run}", "model.iterations=300"]
    assert stored_groups.added("train", named) == [*groups, *named]
    file = [f"ckpt_path={run / 'checkpoints' / 'last.ckpt'}"]
    assert stored_groups.added("train", file) == [*groups, *file]
    assert stored_groups.added("evaluate", [f"ckpt='{run}'"]) == [*groups[:3], f"ckpt='{run}'"]
    assert stored_groups.added("predict", [f"ckpt={run}"]) == [*groups[:2], f"ckpt={run}"]


def test_what_is_chosen_stays_chosen(run: Path) -> None:
    given = [f"ckpt={run}", "data=coco", "model/recipe=sound"]
    assert stored_groups.added("evaluate", given) == ["model=s4gan", *given]
    other = [f"ckpt={run}", "model=sam_lora"]
    assert stored_groups.added("evaluate", other) == ["data=semi", *other]
    same = [f"ckpt={run}", "model=s4gan"]
    assert stored_groups.added("evaluate", same) == ["model/recipe=guide", "data=semi", *same]


@pytest.mark.parametrize(
    "arguments", [["model=s4gan"], ["ckpt_path=no.ckpt"], ["ckpt_path=a,b"], ["ckpt_path=null"]]
)
def test_other_command_lines_are_left_alone(arguments: list[str]) -> None:
    assert stored_groups.added("train", arguments) == arguments


def test_keys_of_the_run_compose(run: Path) -> None:
    arguments = stored_groups.added(
        "train", [f"ckpt_path={run}", "model.iterations=300", "data.labelled=0.5"]
    )
    cfg, origin = compose.compose("train", arguments)
    assert (cfg.model.iterations, cfg.data.labelled, cfg.model.recipe.spectral_norm) == (300, 0.5, False)
    stored, before = runs.load(run)
    applied = runs.on_top(stored, before, cfg, origin)[1]
    assert applied == ["model.iterations=300", "data.labelled=0.5"]


def test_last_is_the_newest_run_of_all_families_or_of_the_one_that_is_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path, "sam_lora", {"model": "sam_lora", "data": "coco"}, hour=11)
    odd = tmp_path / "pretrain" / "9" / "checkpoints"
    odd.mkdir(parents=True)
    (odd / "last.ckpt").touch()
    last = ["ckpt=last", f"paths.runs={tmp_path}"]
    assert stored_groups.added("predict", last)[0] == "model=s4gan"
    assert f"last: {run}" in capsys.readouterr().out
    chosen = stored_groups.added("evaluate", [*last, "model=sam_lora"])
    assert chosen == ["data=coco", *last, "model=sam_lora"]
    assert capsys.readouterr().out == ""


def test_last_without_a_run_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run with a checkpoint in"):
        stored_groups.added("train", ["ckpt_path=last", f"paths.runs={tmp_path}"])
