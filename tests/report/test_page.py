from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from maskwell.errors import UserError
from maskwell.health.findings import Finding
from maskwell.report import __main__ as command
from maskwell.report import curves, page
from maskwell.report.run import better, read
from tests.report.run_folder import incident, write_run


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def _parsed(html: str) -> _Links:
    parser = _Links()
    parser.feed(html)
    return parser


def test_a_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", trained={"map": 0.4, "ap/red": 0.3, "ap/blue": 0.5})
    html = page.write(folder).read_text()
    addresses = _parsed(html).addresses
    assert all(address.startswith(("#", "data:image/jpeg;base64,")) for address in addresses)
    assert len([a for a in addresses if a.startswith("data:")]) == 2  # before, and the last validation
    assert "@import" not in html and "url(" not in html


def test_a_finding_stands_on_its_curve_and_is_marked_on_the_loss(tmp_path: Path) -> None:
    folder = write_run(
        tmp_path / "run", incidents=(incident(120, "grad_norm explodes", subject="grad_norm"),)
    )
    run = read(folder)
    assert set(curves.marks_by_curve(run)) == {"train/grad_norm", "train/batch_loss"}
    html = page.render(run)
    assert html.count('href="#finding-1"') == 3  # on its own chart, on the norms' and on the loss's
    parsed = _parsed(html)
    assert "grad_norm explodes" in parsed.text and "optim.lr=1e-5" in parsed.text
    assert "iteration 120 to 170" in parsed.text


@pytest.mark.parametrize(
    ("rule", "subject", "curve"),
    [
        ("rising", "", "train/batch_loss"),
        ("gradient_explosion", "", "train/grad_norm"),
        ("band", "val/map", "val/map"),
        ("dead_part", "no_such_part", "train/batch_loss"),
    ],
)
def test_the_curve_of_a_finding(tmp_path: Path, rule: str, subject: str, curve: str) -> None:
    run = read(write_run(tmp_path / "run"))
    finding = Finding(rule, "warn", 3, "cause", subject=subject)
    assert curves.curve_of(finding, run.history) == curve


def test_expected_bands_of_the_configured_rules_are_drawn(tmp_path: Path) -> None:
    rules = {"rules": {"guide_loss": {"bands": {1: [1, 4], 2: [0.5, 2], 9: [0, 1]}}, "off": None}}
    run = read(write_run(tmp_path / "run", config={"health": rules}))
    assert [(b.start, b.end, b.low, b.high) for b in curves._bands(run)] == [
        (1, 101, 1, 4),
        (101, 300, 0.5, 2),
    ]
    assert page.render(run).count('class="band"') == 2


def test_figures_before_and_after_and_classes_worst_first(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", trained={"map": 0.4, "ap/red": 0.3, "ap/blue": 0.5})
    text = re.sub(r"\s+", " ", _parsed(page.render(read(folder))).text)
    assert "test split, 9 images" in text and "map 0.1 0.4 +0.3" in text
    assert "red0.3 blue0.5" in text


def test_commands_repeat_what_was_typed_and_quote_it(tmp_path: Path) -> None:
    overrides = ("optim.lr=1e-3", "data.categories=[a,b c]", "paths.run_dir=/elsewhere")
    run = read(write_run(tmp_path / "a run", overrides=overrides))
    said = page.commands(run)
    assert said["repeat"] == "python train.py optim.lr=1e-3 'data.categories=[a,b c]'"
    assert said["resume"] == f"python train.py ckpt_path='{tmp_path}/a run'"


def test_a_run_that_was_killed_at_once_has_a_page(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    for name in ("metrics.csv", "health.json"):
        (folder / name).unlink()
    (folder / "results.json").write_text('{"half')
    assert "Nothing was evaluated yet" in page.render(read(folder))


def test_what_is_no_run_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="no run folder"):
        read(tmp_path)
    with pytest.raises(SystemExit):
        command.main([str(tmp_path / "nothing")])
    assert "There is no run folder" in capsys.readouterr().err


def test_which_way_is_better() -> None:
    assert [better(n) for n in ("map", "val/loss", "count_mae", "miou_gap", "max_confidence", "iou/car")] == [
        1,
        -1,
        -1,
        -1,
        0,
        1,
    ]


def test_a_figure_and_its_parts_are_two_charts(tmp_path: Path) -> None:
    """Points log ``val/pixel_error`` and ``val/pixel_error/k_1``; of ``ap/<class>`` there is no whole."""
    folder = write_run(tmp_path / "run")
    rows = (folder / "metrics.csv").read_text().splitlines()
    wider = [f"{rows[0]},val/pixel_error,val/pixel_error/k_1"]
    wider += [f"{row},{'2,3' if index % 100 == 99 else ','}" for index, row in enumerate(rows[1:])]
    (folder / "metrics.csv").write_text("\n".join(wider) + "\n")
    [metrics] = [s for s in curves.sections(read(folder)) if s.title == "Metrics of the validation"]
    titles = {chart.title: len(chart.lines) for chart in metrics.charts}
    assert titles == {"map": 1, "ap by class": 2, "pixel_error": 1, "pixel_error by part": 1}
