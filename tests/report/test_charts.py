from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from maskwell.report.charts import Band, Chart, Line, Mark, _log_ticks, _ticks, number
from maskwell.report.history import Series


def _series(*values: float) -> Series:
    return Series("x", np.arange(1.0, len(values) + 1), np.array(values))


def _svg(html: str) -> ET.Element:
    found = re.search(r"<svg.*?</svg>", html, re.DOTALL)
    assert found is not None
    return ET.fromstring(found[0])


def test_a_line_fills_its_axes() -> None:
    html = str(Chart("loss", [Line("training", _series(0.0, 10.0))]).svg())
    path = next(p for p in _svg(html).iter("path") if p.get("class") == "line")
    assert path.get("d") == "M0.0 1000.0L1000.0 47.6"  # a margin of a twentieth above


def test_a_missing_value_breaks_the_line() -> None:
    html = str(Chart("loss", [Line("training", _series(1.0, 2.0, np.nan, 1.0, 2.0))]).svg())
    path = next(p for p in _svg(html).iter("path") if p.get("class") == "line")
    assert (path.get("d") or "").count("M") == 2


def test_words_are_escaped_and_a_legend_names_two_lines() -> None:
    lines = [Line("<b>a</b>", _series(1, 2)), Line("b", _series(2, 3), 2)]
    html = str(Chart("<script>", lines, marks=[Mark(1, 2, 1, "warn", '"quoted"')]).svg())
    assert "<script>" not in html and "<b>a</b>" not in html
    assert html.count("var(--series-2)") >= 2 and 'href="#finding-1"' in html


def test_bands_and_marks_lie_at_their_iterations() -> None:
    chart = Chart("loss", [Line("l", _series(*range(11)))], [Band(1, 6, 2, 4)], [Mark(6, 11, 3, "error")])
    svg = _svg(str(chart.svg()))
    band = next(r for r in svg.iter("rect") if r.get("class") == "band")
    span = next(r for r in svg.iter("rect") if r.get("class") == "span error")
    assert (band.get("x"), band.get("width")) == ("0.0", "500.0")
    assert (span.get("x"), span.get("width")) == ("500.0", "500.0")


@pytest.mark.parametrize("values", [(5.0,), (3.0, 3.0, 3.0), (np.nan, np.nan), (-2.0, 0.0), (1e-12, 2e-12)])
def test_odd_series_draw(values: tuple[float, ...]) -> None:
    for log in (False, True):
        _svg(str(Chart("x", [Line("l", _series(*values))], log=log).svg()))


def test_no_values_no_chart() -> None:
    assert Chart("x", [Line("l", _series())]).svg() == ""


def test_ticks_are_round_and_inside() -> None:
    assert _ticks(0.03, 0.98, 4) == [0.25, 0.5, 0.75]
    assert _ticks(1, 776, 5) == [200, 400, 600]
    assert _log_ticks(0.5, 300) == [1, 10, 100]


def test_numbers_as_people_write_them() -> None:
    assert [number(v) for v in (1234.5, 3.0, 0.12345, 0.00002, float("nan"))] == [
        "1,234",
        "3",
        "0.1235",
        "2e-05",
        "nan",
    ]
