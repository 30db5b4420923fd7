"""Every rule fires on its fault and stays silent on a healthy run."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from maskwell.health.rules import (
    ConfigLint,
    Constant,
    DeadPart,
    Dominance,
    GrowsWithTargets,
    LossBand,
    MetricBand,
    MetricCollapse,
    NonFinite,
    NoObjects,
    Normaliser,
    Rising,
    Rule,
    Symptom,
    UnchangedParameters,
    default_rules,
)
from maskwell.health.signals import (
    DOUBLING,
    DOUBLING_NOISE,
    EPOCH_ERROR,
    EPOCH_LOSS,
    FACT,
    LINT,
    LOSS,
    METRIC,
    NONFINITE,
    PART,
    RATE,
    UNCHANGED,
    Role,
    Signals,
)


def _symptoms(rule: Rule, signals: Signals) -> list[Symptom]:
    return list(rule.check(signals))


def _epochs(losses: list[float], error: float = 0.0) -> Signals:
    signals = Signals()
    for epoch, loss in enumerate(losses, 1):
        signals.record(EPOCH_LOSS, epoch, loss, "supervised")
        signals.record(EPOCH_ERROR, epoch, error, "norm")
    signals.epoch = len(losses)
    return signals


def _steps(name: str, values: list[float], role: Role = "supervised") -> Signals:
    signals = Signals()
    for step, value in enumerate(values, 1):
        signals.record(name, step, value, role)
    signals.step = len(values)
    return signals


def _bad_at(steps: list[int], now: int, name: str = LOSS) -> Signals:
    signals = Signals()
    for step in steps:
        signals.record(NONFINITE + name, step, 1.0, "event")
    signals.step = now
    return signals


def test_a_single_bad_step_is_a_warning_and_two_in_a_row_an_error() -> None:
    (single,) = _symptoms(NonFinite(), _bad_at([7], 7))
    (double,) = _symptoms(NonFinite(), _bad_at([7, 8], 8))
    assert (single.severity, double.severity) == ("warn", "error")


def test_bad_steps_far_apart_do_not_add_up() -> None:
    signals = _bad_at([1, 120, 240], 240)
    for step in (60, 180):
        signals.record("loss", step, 1.0, "supervised")
    (one,) = _symptoms(NonFinite(), signals)
    assert one.severity == "warn" and one.evidence["bad_steps_in_last_100"] == 1


def test_three_bad_steps_within_the_window_are_an_error() -> None:
    (one,) = _symptoms(NonFinite(), _bad_at([10, 40, 90], 90))
    assert one.severity == "error"


def test_nonfinite_is_silent_when_the_window_has_passed() -> None:
    assert _symptoms(NonFinite(), _bad_at([7], 108)) == []


def test_nonfinite_names_the_part_and_not_the_total_it_spoilt() -> None:
    signals = _bad_at([7], 7)
    signals.record(NONFINITE + "loss_mask", 7, 1.0, "event")
    (one,) = _symptoms(NonFinite(), signals)
    assert one.cause.startswith("loss_mask is NaN")


def test_no_objects_fires_when_every_count_is_zero() -> None:
    (one,) = _symptoms(NoObjects(steps=32), _steps(FACT + "num_objects", [0.0] * 32, "count"))
    assert one.severity == "error" and NoObjects().action == "stop"


@pytest.mark.parametrize("counts", [[0.0] * 31, [0.0] * 20 + [1.0] + [0.0] * 600, []])
def test_sparse_objects_are_no_fault(counts: list[float]) -> None:
    assert _symptoms(NoObjects(steps=32), _steps(FACT + "num_objects", counts, "count")) == []


def test_rising_fires_after_three_rises() -> None:
    (one,) = _symptoms(Rising(), _epochs([3.0, 2.0, 2.1, 2.3, 2.5]))
    assert one.severity == "warn" and one.evidence["before"] == 2.0


def test_a_loss_above_its_start_is_an_error_with_a_lower_rate_as_remedy() -> None:
    signals = _epochs([2.0, 2.1, 2.3, 2.5])
    signals.record(RATE, 1, 1e-3, "rate")
    (one,) = _symptoms(Rising(), signals)
    assert one.severity == "error" and "optim.lr=0.0003" in one.remedies


@pytest.mark.parametrize(
    ("losses", "error"),
    [
        ([2.0, 2.1, 2.3], 0.0),  # two rises only
        ([2.0, 2.3, 2.2, 2.5], 0.0),  # one fall among them
        ([2.0, 2.01, 2.02, 2.03], 0.0),  # less than 5 %
        ([2.0, 2.1, 2.2, 2.3], 0.2),  # within the noise of an epoch's mean
    ],
)
def test_rising_is_silent(losses: list[float], error: float) -> None:
    assert _symptoms(Rising(), _epochs(losses, error)) == []


def test_rising_is_silent_on_a_noisy_plateau() -> None:
    generator = random.Random(0)
    losses = [2.0 + generator.gauss(0, 0.1) for _ in range(500)]
    alarms = [n for n in range(4, 500) if _symptoms(Rising(), _epochs(losses[:n], error=0.1))]
    strict_rises = [n for n in range(4, 500) if losses[n - 4] < losses[n - 3] < losses[n - 2] < losses[n - 1]]
    assert len(strict_rises) > 10  # the bare rule would cry this often
    assert alarms == []


def test_constant_since_the_start_is_a_warning() -> None:
    losses = [10_500 + delta for delta in (0, -10, 10, 5, -5, 3, 0, 7, -9, 1)]
    (one,) = _symptoms(Constant(), _epochs(losses))
    assert one.severity == "warn"


def test_exactly_constant_is_an_error() -> None:
    (one,) = _symptoms(Constant(), _epochs([1.5] * 10))
    assert one.severity == "error"


def test_a_plateau_after_learning_is_information() -> None:
    (one,) = _symptoms(Constant(), _epochs([8.0, 4.0] + [2.0 + 0.001 * (n % 3) for n in range(10)]))
    assert one.severity == "info"


def test_five_percent_an_epoch_is_progress() -> None:
    losses = [10_500 * 0.95**n for n in range(30)]
    assert _symptoms(Constant(), _epochs(losses)) == []


def test_a_dead_part_is_named() -> None:
    (one,) = _symptoms(DeadPart(steps=64), _steps(PART + "loss_box", [0.0] * 64))
    assert one.subject == "loss_box" and one.severity == "warn" and "never" in one.cause


def test_a_part_that_dies_later_is_named() -> None:
    (one,) = _symptoms(DeadPart(steps=64), _steps(PART + "loss_box", [1.0] * 10 + [0.0] * 64))
    assert "has become" in one.cause


@pytest.mark.parametrize(
    ("values", "role"),
    [
        ([0.0] * 63, "supervised"),
        ([0.0] * 40 + [1e-9] + [0.0] * 40, "supervised"),
        ([0.0] * 500, "consistency"),  # self-training rests until its start
    ],
)
def test_dead_part_is_silent(values: list[float], role: Role) -> None:
    assert _symptoms(DeadPart(steps=64), _steps(PART + "loss_st", values, role)) == []


def _doubling(noise: float = 0.0, **ratios: float) -> Signals:
    signals = Signals()
    for name, ratio in ratios.items():
        signals.record(DOUBLING + name, 0, ratio, "norm")
        signals.record(DOUBLING_NOISE + name, 0, noise, "norm")
    return signals


def test_a_sum_is_an_error_and_its_part_is_named() -> None:
    (one,) = _symptoms(Normaliser(), _doubling(loss=1.6, loss_box=2.0, loss_cls=1.0))
    assert one.severity == "error" and one.cause.startswith("loss_box is a sum")
    assert one.evidence == {"loss_doubled_over_single": 1.6, "loss_box_doubled_over_single": 2.0}


def test_another_dependence_on_the_batch_is_a_warning() -> None:
    (one,) = _symptoms(Normaliser(), _doubling(loss=1.4))
    assert one.severity == "warn"


@pytest.mark.parametrize("signals", [_doubling(loss=1.04), _doubling(loss=1.2, noise=0.3), Signals()])
def test_normaliser_is_silent(signals: Signals) -> None:
    assert _symptoms(Normaliser(), signals) == []


def test_a_part_that_is_drawn_at_random_is_no_matter_where_the_total_stands_still() -> None:
    assert _symptoms(Normaliser(), _doubling(loss=1.0, loss_mse=0.68)) == []
    assert _symptoms(Normaliser(), _doubling(loss=1.02, loss_aux=2.0))  # a small sum is one all the same
    (one,) = _symptoms(Normaliser(), _doubling(loss=0.8, loss_mse=0.68))
    assert one.severity == "warn"


def test_loss_band_holds_until_the_next_epoch_and_only_its_upper_end_counts() -> None:
    rule = LossBand(bands={1: (5000, 15000), 5: (1000, 3000)})
    assert _symptoms(rule, _epochs([10_500.0])) == []
    assert _symptoms(rule, _epochs([10_500.0] * 4)) == []
    assert len(_symptoms(rule, _epochs([10_500.0] * 6))) == 1
    assert _symptoms(rule, _epochs([10.0] * 6)) == []


def test_metric_band_waits_for_its_epoch() -> None:
    rule = MetricBand(metric="val/max_confidence", low=0.5, high=0.9, from_epoch=3)
    signals = Signals()
    signals.record(METRIC + "val/max_confidence", 2, 0.1, "metric")
    signals.epoch = 2
    assert _symptoms(rule, signals) == []
    signals.epoch = 3
    assert [s.subject for s in _symptoms(rule, signals)] == ["val/max_confidence"]
    signals.record(METRIC + "val/max_confidence", 3, 0.7, "metric")
    assert _symptoms(rule, signals) == []


def test_default_rules_are_silent_on_a_healthy_run() -> None:
    generator = random.Random(1)
    signals = Signals()
    rules = default_rules()
    heard = []
    for epoch in range(1, 31):
        for step in range((epoch - 1) * 50 + 1, epoch * 50 + 1):
            level = 120 * math.exp(-step / 400) + 20
            # heavy-tailed noise, as of small detection batches
            signals.record(LOSS, step, level * math.exp(generator.gauss(0, 0.5)), "supervised")
            signals.record(PART + "loss_box", step, generator.expovariate(1.0), "supervised")
            signals.record(FACT + "num_objects", step, float(generator.random() < 0.1), "count")
            signals.step = step
        last = signals.get(LOSS).last(50)
        mean = sum(last) / 50
        error = math.sqrt(sum((x - mean) ** 2 for x in last) / 49 / 50)
        signals.record(EPOCH_LOSS, epoch, mean, "supervised")
        signals.record(EPOCH_ERROR, epoch, error, "norm")
        signals.epoch = epoch
        heard += [s for rule in rules.values() for s in _symptoms(rule, signals) if s.severity != "info"]
    assert heard == []


def _adversarial(weight: float, scale: float = 1.0) -> Signals:
    """A generator's terms, logged beside their sum ``loss_g``; what goes backward is ``scale`` times it."""
    random = np.random.default_rng(0)
    entropy, matching, own = random.random((3, 256)) + 0.1
    total = weight * entropy + 0.1 * matching + 0.5 * own
    signals = Signals()
    for step in range(256):
        values = {"loss_ce": entropy, "loss_fm": matching, "loss_box": own, "loss_g": total}
        for name, series in values.items():
            role: Role = "adversarial" if name == "loss_fm" else "supervised"
            signals.record(PART + name, step, float(series[step]), role)
        signals.record(LOSS, step, scale * float(total[step]), "supervised")
        signals.step = step
    return signals


