"""Every YAML of conf/ composes, and what it names can be built."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from maskwell import build, compose
from maskwell.data.datamodule import DataModule
from maskwell.models.base import BaseTask

CONF = compose.conf_dir()

NEEDED = {f"data={kind}": ["data.root=x"] for kind in ("coco", "semantic", "semi")}
"""Keys without a default, by choice."""


def choices(*groups: str) -> list[str]:
    found = [f"{group}={file.stem}" for group in groups for file in sorted((CONF / group).glob("*.yaml"))]
    assert found
    return found


def cfg_with(choice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DictConfig:
    monkeypatch.setenv("MASKWELL_DATA", str(tmp_path))
    extra = [f"paths.run_dir={tmp_path}", *NEEDED.get(choice, [])]
    return compose.compose("train", [choice, *extra])[0]


def test_every_file_belongs_to_a_tested_group() -> None:
    tested = {"model", "data", "optim", "trainer", "callbacks", "logger", "health", "experiment", "debug"}
    roots = {"train", "evaluate", "predict", "diagnose"}
    for file in CONF.rglob("*.yaml"):
        group = file.relative_to(CONF).parts[0]
        assert group in tested | {"paths", "hydra"} or file.stem in roots, file


@pytest.mark.parametrize("choice", choices("experiment", "debug"))
def test_recipes_compose(choice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = cfg_with(choice, tmp_path, monkeypatch)
    for key in ("model", "data", "optim", "trainer", "health"):
        build.check_node(cfg[key], key)
    if cfg.callbacks:
        build.check_node(cfg.callbacks, "callbacks")


@pytest.mark.parametrize("choice", choices("callbacks", "logger", "health"))
def test_callbacks_loggers_and_monitor_build(
    choice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = cfg_with(choice, tmp_path, monkeypatch)
    wanted = {"callbacks": len(cfg.callbacks or {}) + bool(cfg.health), "logger": len(cfg.logger or {})}
    assert len(build.callbacks(cfg)) == wanted["callbacks"]
    assert len(build.loggers(cfg)) == wanted["logger"]


@pytest.mark.parametrize("choice", choices("trainer", "debug"))
def test_trainers_build(choice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "cpu_cores", lambda: 2)
    if choice == "trainer=gpu":
        with pytest.raises(build.UserError, match="no GPU"):
            monkeypatch.setattr("torch.cuda.is_available", lambda: False)
            monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
            build.trainer(cfg_with(choice, tmp_path, monkeypatch))
        return
    cfg = cfg_with(choice, tmp_path, monkeypatch)
    cfg.trainer.accelerator = "cpu"
    trainer = build.trainer(cfg, logger=False)
    assert trainer.world_size == (2 if choice == "trainer=ddp" else 1)


@pytest.mark.parametrize("choice", choices("data"))
def test_data_builds(choice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = cfg_with(choice, tmp_path, monkeypatch)
    assert isinstance(build._build(cfg.data, "data"), DataModule)


@pytest.mark.parametrize("choice", choices("model"))
def test_models_name_a_task(choice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = cfg_with(choice, tmp_path, monkeypatch)
    build.check_node(cfg.model, "model")
    assert issubclass(get_object(cfg.model._target_), BaseTask)
    assert build.family(cfg)


@pytest.mark.parametrize("choice", choices("optim"))
def test_optimisers_build(choice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hasattr(build._build(cfg_with(choice, tmp_path, monkeypatch).optim, "optim"), "build")


@pytest.mark.parametrize("name", ["evaluate", "predict", "diagnose"])
def test_other_roots_compose(name: str) -> None:
    given = {"predict": ["input=x"], "evaluate": ["data.root=x"]}.get(name, [])
    cfg, _ = compose.compose(name, given)
    assert OmegaConf.to_container(cfg, resolve=True)


def test_each_key_says_why() -> None:
    """The root's own scalars carry a comment each; group files start with one or are built of others."""
    lines = (CONF / "train.yaml").read_text().splitlines()
    scalars = [line for line in lines if line and not line.startswith((" ", "#", "defaults"))]
    assert scalars and all("#" in line for line in scalars)


def test_files_are_short() -> None:
    for file in CONF.rglob("*.yaml"):
        assert len(file.read_text().splitlines()) <= 60, file
