"""What stands beside the rules is made of them: the table of the docs and the configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from maskwell.health import report, table
from maskwell.health.engine import Engine
from maskwell.health.rules import GROUPS, default_rules

ROOT = Path(__file__).parents[2]


def test_the_table_is_current() -> None:
    written = (ROOT / table.PATH).read_text(encoding="utf-8")
    assert written == table.document(), "run python -m maskwell.health.table"


def test_the_table_has_a_row_for_every_rule() -> None:
    rows = re.findall(r"^\| \w+ \| `(\w+)` \|", table.document(), re.MULTILINE)
    assert set(default_rules()) <= set(rows) and len(default_rules()) >= 70


@pytest.mark.parametrize("group", GROUPS)
def test_the_configuration_names_each_rule_with_its_own_thresholds(group: str) -> None:
    content = yaml.safe_load((ROOT / "conf" / "health" / "rules" / f"{group}.yaml").read_text())
    assert list(content) == list(GROUPS[group])
    for name, kind in GROUPS[group].items():
        entry = content[name]
        assert entry.pop("_target_") == f"maskwell.health.rules.{kind.__name__}"
        own = kind()
        expected = {
            f.name: getattr(own, f.name) for f in fields(kind) if f.name not in ("on_warn", "on_info")
        }
        assert vars(kind(**entry)).keys() >= expected.keys() and set(entry) == set(expected)
        for key, value in expected.items():
            given = entry[key]
            same = (
                dict(given) == dict(value) if isinstance(value, Mapping) else _plain(given) == _plain(value)
            )
            assert same, (name, key)


def _plain(value: object) -> object:
    return (
        list(value)
        if isinstance(value, list | tuple)
        else float(value)
        if isinstance(value, int | float)
        else value
    )


def test_a_report_has_its_form_and_others_are_refused(tmp_path: Path) -> None:
    engine = Engine(default_rules())
    engine.signals.record("preflight/overlap/val", 0, 3.0, "count")
    engine.check("start")
    report.write(engine.report(), tmp_path / "health.json")
    read = report.read(tmp_path / "health.json")
    assert read.verdict == "broken" and read.incidents[0].causes[0].label == "leakage"
    assert read.top[0].startswith("3 images of val are training images too")
    (tmp_path / "health.json").write_text('{"format": 1}')
    with pytest.raises(report.UserError, match=r"no health\.json of this version"):
        report.read(tmp_path / "health.json")
    with pytest.raises(report.UserError, match="There is no"):
        report.read(tmp_path / "other.json")