@pytest.mark.parametrize("scale", [1.0, 1.001, 100.0])
def test_a_sum_that_is_logged_among_its_terms_dominates_nothing(scale: float) -> None:
    assert _symptoms(Dominance(), _adversarial(1.0, scale)) == []


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_a_term_that_dominates_is_named_and_not_its_sum(scale: float) -> None:
    (symptom,) = _symptoms(Dominance(), _adversarial(1000.0, scale))
    assert symptom.subject == "loss_ce"


def _evaluated(
    shares: list[float], miou: list[float], true: float | None = 0.908, every: int = 40
) -> Signals:
    """``shares`` of the pixels predicted as the commonest class, evaluation by evaluation."""
    signals = Signals()
    for step, (share, quality) in enumerate(zip(shares, miou, strict=True), 1):
        values = {"predicted_share_largest": share, "miou": quality}
        for name, value in values.items() if true is None else {**values, "true_share_largest": true}.items():
            signals.record(f"{METRIC}val/{name}", every * step, value, "metric")
        signals.step = every * step
    return signals


YOUNG = [1.0, 1.0, 0.923, 0.908, 0.897, 0.892]  # a recorded healthy run of s4gan
YOUNG_MIOU = [0.227, 0.227, 0.377, 0.383, 0.383, 0.383]


