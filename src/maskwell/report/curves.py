"""Which charts a run's page has, and on which of its curves a finding stands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from maskwell.health.findings import Finding, Incident
from maskwell.report.charts import COLOURS, Band, Chart, Line, Mark
from maskwell.report.history import History, Series
from maskwell.report.run import Run

LOSS = "train/batch_loss"
EPOCH_LOSS = "train/epoch_avg_loss"
RATE = "train/learning_rate"
NORM = "train/grad_norm"

CURVES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("grad", "clip", "update", "noise"), NORM),
    (("rate", "lr", "schedule", "warm"), RATE),
    (("object", "target", "match"), "train/num_objects"),
    (("pseudo", "self_training"), "train/st_count"),
    (("gap", "overfit"), "val/loss"),
    (("rising", "constant", "plateau", "band"), EPOCH_LOSS),
)
"""Words in the name of a rule -> the curve that it looks at, where its finding names none itself."""


@dataclass(frozen=True)
class Section:
    """Charts under a heading."""

    title: str
    charts: tuple[Chart, ...]
    note: str = ""


def sections(run: Run) -> list[Section]:
    """All charts of a run, grouped; groups without a curve are left out."""
    marks = marks_by_curve(run)
    groups = (
        ("Losses", _losses(run, marks), _band_note(run)),
        ("Metrics of the validation", _metrics(run.history, marks), ""),
        ("Learning rates", _rates(run.history, marks), ""),
        ("Gradient norms", _norms(run.history, marks), "On a logarithmic axis."),
        ("Counts and shares", _facts(run.history, marks), ""),
    )
    until = float(run.history.length)
    found = [Section(t, tuple(replace(c, until=until) for c in charts), note) for t, charts, note in groups]
    return [section for section in found if section.charts]


def curve_of(finding: Finding, history: History) -> str | None:
    """The logged curve on which a finding stands; None where nothing of it was logged."""
    subject = finding.subject
    named = [subject, f"train/{subject}", f"val/{subject}", f"{NORM}/{subject}", f"{NORM}_{subject}"]
    named += [f"{RATE}_{subject}", *(name for key in finding.evidence for name in (key, f"train/{key}"))]
    for name in named if subject else named[6:]:
        if name in history:
            return name
    for words, curve in CURVES:
        if any(word in finding.rule for word in words):
            for name in history:
                if name == curve or name.startswith(f"{curve}_"):
                    return name
    return next((name for name in (LOSS, EPOCH_LOSS) if name in history), None)


def marks_by_curve(run: Run) -> dict[str, list[Mark]]:
    """Curve -> the findings that stand on it, numbered as on the page; all causes are on the loss too."""
    found: dict[str, list[Mark]] = {}
    for number, incident in enumerate(run.incidents, 1):
        curve = curve_of(incident.cause, run.history)
        for name in {curve, LOSS} - {None}:
            assert name is not None
            found.setdefault(name, []).append(_mark(number, incident))
    return found


def finding_chart(run: Run, number: int, incident: Incident) -> Chart | None:
    """The curve on which an incident stands, marked."""
    name = curve_of(incident.cause, run.history)
    if name is None:
        return None
    bands = _bands(run) if name in (LOSS, EPOCH_LOSS) else ()
    lines = [Line(_label(name), run.history[name])]
    mark = _mark(number, incident)
    log = _wide(run.history[name])
    return Chart(_label(name), lines, bands, [mark], log=log, until=float(run.history.length))


def _mark(number: int, incident: Incident) -> Mark:
    end = max(incident.first_step, incident.last_step)
    return Mark(max(1, incident.first_step), max(1, end), number, incident.severity, incident.cause.cause)


def _losses(run: Run, marks: dict[str, list[Mark]]) -> Iterable[Chart]:
    history = run.history
    total = [
        Line(label, history[name], colour)
        for colour, (name, label) in enumerate(
            (
                (LOSS, "training, each step"),
                (EPOCH_LOSS, "training, mean of an epoch"),
                ("val/loss", "validation"),
            ),
            1,
        )
        if name in history
    ]
    if total:
        log = _wide(total[0].series)
        yield Chart("Loss", total, _bands(run), marks.get(LOSS, []), log=log, note=_spread_note(total))
    for series in history.under("train/loss_"):
        lines = [Line("training", series, 1)]
        validation = history.get(series.name.replace("train/", "val/", 1))
        if validation is not None:
            lines.append(Line("validation", validation, 3))
        yield Chart(_label(series.name), lines, (), marks.get(series.name, []), log=_wide(series))


def _metrics(history: History, marks: dict[str, list[Mark]]) -> Iterable[Chart]:
    """One chart per figure; its parts (``iou/car``, ``pixel_error/k_1``) share another.

    A single validation makes no curve: its figures are in the table.
    """
    shown = [s for s in history.under("val/") if not s.name.startswith("val/loss") and len(s) > 1]
    groups: dict[str, list[Series]] = {}
    for series in shown:
        parts = series.name.split("/")
        groups.setdefault("/".join(parts[:2]) + "/" if len(parts) > 2 else series.name, []).append(series)
    for name, group in groups.items():
        if not name.endswith("/"):
            yield Chart(_label(name), [Line("validation", group[0], 3)], (), marks.get(name, []))
            continue
        # more classes than colours: those that end highest and lowest say most
        ordered = sorted(group, key=lambda series: -series.last)
        some = ordered if len(group) <= COLOURS else [*ordered[:3], *ordered[-3:]]
        lines = [Line(series.name.split("/", 2)[2], series, i) for i, series in enumerate(some, 1)]
        by = "part" if name.removesuffix("/") in groups else "class"
        note = "" if some is ordered else f"The three highest and lowest of {len(group)}."
        yield Chart(f"{_label(name.removesuffix('/'))} by {by}", lines, (), (), note=note)


def _rates(history: History, marks: dict[str, list[Mark]]) -> Iterable[Chart]:
    for series in history.under(RATE):
        yield Chart(_label(series.name), [Line(_label(series.name), series)], (), marks.get(series.name, []))


def _norms(history: History, marks: dict[str, list[Mark]]) -> Iterable[Chart]:
    for series in history.under(NORM):
        if "/" in series.name.removeprefix("train/") or series.name.startswith(f"{NORM}_clipped"):
            continue
        suffix = series.name.removeprefix(NORM)
        lines = [Line("before clipping", series, 1)]
        clipped = history.get(f"{NORM}_clipped{suffix}")
        if clipped is not None:
            lines.append(Line("after clipping", clipped, 2))
        yield Chart(_label(series.name), lines, (), marks.get(series.name, []), log=True)
        groups = history.under(f"{series.name}/")
        if groups:
            lines = [Line(s.name.split("/", 2)[2], s, i) for i, s in enumerate(groups[:COLOURS], 1)]
            yield Chart(f"{_label(series.name)} by group", lines, (), (), log=True)


def _facts(history: History, marks: dict[str, list[Mark]]) -> Iterable[Chart]:
    """What training counts: everything else of ``train/`` that moves."""
    known = ("train/loss_", RATE, NORM)
    skipped = (LOSS, EPOCH_LOSS, "train/epoch")
    for series in history.under("train/"):
        if series.name in skipped or series.name.startswith(known) or series.constant:
            continue
        yield Chart(_label(series.name), [Line("training", series, 1)], (), marks.get(series.name, []))


def _bands(run: Run) -> tuple[Band, ...]:
    """The expected loss of the run's own health rules, epoch by epoch."""
    starts = run.history.epoch_starts()
    rules = (run.config.get("health") or {}).get("rules") or {}
    bands = next((dict(rule.bands) for rule in rules.values() if rule and rule.get("bands")), {})
    due = sorted((int(epoch), tuple(band)) for epoch, band in bands.items() if int(epoch) in starts)
    ends = [*(starts[epoch] for epoch, _ in due[1:]), float(run.history.length)][: len(due)]
    return tuple(
        Band(starts[epoch], end, float(low), float(high))
        for (epoch, (low, high)), end in zip(due, ends, strict=True)
    )


def _band_note(run: Run) -> str:
    return "Shaded: what the family's field notes expect at that epoch (health rules)." if _bands(run) else ""


def _spread_note(lines: Sequence[Line]) -> str:
    many = any(len(line.series) > len(line.series.reduced()[0]) for line in lines)
    return "Line: mean of neighbouring steps; shade: their lowest and highest." if many else ""


def _wide(series: Series) -> bool:
    """Whether a series spans so much, without reaching 0, that only a logarithmic axis shows it."""
    _, mean, _, _ = series.reduced()
    known = mean[mean == mean]
    return bool(len(known)) and known.min() > 0 and known.max() / known.min() > 30


def _label(name: str) -> str:
    """``train/loss_giou`` -> ``loss_giou``: the name as in the log, without where it is from."""
    return name.removeprefix("train/").removeprefix("val/")
