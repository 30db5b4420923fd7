"""The notebooks: no outputs are committed, their cells compile and name keys that compose, and each runs."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from benchmarks import notebooks
from maskwell import compose

NAMES = ("detr", "points", "s4gan", "sam_lora")


@pytest.mark.parametrize("name", NAMES)
def test_no_outputs_are_committed_and_keys_exist(name: str) -> None:
    path = notebooks.FOLDER / f"{name}.ipynb"
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None
    scope = {"STEPS": 2, "IMAGES": 10, "cells": Path("/data"), "folder": Path("/folder")}
    calls = [
        node
        for node in ast.walk(ast.parse(notebooks.source(path)))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "compose.compose"
    ]
    assert len(calls) == 1
    overrides = eval(ast.unparse(calls[0].args[1]), {}, scope)
    cfg, _ = compose.compose("train", overrides)
    assert name in cfg.model._target_


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_runs_from_the_first_cell_to_the_last(name: str) -> None:
    notebooks.run(notebooks.FOLDER / f"{name}.ipynb", reduced=True)