@pytest.mark.parametrize("count", range(1, 7))
@pytest.mark.parametrize("true", [None, 0.908])
def test_a_young_model_that_predicts_one_class_has_not_collapsed(count: int, true: float | None) -> None:
    assert _symptoms(MetricCollapse(), _evaluated(YOUNG[:count], YOUNG_MIOU[:count], true)) == []


def test_chance_before_one_class_is_no_better_model() -> None:
    assert _symptoms(MetricCollapse(), _evaluated([0.5, 1.0, 1.0], [0.15, 0.227, 0.227])) == []


@pytest.mark.parametrize("true", [None, 0.908])
def test_a_model_that_told_classes_apart_and_no_longer_does_has_collapsed(true: float | None) -> None:
    shares, miou = [*YOUNG, 1.0, 0.9995], [*YOUNG_MIOU, 0.3, 0.3]
    assert _symptoms(MetricCollapse(), _evaluated(shares[:-1], miou[:-1], true)) == []
    (symptom,) = _symptoms(MetricCollapse(), _evaluated(shares, miou, true))
    assert "before" in symptom.cause and symptom.evidence["evaluations"] == 2


def test_a_model_that_never_predicts_but_one_class_is_found_with_patience() -> None:
    """As recorded with pseudo-labels of one class from the beginning."""
    (symptom,) = _symptoms(MetricCollapse(), _evaluated([1.0] * 8, [0.227] * 8))
    assert "still" in symptom.cause and symptom.evidence["true_share"] == 0.908
    assert _symptoms(MetricCollapse(), _evaluated([1.0] * 8, [0.227] * 8, every=10)) == []


