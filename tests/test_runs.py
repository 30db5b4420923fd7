"""Run folders: names, finding them again, overrides on top of a stored configuration."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from maskwell import runs
from maskwell.errors import UserError

NOON = datetime(2026, 1, 31, 12, 0, 0)


def checkpoint_in(folder: Path, name: str = "last") -> Path:
    path = folder / "checkpoints" / f"{name}.ckpt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_runs_in_one_second_get_a_suffix(tmp_path: Path) -> None:
    made = [runs.create(tmp_path, "points", NOON).name for _ in range(3)]
    assert made == ["2026-01-31_12-00-00", "2026-01-31_12-00-00_2", "2026-01-31_12-00-00_3"]


def test_last_is_the_newest_run_with_a_checkpoint(tmp_path: Path) -> None:
    for _ in range(11):
        folder = runs.create(tmp_path, "points", NOON)
        wanted = checkpoint_in(folder)
    runs.create(tmp_path, "points", NOON.replace(hour=13))  # died before its first checkpoint
    checkpoint_in(runs.create(tmp_path, "detr", NOON.replace(hour=14)))
    assert wanted.parents[1].name.endswith("_11")  # as a number: after _2 and _9
    assert runs.find_checkpoint("last", tmp_path, "points") == wanted
    newer = checkpoint_in(runs.create(tmp_path, "points", NOON.replace(second=1)))
    assert runs.find_checkpoint("last", tmp_path, "points") == newer
    assert runs.newest_checkpoint(tmp_path).parents[2].name == "detr"


def test_folder_or_file_name_a_checkpoint(tmp_path: Path) -> None:
    last, best = checkpoint_in(tmp_path), checkpoint_in(tmp_path, "best")
    assert runs.find_checkpoint(str(tmp_path), Path("runs"), "points") == last
    assert runs.find_checkpoint(str(tmp_path), Path("runs"), "points", ("best", "last")) == best
    assert runs.find_checkpoint(str(best), Path("runs"), "points") == best


@pytest.mark.parametrize(
    ("wanted", "said"),
    [("last", "no run with a checkpoint"), ("missing.ckpt", "no checkpoint missing.ckpt"), (".", "holds no")],
)
def test_nothing_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said):
        runs.find_checkpoint(wanted, tmp_path / "runs", "points")


def test_a_run_is_read_as_it_was_saved(tmp_path: Path) -> None:
    cfg = OmegaConf.create({"seed": 3, "data": {"seed": "${seed}"}})
    origin = runs.Origin(("seed=3", "data=coco"), {"data": "coco", "experiment": None})
    runs.save(tmp_path, cfg, origin)
    runs.save(tmp_path, cfg, runs.Origin(("optim.lr=1",)), "resumed")
    stored, before = runs.load(tmp_path)
    assert stored == cfg and stored.data.seed == 3
    assert before == runs.Origin(("seed=3", "data=coco", "optim.lr=1"), {"data": "coco"})


STORED = {"seed": 1, "trainer": {"devices": 1, "epochs": 9}, "data": {"root": "a", "seed": "${seed}"}}
FRESH = {
    "seed": 2,
    "trainer": {"devices": 4, "epochs": 3},
    "data": {"root": "b", "crop": 8, "seed": "${seed}"},
}


@pytest.mark.parametrize(
    ("overrides", "changed", "applied"),
    [
        ([], {}, []),
        (["ckpt_path=last", "paths.runs=x", "plan=false"], {}, []),
        (["trainer.devices=4"], {"trainer.devices": 4}, ["trainer.devices=4"]),
        (["seed=2"], {"seed": 2, "data.seed": 2}, ["seed=2"]),
        (["+data.crop=8"], {"data.crop": 8}, ["+data.crop=8"]),
        (["trainer=gpu"], {"trainer.devices": 4, "trainer.epochs": 3}, ["trainer=gpu"]),
        (["data=coco"], {}, []),  # the choice of the stored run: its own settings stay
        (["data.root=a"], {}, []),  # already an override of the stored run
        (["experiment=one"], {}, []),
    ],
)
def test_overrides_on_top(overrides: list[str], changed: dict[str, object], applied: list[str]) -> None:
    before = runs.Origin(("data.root=a",), {"data": "coco", "trainer": "cpu", "experiment": "one"})
    choices = {"data": "coco", "trainer": "gpu", "experiment": "one"}
    stored = OmegaConf.create(STORED)
    merged, shown = runs.on_top(
        stored, before, OmegaConf.create(FRESH), runs.Origin(tuple(overrides), choices)
    )
    wanted = OmegaConf.create(STORED)
    for key, value in changed.items():
        if key != "data.seed":
            OmegaConf.update(wanted, key, value, force_add=True)
    assert shown == applied
    assert OmegaConf.to_container(merged, resolve=True) == OmegaConf.to_container(wanted, resolve=True)
    assert stored == OmegaConf.create(STORED)


def test_another_recipe_is_refused_on_top() -> None:
    now = runs.Origin(("experiment=two",), {"experiment": "two"})
    before = runs.Origin((), {"experiment": "one"})
    with pytest.raises(UserError, match="experiment=two cannot be put on top"):
        runs.on_top(OmegaConf.create(STORED), before, OmegaConf.create(FRESH), now)


def test_a_stored_configuration_moves_with_its_folder(tmp_path: Path) -> None:
    config = "paths: {run_dir: runs/x/old}\nlogger: {path: runs/x/old/metrics.csv}\n"
    cfg = runs.moved(config, tmp_path)
    assert cfg.paths.run_dir == str(tmp_path) and cfg.logger.path == f"{tmp_path}/metrics.csv"


@pytest.mark.parametrize(("rank", "joins"), [(None, False), ("0", False), ("1", True)])
def test_only_further_ranks_join(monkeypatch: pytest.MonkeyPatch, rank: str | None, joins: bool) -> None:
    monkeypatch.setenv(runs.RUN_DIR, "runs/x")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert (runs.joined() is not None) == joins


@pytest.mark.parametrize("value", ["/runs/one", "/a run/(1)", "it's, so", "ä=[b]", "~x"])
def test_values_as_overrides(value: str) -> None:
    read = OverridesParser.create().parse_override(runs.override("paths.run_dir", value))
    assert read.key_or_group == "paths.run_dir" and read.value() == value


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, None),
        ({"RANK": "1", "WORLD_SIZE": "2"}, 1),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "4"}, 3),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, None),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_NAME": "bash"}, None),
        ({"NODE_RANK": "1"}, 1),
    ],
)
def test_ranks_of_launchers(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], rank: int | None
) -> None:
    names = (
        "RANK",
        "WORLD_SIZE",
        "SLURM_PROCID",
        "SLURM_NTASKS",
        "SLURM_JOB_NAME",
        "NODE_RANK",
        runs.RUN_DIR,
    )
    for name in names:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert runs.launched() == rank
    assert runs.is_first() == (rank in (None, 0))
