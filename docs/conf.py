"""Sphinx: `make docs`. The references are written from the code and the YAML files at every build."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import configuration_reference  # noqa: E402 - lies beside this file

project = "maskwell"
copyright = "the maskwell authors, Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "maskwell"
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
suppress_warnings = ["myst.xref_missing"]  # pages of the families link to files of the repository

configuration_reference.write(HERE.parent / "conf", HERE / "_generated" / "configuration.md")
