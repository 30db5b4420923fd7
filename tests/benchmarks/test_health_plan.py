"""The plan: what is recorded for development and for the test, and that it composes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from benchmarks.health import miniature, plan
from benchmarks.health.catalogue import ALL, FAULTS, held_out
from benchmarks.health.injection import injection
from benchmarks.health.remedies import as_good, derailed, figures, mended, recovered
from benchmarks.health.score import BUDGET
from maskwell import compose
from maskwell.callbacks import faults

TEST, DEV = list(plan.cells("test")), list(plan.cells("dev"))


def test_development_sees_neither_seeds_nor_held_out_faults_of_the_test() -> None:
    assert not {c.training.seed for c in DEV} & {c.training.seed for c in TEST}
    assert not any(c.held_out for c in DEV)
    assert {c.name for c in TEST if c.held_out} == {f.name for f in FAULTS if held_out(f.name)}


def test_there_are_enough_faults_and_enough_that_is_healthy() -> None:
    assert len({c.name for c in TEST if c.right}) >= 36
    healthy = [c for c in TEST if not c.right]
    before = [c.training.put[0][2] for c in TEST if c.right and not c.static]
    assert len(healthy) >= 150 and sum(c.training.steps for c in healthy) + sum(before) >= 300_000
    assert min(Counter(c.training.family for c in healthy).values()) >= 36


def test_every_cell_is_recorded_once() -> None:
    keys = Counter(str(c.training.key()) for c in [*TEST, *DEV])
    assert max(keys.values()) == 1, [key for key, count in keys.items() if count > 1][:3]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_every_fault_has_its_callback_and_room_to_be_found(fault: Any) -> None:
    for family in fault.families:
        for severity in fault.severities:
            cell = plan.faulty(fault, family, severity, 101)
            assert all(hasattr(faults, put.kind) for put, _, _ in cell.training.put)
            starts = [start for _, _, start in cell.training.put]
            if not cell.static:
                assert 288 < starts[0] < cell.training.steps - 90
            assert cell.training.resume_at in (0, *starts)
            assert bool(cell.training.overrides) or bool(cell.training.put)


@pytest.mark.parametrize("family", ALL)
def test_all_overrides_are_keys_of_the_configuration(family: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(miniature, "cells_folder", lambda *_: "cells")
    injected = [injection(f, family, f.severities[1]).overrides for f in FAULTS if family in f.families]
    healthy = [c.command(family) for c in plan.CONTROLS if family in c.families]
    # a later one of the same key wins: one composition holds all keys against the configuration
    groups = [o for command in [*injected, *healthy] for o in command]
    overrides = miniature.command(family, 0, 100, 64, 50, list(dict.fromkeys(groups)))
    chosen = {override.split("=")[0]: override for override in overrides}
    cfg, _ = compose.compose("train", list(chosen.values()))
    assert cfg.health and cfg.callbacks.grad_clip and not cfg.callbacks.panels


def test_remedies_go_behind_what_they_mend() -> None:
    cell = next(c for c in TEST if c.undo)
    assert mended(cell, "optim.lr=1").overrides == (*cell.training.overrides, "optim.lr=1")
    assert {t.family for t in derailed("test")} == set(ALL) and all(t.recovers for t in derailed("test"))


def test_a_run_is_as_good_by_its_metric_or_by_its_loss() -> None:
    reference = {"monitor": "val/map", "mode": "max", "metrics": {"val/map": 0.5, "val/loss": 2.0}}
    assert as_good({"metrics": {"val/map": 0.48, "val/loss": 9.0}}, reference)
    assert not as_good({"metrics": {"val/map": 0.4, "val/loss": 1.0}}, reference)
    weak = {**reference, "metrics": {"val/map": 0.01, "val/loss": 2.0}}
    assert as_good({"metrics": {"val/map": 0.0, "val/loss": 2.05}}, weak)
    assert not as_good({"metrics": {"val/loss": float("nan")}}, weak) and not as_good({"metrics": {}}, weak)


def test_every_run_has_a_healthy_one_of_its_length_to_be_compared_with() -> None:
    known = set(plan.references("test"))
    assert all(plan.reference(c.training) in known for c in TEST if c.right)
    assert all(plan.reference(t) in known for t in derailed("test"))
    assert not any(t.overrides or t.put for t in known)


def test_who_did_not_go_back_did_not_recover() -> None:
    reference = {"monitor": "val/map", "mode": "max", "metrics": {"val/map": 0.5}}
    assert recovered({"returns": 1, "metrics": {"val/map": 0.5}}, reference)
    assert not recovered({"returns": 0, "metrics": {"val/map": 0.5}}, reference)


def test_slow_faults_have_the_time_that_is_promised() -> None:
    slow = ("memory_leak", "threshold_0999", "strong_discriminator", "weak_discriminator", "overfit")
    assert all(c.training.steps >= BUDGET for c in TEST if c.name in slow)


def test_figures_of_remedies() -> None:
    found = figures({"lr_x30": [True, False]}, [True])
    assert found["remedy"] == 0.5 and found["remedy.by_fault.lr_x30"] == 0.5 and found["recovery"] == 1
    assert figures({}, []) == {}
