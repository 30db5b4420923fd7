"""Running what a page tells people to type."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from benchmarks import readme
from benchmarks.readme_commands import Step
from maskwell.data.convert import convert


def _run(tmp_path: Path, command: str, address: str = "") -> int:
    (tmp_path / "clone").mkdir(exist_ok=True)
    return readme.run(Step(command, command, address=address), tmp_path / "clone", os.environ)[1]


def test_exit_codes_and_the_last_lines_of_what_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _run(tmp_path, "echo fine && touch made") == 0 and (tmp_path / "clone" / "made").is_file()
    assert "fine" not in capsys.readouterr().out.replace("echo fine", "")
    assert _run(tmp_path, "echo broken >&2; exit 3") == 3
    assert "broken" in capsys.readouterr().out.replace("echo broken", "")
    monkeypatch.setattr(readme, "LIMIT", 0.2)
    assert _run(tmp_path, "sleep 60 & sleep 60") == readme.KILLED


def test_a_page_has_passed_once_it_answers(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve = f"{sys.executable} -m http.server {port} --bind 127.0.0.1"
    assert _run(tmp_path, serve, f"http://127.0.0.1:{port}") == 0
    assert _run(tmp_path, "exit 4", f"http://127.0.0.1:{port}") == 4
    assert _run(tmp_path, "true", f"http://127.0.0.1:{port}") == readme.KILLED


def test_the_samples_are_data_that_the_programs_read(tmp_path: Path) -> None:
    readme.samples(tmp_path / "sample")
    assert len(list((tmp_path / "sample" / "images").iterdir())) == 4
    convert("voc", tmp_path / "sample" / "voc", tmp_path / "coco")
    assert list((tmp_path / "coco").rglob("*.json"))
