"""Cases: which images are shown, and what a whole small training leaves behind."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from PIL import Image

from maskwell import app
from maskwell.callbacks.cases import choose
from support import composed


def test_the_ends_and_the_middle_are_chosen_each_once() -> None:
    scores = {(0, row): score for row, score in enumerate((0.9, 0.1, 0.5, 0.3, 0.7, 0.5, 1.0))}
    chosen = [(key[1], kind) for key, kind in choose(scores, worst=2, typical=2, best=1)]
    assert chosen == [(1, "worst"), (3, "worst"), (2, "typical"), (5, "typical"), (6, "best")]
    assert [kind for _, kind in choose({(0, 0): 1.0, (0, 1): 0.2}, 3, 2, 1)] == ["worst", "worst"]
    assert choose({}, 3, 2, 1) == []


def test_a_training_ends_with_cases_and_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    small = ("model=detr", "model.base=small", "data=cells", "trainer=cpu", "health=none")
    size = (
        "model.image_size=64",
        "model.queries=20",
        "data.size=64",
        "data.num_train=2",
        "data.num_val=2",
        "data.num_test=3",
        "data.num_workers=0",
        "data.batch_size=2",
    )
    quick = (
        "trainer.max_steps=1",
        "evaluate_base=false",
        "callbacks.progress=null",
        f"paths.run_dir={folder}",
    )
    app.train(*composed(*small, *size, *quick))
    with (folder / "cases" / "images.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 and {row["measure"] for row in rows} == {"pq"}
    errors = [float(row["error"]) for row in rows]
    assert errors == sorted(errors, reverse=True)
    assert Image.open(folder / "cases" / "cases.png").width > 300
    assert (folder / "report.html").stat().st_size > 20_000
    assert f"report:     {folder / 'report.html'}" in capsys.readouterr().out
