"""The manual's reference of the configuration: what is read out of a YAML file, and that none is left out."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from maskwell import compose

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "configuration_reference", DOCS / "configuration_reference.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_keys_values_and_reasons(reference: ModuleType) -> None:
    text = (
        "# What it is\n# for.\ndefaults:\n  - a: b\nlr: 0.1   # a rate\n         # that goes on\n"
        "outer:\n  inner: [1, 2]\n"
    )
    assert reference.heading(text) == "What it is for."
    found = [(e.key, e.value, e.why) for e in reference.entries(text)]
    assert found == [("lr", "0.1", "a rate that goes on"), ("outer.inner", "[1, 2]", "")]


def test_every_choice_is_on_the_page(reference: ModuleType) -> None:
    page = reference.page(compose.conf_dir())
    for file in compose.conf_dir().rglob("*.yaml"):
        group = file.parent.relative_to(compose.conf_dir()).as_posix()
        if not group.startswith("hydra"):
            title = f"`{group}={file.stem}`" if group != "." else f"`{file.stem}.yaml`"
            assert f"### {title}" in page
    assert "`callbacks.panels`" not in page and "| `panels.num_images` | `4` |" in page