def test_rare_objects_that_are_found_are_no_collapse() -> None:
    shares = [0.99, 0.993, *[0.997] * 8]
    assert _symptoms(MetricCollapse(), _evaluated(shares, [0.5] * 10, true=0.996)) == []


@pytest.mark.parametrize("divided", [True, False])
def test_a_sum_over_objects_is_found_among_means_and_mixtures(divided: bool) -> None:
    """As recorded of sam_lora: the presence is a mean over prompts, the auxiliary layers mix it with sums."""
    random = np.random.default_rng(0)
    objects = random.integers(1, 8, 256).astype(float)
    each = {
        name: random.lognormal(0, 0.2, 256) * (1 if divided else objects)
        for name in ("loss_box", "loss_giou", "loss_mask", "loss_dice")
    }
    by_design = {"loss_cls": 0.3 * objects * random.lognormal(0, 0.1, 256)}
    presence = random.lognormal(0, 1, 256)
    parts = each | by_design | {"loss_presence": presence, "loss_aux": each["loss_box"] + 3 * presence}
    signals = Signals()
    for step in range(256):
        signals.record(FACT + "num_objects", step, objects[step], "count")
        for name, values in parts.items():
            signals.record(PART + name, step, float(values[step]), "supervised")
        signals.step = step
    assert [s.severity for s in _symptoms(GrowsWithTargets(), signals)] == ([] if divided else ["warn"])


@pytest.mark.parametrize("gaps", [60, 10])
def test_a_loss_with_gaps_beside_parts_without_any_breaks_nothing(gaps: int) -> None:
    """In steps that are not finite the total is missing, and a part may be finite."""
    whole, signals = _adversarial(1000.0), Signals()
    for name in (LOSS, *(PART + part for part in ("loss_ce", "loss_fm", "loss_box", "loss_g"))):
        stream = whole.get(name)
        for step, value in zip(stream.steps, stream.values, strict=True):
            if name != LOSS or step % (256 // gaps):
                signals.record(name, int(step), float(value), stream.role)
    signals.step = 255
    assert _symptoms(Dominance(), signals) == []


@pytest.mark.parametrize(("bad_at", "told"), [(100, 1), (63, 0), (0, 0)])
def test_a_part_that_rests_while_bad_steps_are_dropped_is_not_dead(bad_at: int, told: int) -> None:
    """``bad_at``: how many steps ago the last bad one was."""
    signals = _steps(PART + "loss_done", [0.5] * 200)
    signals.record(NONFINITE + LOSS, 200 - bad_at, 1.0, "event")
    assert len(_symptoms(DeadPart(), signals)) == told


def resting(begins: int, step: int) -> Signals:
    """One of 68 tensors rests from one step on, looked at every 32 steps, at a rate that is not 0."""
    signals = Signals()
    signals.record("preflight/trainable_tensors", 0, 68, "count")
    for at in range(64, step + 1, 32):
        if at - begins >= 32:
            signals.record(UNCHANGED + "net.bias", at, at - begins, "count")
        signals.record("lr/all", at, 1e-5, "rate")
        signals.step = at
    return signals


def test_a_tensor_that_never_moved_is_an_error_and_one_that_comes_to_rest_is_none() -> None:
    rule = UnchangedParameters()
    assert len(list(rule.check(resting(32, 64)))) == 1
    assert not list(rule.check(resting(640, 736)))
    assert len(list(rule.check(resting(640, 1248)))) == 1  # for more than 512 steps


def test_many_tensors_that_come_to_rest_together_are_an_error() -> None:
    signals = resting(640, 736)
    for i in range(20):
        signals.record(f"{UNCHANGED}net.{i}", 736, 96, "count")
    assert len(list(UnchangedParameters().check(signals))) == 1


def test_a_sum_over_mostly_empty_images_says_little() -> None:
    signals = Signals()
    signals.record(f"{DOUBLING}loss_cell", 0, 2.0, "norm")
    (sure,) = Normaliser().check(signals)
    signals.record("preflight/empty_share", 0, 0.9, "norm")
    (unsure,) = Normaliser().check(signals)
    assert (sure.severity, sure.causes) == ("error", None)
    assert (unsure.severity, unsure.causes) == ("warn", {"not_normalised": 0.3})


def test_batchnorm_of_one_image_is_information() -> None:
    signals = Signals()
    for code in ("batchnorm_of_one", "no_step"):
        signals.record(LINT + code, 0, 1, "count")
    severities = {symptom.subject: symptom.severity for symptom in ConfigLint().check(signals)}
    assert severities == {"batchnorm_of_one": "info", "no_step": "warn"}
