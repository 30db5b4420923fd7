from __future__ import annotations

from pathlib import Path

import pytest

from maskwell.errors import UserError
from maskwell.report import __main__ as command
from maskwell.report import compare
from maskwell.report.run import read
from tests.report.run_folder import write_run


def _runs(root: Path, lr: float, figures: list[float]) -> list[Path]:
    return [
        write_run(
            root / f"lr{lr}_{seed}",
            overrides=(f"optim.lr={lr}", f"seed={seed}"),
            config={
                "optim": {"lr": lr},
                "seed": seed,
                "data": {"seed": seed, "lists": str(root / f"lr{lr}_{seed}")},
            },
            trained={"map": figure, "max_confidence": 0.5},
            steps=20,
        )
        for seed, figure in enumerate(figures)
    ]


def test_seeds_stand_together_and_tell_the_noise(tmp_path: Path) -> None:
    first = _runs(tmp_path, 0.1, [0.40, 0.41, 0.42])
    groups = compare.grouped(
        [
            read(f)
            for f in [
                *first,
                *_runs(tmp_path, 0.2, [0.50, 0.51, 0.52]),
                *_runs(tmp_path, 0.3, [0.40, 0.5, 0.3]),
            ]
        ]
    )
    assert [(g.letter, g.name, len(g.runs)) for g in groups] == [
        ("A", "optim.lr=0.1", 3),
        ("B", "optim.lr=0.2", 3),
        ("C", "optim.lr=0.3", 3),
    ]
    assert groups[1].settings == {"optim.lr": "0.2"}
    better, same = (compare.move(groups[0], group, "map") for group in groups[1:])
    assert better is not None and better.beyond is True and better.difference == pytest.approx(0.1)
    assert same is not None and same.beyond is False


def test_single_runs_leave_the_noise_unknown_unless_images_tell_it(tmp_path: Path) -> None:
    folders = [*_runs(tmp_path, 0.1, [0.40]), *_runs(tmp_path, 0.2, [0.45])]
    groups = compare.grouped([read(folder) for folder in folders])
    moved = compare.move(groups[0], groups[1], "map")
    assert moved is not None and moved.beyond is None
    assert compare.image_move(groups[0], groups[1]) is None
    for folder, error in zip(folders, (0.5, 0.4), strict=True):
        (folder / "cases").mkdir()
        rows = "".join(f"{i}.png,{error + 0.01 * (i % 3)}\n" for i in range(12))
        (folder / "cases" / "images.csv").write_text("image,error\n" + rows)
    paired = compare.image_move(groups[0], groups[1])
    assert paired is not None and paired.beyond is True and paired.difference == pytest.approx(0.1)


def test_the_page_and_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [*_runs(tmp_path, 0.1, [0.4]), *_runs(tmp_path, 0.2, [0.5])]
    output = tmp_path / "compare.html"
    command.main(["compare", *map(str, folders), "--output", str(output)])
    html = output.read_text()
    assert "optim.lr" in html and "+0.1" in html and "not known" in html
    assert "A  optim.lr=0.1" in capsys.readouterr().out


def test_one_run_is_not_compared(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="two runs"):
        compare.main(_runs(tmp_path, 0.1, [0.4]), tmp_path / "out.html")
