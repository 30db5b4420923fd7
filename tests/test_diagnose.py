"""diagnose.py: logs after the fact, and bad input in one sentence."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from maskwell import compose
from maskwell.cli import _as_input
from maskwell.diagnosis import diagnose
from maskwell.errors import UserError
from maskwell.health import report
from maskwell.health.rules import NonFinite, default_rules
from maskwell.logs.feed import Feeder
from maskwell.logs.rows import Row
from tests.health.curves import cross_entropy, shifted


def healthy(steps: int = 1500, seed: int = 0) -> list[float]:
    return [float(v) for v in cross_entropy(np.random.default_rng(seed), steps)]


def csv_of(path: Path, losses: list[float]) -> Path:
    lines = ["step,train/batch_loss,comment", *(f"{n},{v:.6g},text" for n, v in enumerate(losses, 1))]
    path.write_text("\n".join(lines) + "\n")
    return path


def run(tmp_path: Path, *overrides: str) -> report.Report:
    cfg, origin = compose.compose("diagnose", [*overrides, f"output={tmp_path / 'out'}"])
    diagnose(cfg, origin)
    return report.read(tmp_path / "out" / "health.json")


def test_a_healthy_csv_is_called_healthy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(tmp_path, f"input={csv_of(tmp_path / 'a.csv', healthy())}")
    assert found.verdict == "healthy" and found.step == 1500
    assert "verdict: healthy" in capsys.readouterr().out


def test_a_jump_and_a_nan_are_found_with_cause_and_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = list(shifted(np.array(healthy()), 1000, 5.0))
    losses[400] = math.nan
    found = run(tmp_path, f"input={csv_of(tmp_path / 'a.csv', losses)}")
    by_rule = {f.rule: f for i in found.incidents for f in i.findings}
    assert found.verdict == "broken" and by_rule["nonfinite"].evidence["last_bad_step"] == 401
    assert 1000 < by_rule["level_shift"].step <= 1040
    assert "likely causes" in capsys.readouterr().out


def test_a_run_folder_is_judged_and_its_own_report_stays(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    csv_of(folder / "metrics.csv", healthy(300))
    (folder / "health.json").write_text("{}")
    cfg, origin = compose.compose("diagnose", [f"input={folder}"])
    diagnose(cfg, origin)
    assert (folder / "health.json").read_text() == "{}"
    assert json.loads((folder / "diagnosis" / "health.json").read_text())["source"] == str(folder)


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (lambda folder: None, "no such file"),
        (lambda folder: folder.mkdir(), "holds no metrics.csv"),
        (
            lambda folder: [
                (folder / name / "x").mkdir(parents=True)
                or (folder / name / "run-1.wandb").write_bytes(b":W&B")
                for name in ("offline-run-1", "offline-run-2")
            ],
            "holds 2 W&B runs: name one by run=",
        ),
    ],
)
def test_bad_input_is_a_sentence(tmp_path: Path, prepare: object, reason: str) -> None:
    prepare(tmp_path / "in")  # type: ignore[operator]
    cfg, origin = compose.compose("diagnose", [f"input={tmp_path / 'in'}"])
    with pytest.raises(UserError, match=reason):
        diagnose(cfg, origin)


def test_a_run_without_a_bad_step_has_nothing_to_replay(tmp_path: Path) -> None:
    cfg, origin = compose.compose("diagnose", [f"replay={tmp_path}"])
    with pytest.raises(UserError, match="no step of this run was NaN"):
        diagnose(cfg, origin)


def test_nothing_named_is_told() -> None:
    cfg, origin = compose.compose("diagnose", [])
    with pytest.raises(UserError, match="Name what to diagnose"):
        diagnose(cfg, origin)


def test_a_threshold_of_the_wrong_type_is_told() -> None:
    cfg, origin = compose.compose("diagnose", ["input=x.csv", "health.rules.rising.epochs=many"])
    with pytest.raises(UserError, match=r"Rising.epochs is 'many': give a whole number"):
        diagnose(cfg, origin)


def test_a_bare_path_is_the_input() -> None:
    assert _as_input("runs") == "input=runs"
    assert _as_input("a b/c.csv") == "input='a b/c.csv'"
    assert _as_input("health=none") == "health=none" and _as_input("--help") == "--help"


def test_epochs_are_told_by_their_column() -> None:
    feeder = Feeder(default_rules())
    rows = [
        Row({"loss": 2.0 + epoch, "epoch": epoch}, epoch * 10 + n, epoch)
        for epoch in range(3)
        for n in range(10)
    ]
    engine = feeder.run(rows)
    assert engine.signals.get("epoch/loss").last(3) == [2.0, 3.0, 4.0]
    assert engine.signals.value("steps_per_epoch") == 10


def test_replayed_steps_are_left_out_with_a_note() -> None:
    feeder = Feeder(default_rules())
    steps = [*range(50), *range(30, 80)]
    engine = feeder.run(Row({"loss": float(s)}, s) for s in steps)
    assert engine.signals.get("loss").last(80) == [float(s) for s in range(80)]
    assert any("repeated" in message for message in feeder.notes.messages)


def test_a_constant_metric_alone_raises_nothing_but_its_own_rule() -> None:
    feeder = Feeder(default_rules())
    rows = []
    for n, loss in enumerate(healthy(600), 1):
        values = {"train_loss": loss, **({"val/f1": 0.5} if n % 50 == 0 else {})}
        rows.append(Row(values, n))
    assert feeder.run(rows).verdict == "healthy"


def test_pseudo_labels_may_start_late() -> None:
    generator = np.random.default_rng(0)
    rows = []
    for n, loss in enumerate(healthy(1200), 1):
        st = float(generator.exponential(0.5)) if n > 700 else 0.0
        rows.append(Row({"train/batch_loss": loss + st, "train/loss_st": st, "train/loss_ce": loss}, n))
    assert Feeder(default_rules()).run(rows).verdict == "healthy"


@pytest.mark.parametrize("at", range(60_000, 60_128, 16))
def test_a_nan_in_a_long_log_is_found_wherever_it_lies(at: int) -> None:
    """Rules are asked less often there than the rule of what is not finite looks back."""
    feeder = Feeder({"nonfinite": NonFinite()})
    engine = feeder.run(Row({"loss": math.nan if s == at else 1.0}, s) for s in range(60_500))
    assert [f.evidence["last_bad_step"] for i in engine.incidents for f in i.findings] == [at]
