"""The command line: the help page, and every kind of typo refused in one sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from maskwell import cli, compose

ROOT = Path(__file__).parents[1]

RECIPES = {
    "group_key": "model: {rnak: 4}",
    "nested_key": "model: {lora: {rnk: 4}}",
    "root_key": "sed: 1",
    "trainer_key": "trainer: {max_epoch: 1}",
    "wrong_type": "seed: abc",
    "wrong_group": "defaults:\n  - override /modle: sam_lora",
    "wrong_choice": "defaults:\n  - override /data: cels",
    "broken": "model: {",
}


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    """A folder of experiment files, each with one mistake."""
    folder = tmp_path / "experiment"
    folder.mkdir()
    for name, text in RECIPES.items():
        (folder / f"{name}.yaml").write_text(f"# @package _global_\n{text}\n")
    return tmp_path


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the program says on its way out."""
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main("train")
    said = capsys.readouterr()
    assert stopped.value.code == 2
    assert said.out == ""
    [line] = said.err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    ("override", "key", "nearest"),
    [
        ("model.rnak=4", "model.rnak", "model.lora.rank"),
        ("model.lora.rnk=4", "model.lora.rnk", "model.lora.rank"),
        ("+model.lora.rnk=4", "model.lora.rnk", "model.lora.rank"),
        ("++trainer.max_epoch=4", "trainer.max_epoch", "trainer.max_epochs"),
        ("sed=4", "sed", "seed"),
        ("+experimnt=x", "experimnt", "experiment"),
        ("experimnt=x", "experimnt", "experiment"),
        ("modle=sam_lora", "modle", "model"),
        ("lr=0.1", "lr", "optim.lr"),
        ("paths.rns=x", "paths.rns", "paths.runs"),
        ("~modl", "modl", "model"),
        ("callbacks.early_stoping.patience=4", "callbacks.early_stoping.patience", "early_stopping.patience"),
        ("health.rules.risng.epochs=4", "health.rules.risng.epochs", "health.rules.rising.epochs"),
        ("+callbacks.mine=4", "callbacks.mine", ""),
    ],
)
def test_unknown_key_on_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], override: str, key: str, nearest: str
) -> None:
    line = refused(monkeypatch, capsys, override)
    assert f"'{key}'" in line
    assert nearest in line


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("group_key", ["'model.rnak'", "'model.lora.rank'", "experiment=group_key"]),
        ("nested_key", ["'model.lora.rnk'", "'model.lora.rank'", "experiment=nested_key"]),
        ("root_key", ["'sed'", "'seed'", "experiment/root_key.yaml"]),
        ("trainer_key", ["'trainer.max_epoch'", "'trainer.max_epochs'"]),
        ("wrong_type", ["'abc'", "experiment/wrong_type.yaml"]),
        ("wrong_group", ["'modle'", "'model'"]),
        ("wrong_choice", ["data=cels", "'cells'"]),
        ("broken", ["YAML", "broken.yaml"]),
    ],
)
def test_mistake_inside_an_experiment_file(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    recipes: Path,
    name: str,
    parts: list[str],
) -> None:
    line = refused(monkeypatch, capsys, "--config-dir", str(recipes), f"experiment={name}")
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("model=sam_lroa", ["model=sam_lroa", "'sam_lora'"]),
        ("experiment=nope", ["experiment=nope", "pretrain_tiny"]),
        ("seed=abc", ["seed=abc", "Integer"]),
        ("sweep=detr", ["python -m maskwell.sweep"]),
        ("sweep.trials=3", ["python -m maskwell.sweep"]),
        ("+seed=3", ["'seed'", "'+'"]),
        ("a b=", ["'a b='", "key=value"]),
        ("data=coco", ["data.root", "given"]),
        ("data.prompts.rename={a: b}", ["+data.prompts.rename.NAME=value"]),
        ("trainer.devices=${nope}", ["trainer.devices", "nope"]),
    ],
)
def test_other_mistakes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], override: str, parts: list[str]
) -> None:
    line = refused(monkeypatch, capsys, override)
    for part in parts:
        assert part in line


def test_free_form_maps_take_new_names() -> None:
    cfg, _ = compose.compose("train", ["+data.prompts.rename.nucleus=cell nucleus"])
    assert cfg.data.prompts.rename == {"nucleus": "cell nucleus"}


def test_help_lists_groups_choices_and_examples_without_importing_torch() -> None:
    code = (
        "import sys, runpy; sys.argv = ['train.py', '--help']\n"
        "try: runpy.run_path('train.py', run_name='__main__')\n"
        "finally: assert not {'torch', 'lightning', 'transformers'} & sys.modules.keys()"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = shown.stdout.splitlines()
    groups = dict(line.split(": ", 1) for line in lines if ": " in line and not line.startswith(" "))
    for group in (
        "model",
        "data",
        "optim",
        "trainer",
        "callbacks",
        "logger",
        "health",
        "experiment",
        "debug",
    ):
        choices = sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))
        assert groups[group].split(", ") == choices
    assert len([line for line in lines if line.startswith("python train.py")]) == 10


def test_typo_in_the_real_program() -> None:
    run = subprocess.run(
        [sys.executable, "train.py", "optim.lrr=1"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr == "error: Unknown key 'optim.lrr'. Did you mean 'optim.lr'?\n"


def test_console_names_its_verbs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["maskwell", "trian"])
    with pytest.raises(SystemExit):
        cli.console()
    assert "maskwell train|evaluate|predict" in capsys.readouterr().err
