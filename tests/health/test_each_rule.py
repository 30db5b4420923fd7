"""Each rule on a fault of its kind, and on the nearest thing to it that is none."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

from maskwell.errors import UserError
from maskwell.health.causes import CAUSES
from maskwell.health.rules import GROUPS, GUIDE_RULES, Rising, Rule, default_rules
from maskwell.health.signals import EVENTS, Role, Signals

Build = Callable[[], Signals]
R = np.random.default_rng(0)
OBJECTS = np.tile([1, 2, 4, 8, 16], 30)


def make(step: int | None = None, **streams: Any) -> Signals:
    """Signals with streams of values; ``__`` in a name stands for ``/``, a number is one value at step 0."""
    signals = Signals()
    for name, values in streams.items():
        listed = [values] if isinstance(values, int | float) else list(values)
        key = name.replace("__", "/")
        for at, value in enumerate(listed, 0 if len(listed) == 1 else 1):
            signals.record(key, at, float(value), role_of_stream(key))
        signals.step = max(signals.step, len(listed))
    if step is not None:
        signals.step = step
    return signals


def role_of_stream(key: str) -> Role:
    return "supervised" if key == "loss" or key.startswith(("part/", "epoch/")) else "norm"


def noisy(level: float, count: int, sigma: float = 0.1) -> np.ndarray[Any, Any]:
    return level * np.exp(np.random.default_rng(1).normal(0, sigma, count))


def evaluations(name: str, values: Iterable[float], every: int = 10, **more: Iterable[float]) -> Signals:
    signals = Signals()
    for key, series in {name: values, **more}.items():
        for at, value in enumerate(series, 1):
            signals.record(key.replace("__", "/"), at * every, float(value), "metric")
            signals.step = max(signals.step, at * every)
    return signals


def declared(signals: Signals, kind: str, step: int) -> Signals:
    signals.declare(kind, step)
    return signals


def pseudo(taken: list[float], start: int = 100) -> Signals:
    signals = Signals()
    signals.declare("self_training", start)
    for n, value in enumerate(taken, start + 1):
        signals.record("fact/st_count", n, value, "count")
        signals.record("fact/st_of", n, 4, "count")
        signals.step = n
    return signals


def classes(**shares: float) -> Signals:
    signals = make(preflight__class__train__road=60, preflight__class__train__car=40)
    for n in (1, 2):
        for name, share in shares.items():
            signals.record(f"metric/val/pseudo_share/{name}", n, share, "metric")
    return signals


def resumed(after: float) -> Signals:
    signals = make(loss=[*noisy(1.0, 200), *noisy(after, 30)])
    signals.declare("resume", 200)
    return signals


def falling(count: int = 512) -> np.ndarray[Any, Any]:
    return noisy(1.0, count) * np.exp(-np.arange(count) / 400)


def epochs_of(length: int, count: int, pattern: float) -> Signals:
    place = np.tile(np.arange(length), count)
    values = noisy(1.0, length * count) * np.exp(-np.arange(length * count) / 2000 + pattern * place / length)
    return make(loss=values, steps_per_epoch=length)


CASES: list[tuple[str, Build, Build]] = [
    ("empty_data", lambda: make(preflight__empty_share=0.8), lambda: make(preflight__empty_share=0.3)),
    (
        "input_range",
        lambda: make(preflight__input_low=0, preflight__input_high=255),
        lambda: make(preflight__input_low=-0.02, preflight__input_high=1.02),
    ),
    (
        "split_shift",
        lambda: make(preflight__shift__val=0.9, preflight__shift_noise=0.05),
        lambda: make(preflight__shift__val=0.9, preflight__shift_noise=0.4),
    ),
    (
        "label_validity",
        lambda: make(preflight__label__box_outside=0.5),
        lambda: make(preflight__label__box_outside=0.005),
    ),
    (
        "class_imbalance",
        lambda: make(preflight__class__train__a=5, preflight__class__val__b=3),
        lambda: make(preflight__class__train__a=5, preflight__class__val__a=3),
    ),
    ("leakage", lambda: make(preflight__overlap__val=1), lambda: make(preflight__overlap__val=0)),
    (
        "initial_loss",
        lambda: make(preflight__initial__loss_giou=69.3),
        lambda: make(preflight__initial__loss_giou=1.4, preflight__initial__loss=69300),
    ),
    (
        "grows_with_targets",
        lambda: make(
            fact__num_objects=OBJECTS, part__a=OBJECTS * 0.3, part__b=OBJECTS * 0.1, part__c=OBJECTS * 2.0
        ),
        # one part that grows by design
        lambda: make(
            fact__num_objects=OBJECTS, part__a=OBJECTS * 0.3, part__b=noisy(1, 150), part__c=noisy(1, 150)
        ),
    ),
    ("one_batch", lambda: make(preflight__one_batch_share=0.9), lambda: make(preflight__one_batch_share=0.1)),
    ("batch_mixing", lambda: make(preflight__mixing=0.2), lambda: make(preflight__mixing=1e-6)),
    (
        "parameter_coverage",
        lambda: make(preflight__uncovered__head=10),
        lambda: make(preflight__covered=10, preflight__foreign_parameters=0),
    ),
    ("input_independence", lambda: make(probe__input_effect=0.001), lambda: make(probe__input_effect=0.3)),
    ("train_eval_gap", lambda: make(probe__train_eval=5), lambda: make(probe__train_eval=0.6)),
    ("config_lint", lambda: make(lint__never_validates=1), lambda: make(preflight__covered=3)),
    ("nonfinite_gradient", lambda: make(bad_gradient=[1]), lambda: make(grad__all=noisy(1, 50))),
    ("nonfinite_state", lambda: make(state_bad__weights=3), lambda: make(state_bad__weights=0)),
    ("nonfinite_input", lambda: make(input_bad__batch=1), lambda: make(loss=noisy(1, 10))),
    ("loss_scale", lambda: make(amp_scale=[0.5, 0.25]), lambda: make(amp_scale=[65536.0, 32768.0])),
    (
        "wrong_sign",
        lambda: make(part__loss_ce=[-1.0] * 8),
        lambda: make(part__loss_ce=[0.1] * 8, part__loss_kl=[-1] * 8),
    ),
    (
        "subtracted_part",
        lambda: make(part__a=(a := noisy(1, 80)), part__b=(b := R.random(80)), loss=a - 0.3 * b),
        lambda: make(part__a=(a := noisy(1, 80)), part__b=(b := R.random(80)), loss=a + 0.3 * b),
    ),
    ("first_bad_module", lambda: make(module_bad__net=1), lambda: make(loss=noisy(1, 10))),
    (
        "hidden_skips",
        lambda: make(counter__batches=200, counter__skipped=20),
        lambda: make(counter__batches=200, counter__skipped=1),
    ),
    (
        "level_shift",
        lambda: make(loss=[*noisy(1, 300), *noisy(3, 32)]),
        lambda: make(loss=[*noisy(1, 300), *noisy(1.4, 32)]),
    ),
    (
        "divergence",
        lambda: make(loss=noisy(1, 500) * np.exp(np.maximum(0, np.arange(500) - 50) / 150)),
        lambda: make(loss=falling()),
    ),
    ("not_learning", lambda: make(loss=[*noisy(1, 60), *noisy(1.6, 300)]), lambda: make(loss=falling(400))),
    (
        "oscillation",
        lambda: make(loss=noisy(1, 256, 0.05) * np.repeat(np.tile([1.0, 3.0], 8), 16)),
        lambda: make(loss=noisy(1, 256, 0.6)),
    ),
    ("sawtooth", lambda: epochs_of(40, 6, 1.0), lambda: epochs_of(40, 6, 0.0)),
    ("dead_part", lambda: make(part__loss_box=[0.0] * 70), lambda: make(part__loss_box=[0.0, 1.0] * 40)),
    (
        "dominance",
        lambda: make(part__a=(a := noisy(500, 250)), part__b=(b := R.random(250)), loss=a + b),
        lambda: make(part__a=(a := noisy(5, 250)), part__b=(b := R.random(250)), loss=a + b),
    ),
    (
        "exploding_gradient",
        lambda: make(grad__all=[*noisy(1, 200, 0.3), *noisy(40, 16, 0.3)]),
        lambda: make(grad__all=noisy(1, 256, 0.8)),
    ),
    (
        "vanishing_gradient",
        lambda: make(group_grad__net=[1e-10] * 100),
        lambda: make(group_grad__net=[1e-4] * 100),
    ),
    (
        "clip_inert",
        lambda: make(grad_clipped__all=[3.0, 3.0], grad_limit__all=1.0),
        lambda: make(grad_clipped__all=[1.0, 0.4], grad_limit__all=1.0),
    ),
    (
        "update_ratio",
        lambda: make(update__a=[0.5] * 8, update__b=[0.3] * 8),
        lambda: make(update__a=[0.5] * 8, update__b=[1e-3] * 8, update__c=[1e-3] * 8),
    ),
    (
        "unchanged_parameters",
        lambda: make(unchanged__w=32, lr__all=0.1),
        lambda: make(unchanged__w=32, lr__all=0.0),
    ),
    (
        "no_gradient",
        lambda: make(no_gradient__w=24, preflight__trainable_tensors=4),
        lambda: make(no_gradient__w=8, preflight__trainable_tensors=4),
    ),
    (
        "gradients_not_zeroed",
        lambda: make(grad_cosine__all=[0.99] * 20, grad__all=np.linspace(1, 9, 20)),
        lambda: make(grad_cosine__all=[0.99] * 20, grad__all=noisy(1, 20)),
    ),
    (
        "rate_off_plan",
        lambda: make(lr__all=[0.03] * 16, lr_expected__all=[0.001] * 16),
        lambda: make(lr__all=[0.001] * 16, lr_expected__all=[0.001] * 16),
    ),
    (
        "rate_jump",
        lambda: make(lr__all=[1e-4] * 128 + [1e-2] * 8),
        lambda: make(lr__all=np.linspace(0, 1e-3, 200)),
    ),
    (
        "schedule_desync",
        lambda: make(counter__schedule_steps__all=800, counter__optimizer_steps__all=200),
        lambda: make(counter__schedule_steps__all=201, counter__optimizer_steps__all=200),
    ),
    (
        "rate_inference",
        lambda: make(update__a=[0.2] * 8, loss=noisy(1, 300)),
        lambda: make(update__a=[0.2] * 8, loss=falling(400)),
    ),
    (
        "overfitting",
        lambda: evaluations(
            "metric/val/loss",
            [1, 0.8, 0.7, 0.75, 0.85, 0.95, 1.1, 1.3],
            train_at_evaluation=np.linspace(0.9, 0.1, 8),
        ),
        lambda: evaluations(
            "metric/val/loss", np.linspace(1, 0.5, 8), train_at_evaluation=np.linspace(0.9, 0.1, 8)
        ),
    ),
    (
        "too_good",
        lambda: evaluations("metric/val/miou", [0.7] * 4, metric__evaluated_train__miou=[0.5] * 4),
        lambda: evaluations("metric/val/miou", [0.52] * 4, metric__evaluated_train__miou=[0.5] * 4),
    ),
    (
        "frozen_validation",
        lambda: evaluations("metric/val/loss", [0.5] * 3),
        lambda: evaluations("metric/val/loss", [0.5, 0.5, 0.5001]),
    ),
    (
        "nonfinite_validation",
        lambda: evaluations("metric/val/loss", [0.5, 0.4], bad_metric__val__loss=[1.0, 1.0, 1.0]),
        # it was so once, and is not any more
        lambda: evaluations("bad_metric/val/loss", [1.0], metric__val__loss=[0.6, 0.5, 0.4]),
    ),
    (
        "metric_collapse",
        lambda: evaluations("metric/val/map", [0.1, 0.3, 0.4, 0.1, 0.1]),
        lambda: evaluations("metric/val/map", [0.1, 0.3, 0.4, 0.1, 0.35]),
    ),
    (
        "train_val_gap",
        lambda: evaluations(
            "metric/val/miou",
            [0.3, 0.5, 0.6, 0.5, 0.45, 0.4],
            metric__evaluated_train__miou=[0.5, 0.7, 0.8, 0.85, 0.9, 0.9],
        ),
        lambda: evaluations(
            "metric/val/miou",
            np.linspace(0.3, 0.5, 6),
            metric__evaluated_train__miou=np.linspace(0.5, 0.8, 6),
        ),
    ),
    (
        "metric_falling",
        lambda: evaluations("metric/val/miou", np.linspace(0.6, 0.3, 9)),
        lambda: evaluations("metric/val/miou", 0.5 + 0.02 * R.standard_normal(9)),
    ),
    ("pseudo_count", lambda: pseudo([0.0] * 400), lambda: pseudo([0.0] * 250 + [1.0, 0.0] * 75)),
    ("pseudo_collapse", lambda: classes(road=0.99, car=0.01), lambda: classes(road=0.7, car=0.3)),
    (
        "discriminator_balance",
        lambda: make(part__loss_d=[0.01] * 300, part__loss_fm=noisy(0.1, 300)),
        lambda: make(part__loss_d=noisy(0.4, 600, 0.3), part__loss_fm=noisy(0.1, 600)),
    ),
    ("discriminator_input", lambda: make(probe__d_range_ratio=255), lambda: make(probe__d_range_ratio=1.1)),
    (
        "done_balance",
        lambda: make(fact__done_share=[0.0] * 300),
        lambda: make(fact__done_share=[0.5] * 400, fact__done_predicted=noisy(0.4, 400)),
    ),
    (
        "match_starvation",
        lambda: make(preflight__empty_share=0.1, fact__num_objects=[0, 0, 0, 2] * 60),
        lambda: make(preflight__empty_share=0.7, fact__num_objects=[0, 0, 0, 2] * 60),
    ),
    (
        "no_detections",
        lambda: evaluations("metric/val/detections_per_image", [2] + [0] * 5),
        lambda: evaluations("metric/val/detections_per_image", [0] * 4),
    ),
    (
        "degenerate_masks",
        lambda: make(fact__mask_fill=[0.0] * 250, fact__mask_fill_true=[0.0, 0.02] * 125),
        # objects of a few pixels in a large image
        lambda: make(fact__mask_fill=noisy(3e-5, 250), fact__mask_fill_true=noisy(4e-5, 250)),
    ),
    (
        "stuck_predictions",
        lambda: make(fact__prediction_spread=[0.001] * 300),
        lambda: make(fact__prediction_spread=[0.001, 0.2] * 150),
    ),
    (
        "out_of_memory",
        lambda: make(system__out_of_memory=1, system__batch_size=8),
        lambda: make(counter__batches=8),
    ),
    (
        "memory_leak",
        lambda: make(system__allocated_mib=np.linspace(100, 300, 60)),
        lambda: make(system__allocated_mib=[*np.linspace(100, 300, 20), *[300.0] * 40]),
    ),
    (
        "stall",
        lambda: make(system__step_seconds=[0.5] * 50 + [900.0]),
        lambda: make(system__step_seconds=[0.5] * 50 + [60.0]),
    ),
    ("rank_desync", lambda: make(system__rank_spread=1e-3), lambda: make(system__rank_spread=0)),
    ("checkpoint_health", lambda: make(system__checkpoint_bad=1), lambda: make(system__checkpoint_fits=20)),
    ("resume_continuity", lambda: resumed(3.0), lambda: resumed(1.05)),
]

TOLD = {
    "batch_outlier": make(loss=[*noisy(1, 200), 90.0, *noisy(1, 5)]),
    "loss_plateau": make(loss=noisy(1, 600, 0.02)),
    "slow_start": make(epoch__loss=[1.0, 0.99, 0.99, 0.98, 0.98]),
    "clip_saturated": make(grad__all=noisy(50, 500), grad_limit__all=1.0),
    "noise_scale": make(noise__small=[100.0] * 60, noise__large=[25.2] * 60, noise__ratio=[4.0] * 60),
    "noisy_validation": evaluations(
        "metric/val/map", 0.5 + 0.05 * np.array([1, -1, 0.5, 0, -1, 1, -0.5, 0.7, -0.7, 0.2])
    ),
    "disagreement": evaluations(
        "metric/val/loss", np.linspace(1, 2, 9), metric__val__map=np.linspace(0.1, 0.5, 9)
    ),
    "count_bias": evaluations("metric/val/count_ratio", [4.0] * 8),
    "stops_badly": evaluations("metric/val/early", [0.95] * 9),
    "data_bound": make(system__wait_share=[0.8] * 60),
    "throughput_drop": make(system__step_seconds=[*noisy(0.1, 300, 0.05), *noisy(0.3, 64, 0.05)]),
    "rerun_differs": make(system__rerun_finite=1),
}
"""Rules that inform and never warn."""


def said(name: str, signals: Signals) -> list[Any]:
    return list(default_rules()[name].check(signals))


@pytest.mark.parametrize(("name", "fault", "healthy"), CASES, ids=[c[0] for c in CASES])
def test_a_fault_is_named_and_its_neighbour_is_not(name: str, fault: Build, healthy: Build) -> None:
    found = said(name, fault())
    assert found and max(s.severity != "info" for s in found), name
    assert all(s.cause and s.evidence for s in found)
    assert [s for s in said(name, healthy()) if s.severity != "info"] == []


@pytest.mark.parametrize("name", TOLD)
def test_information_is_given_and_no_warning(name: str) -> None:
    found = said(name, TOLD[name])
    assert found and {s.severity for s in found} == {"info"}


ELSEWHERE = {"normaliser", "nonfinite", "no_objects", "rising", "constant", "confirmation_drift"}


def test_every_rule_is_tried() -> None:
    tried = {c[0] for c in CASES} | set(TOLD)
    assert set(default_rules()) - tried == ELSEWHERE


def test_confirmed_errors_are_seen() -> None:
    signals = Signals()
    for n in range(1, 513):
        signals.record("fact/st_share", n, min(0.98, 0.3 + n / 600), "count")
    for n, value in enumerate(np.linspace(0.6, 0.4, 8)):
        signals.record("metric/val/miou", 60 * n + 60, float(value), "metric")
    (one,) = said("confirmation_drift", signals)
    assert one.subject == "drift"


@pytest.mark.parametrize("rule", [*{**GROUPS}, "guides"])
def test_rules_know_their_place(rule: str) -> None:
    kinds: Iterable[type[Rule]] = GUIDE_RULES if rule == "guides" else GROUPS[rule].values()
    for kind in kinds:
        assert kind.code and kind.__doc__ and set(kind.explained_by) <= set(EVENTS), kind
        assert {*kind.supports, *kind.denies} <= set(CAUSES), kind
        assert all(0 < weight < 1 for weight in [*kind.supports.values(), *kind.denies.values()]), kind


@pytest.mark.parametrize(
    ("field", "value"),
    [("epochs", "many"), ("epochs", 2.5), ("epochs", True), ("share", None), ("action", "panic")],
)
def test_a_threshold_of_the_wrong_type_is_refused(field: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"Rising.{field} is"):
        Rising(**{field: value})


def test_whole_numbers_do_for_numbers_and_lists_for_tuples() -> None:
    from maskwell.health.rules import InitialLoss, StreamBand

    assert Rising(share=1).share == 1.0
    assert InitialLoss(entropies=["a"]).entropies == ("a",)  # type: ignore[arg-type]
    assert StreamBand(stream="loss", bands={"5": [0, 1]}).bands == {5: (0.0, 1.0)}  # type: ignore[dict-item]


def test_late_streams_with_gaps_and_repeats_break_no_rule() -> None:
    signals = Signals()
    for step in (5, 5, 9, 200, 150, 201):
        for name in ("loss", "part/loss_d", "fact/st_count", "grad/all", "metric/val/loss", "lr/all"):
            signals.record(name, step, 0.0 if step == 9 else 1.0, "supervised")
        signals.step = step
        for rule in default_rules().values():
            assert all(math.isfinite(v) for s in rule.check(signals) for v in s.evidence.values())


def test_constant_streams_break_no_rule() -> None:
    signals = make(
        **{
            n: [0.5] * 700
            for n in ("loss", "part__loss_ce", "part__loss_d", "grad__all", "lr__all", "fact__num_objects")
        },
        **{f"metric__val__{n}": [0.5] * 20 for n in ("loss", "miou", "map")},
        steps_per_epoch=50,
    )
    for rule in default_rules().values():
        list(rule.check(signals))
